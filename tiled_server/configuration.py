"""What a Montango catalog server is made of: databases, folders it may read, key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from devices.errors import ConfigurationError
from tiled_server.databases import checked_uri, tables_uri

API_KEY_VARIABLE: Final = "TILED_SINGLE_USER_API_KEY"
READABLE_VARIABLE: Final = "MONTANGO_TILED_READABLE"
DATABASE_VARIABLE: Final = "MONTANGO_TILED_DATABASE"
TABLES_VARIABLE: Final = "MONTANGO_TILED_TABLES"


@dataclass(frozen=True, slots=True)
class CatalogServer:
    """Where one catalog server keeps its things.

    Parameters
    ----------
    state_dir
        The lab's state directory; the catalog lies in its ``catalog`` folder.
    readable
        Folders whose files the server may read; an asset elsewhere is refused.
    api_key
        The key that clients must show.
    database_uri
        Database of the catalog; None for SQLite in the state directory.
    table_uri
        Database of the tables of events; None for SQLite in the state directory.
    """

    state_dir: Path
    readable: tuple[Path, ...]
    api_key: str
    database_uri: str | None = None
    table_uri: str | None = None

    @property
    def folder(self) -> Path:
        """The folder of the databases and of internal arrays."""
        return self.state_dir / "catalog"

    @property
    def run_folder(self) -> Path:
        """The folder of the port and lock files."""
        return self.state_dir / "run"

    @property
    def sqlite_path(self) -> Path | None:
        """The catalog's SQLite file, None for a catalog elsewhere."""
        return None if self.database_uri else self.folder / "catalog.db"

    def tiled_config(self) -> dict[str, Any]:
        """Return the configuration of the Tiled service."""
        return {
            "catalog": {
                "uri": self.database_uri or f"sqlite:///{self.sqlite_path}",
                "specs": [{"name": "CatalogOfBlueskyRuns", "version": "3.0"}],
                "writable_storage": [
                    str(self.folder / "arrays"),
                    (tables_uri(self.table_uri) if self.table_uri else None)
                    or f"sqlite:///{self.folder / 'tables.db'}",
                ],
                "readable_storage": [str(folder) for folder in self.readable],
                "adapters_by_mimetype": {"application/x-hdf5": "tiled_server.frames:FrameFileAdapter"},
                # the tables are made before, in this process: Tiled would start another Python for it, with
                # the database's password in the list of processes
                "init_if_not_exists": False,
            },
            # what run.documents() of the standard client asks for
            "media_types": {
                "BlueskyRun": {"application/json-seq": "bluesky_tiled_plugins.exporters:json_seq_exporter"}
            },
            "authentication": {"single_user_api_key": self.api_key, "allow_anonymous_access": False},
            # Tiled 0.2.20 let a crafted path out of the readable folders through this endpoint
            "expose_raw_assets": False,
        }


def from_environment(
    state_dir: Path,
    readable: list[Path],
    database_uri: str | None = None,
    table_uri: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> CatalogServer:
    """Return the server of a state directory, with key, folders and databases from the environment.

    Raises
    ------
    ConfigurationError
        There is no usable key, a folder is missing, the state directory cannot be written, or the address of
        a database is none.
    """
    api_key = environment.get(API_KEY_VARIABLE, "")
    if not api_key.isalnum() or not api_key.isascii():
        raise ConfigurationError(
            f"{API_KEY_VARIABLE} is {'not made of letters and digits' if api_key else 'not set'}: the "
            f"catalog is never served without a key; set it, for example to that of: openssl rand -hex 32"
        )
    folders = [
        *readable,
        *(Path(part) for part in environment.get(READABLE_VARIABLE, "").split(os.pathsep) if part),
    ]
    server = CatalogServer(
        state_dir.resolve(),
        tuple(folder.resolve() for folder in folders) or (state_dir.resolve() / "data",),
        api_key,
        _database("--database", database_uri or environment.get(DATABASE_VARIABLE)),
        _database("--tables", table_uri or environment.get(TABLES_VARIABLE)),
    )
    try:
        for folder in (server.folder / "arrays", server.run_folder):
            folder.mkdir(parents=True, exist_ok=True)
        if not folders:
            server.readable[0].mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"state directory {state_dir} cannot be written ({error.strerror}); give another with "
            f"--state-dir, or mend its permissions"
        ) from error
    for folder in server.readable:
        if not folder.is_dir():
            raise ConfigurationError(
                f"--readable {folder} is not a folder; give a folder that holds data files"
            )
    return server


def _database(name: str, uri: str | None) -> str | None:
    return checked_uri(name, uri) if uri else None
