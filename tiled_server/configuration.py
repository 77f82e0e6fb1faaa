"""What a Montango catalog server is made of: databases, folders it may read, key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from devices.errors import ConfigurationError
from tiled_server.access.accounts import lab_secret, signing_key
from tiled_server.access.source import AccessSource
from tiled_server.databases import checked_uri, tables_uri
from tiled_server.mimetypes import HDF5, SQL_TABLE

API_KEY_VARIABLE: Final = "TILED_SINGLE_USER_API_KEY"
READABLE_VARIABLE: Final = "MONTANGO_TILED_READABLE"
DATABASE_VARIABLE: Final = "MONTANGO_TILED_DATABASE"
TABLES_VARIABLE: Final = "MONTANGO_TILED_TABLES"
ACCESS_VARIABLE: Final = "MONTANGO_TILED_ACCESS"
MONGO_VARIABLE: Final = "MONTANGO_TILED_MONGO"


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
    access
        People and proposals; None: whoever has the key may do everything.
    mongo_uri
        MongoDB whose runs are served beside the catalog's own; None for none.
    """

    state_dir: Path
    readable: tuple[Path, ...]
    api_key: str
    database_uri: str | None = None
    table_uri: str | None = None
    access: AccessSource | None = None
    mongo_uri: str | None = None

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

    @property
    def accounts_path(self) -> Path:
        """The SQLite file of accounts and keys, where they have no database of their own."""
        return self.folder / "accounts.db"

    @property
    def accounts_uri(self) -> str | None:
        """The database of accounts and keys; None without people."""
        if self.access is None:
            return None
        return self.access.authentication.database or f"sqlite:///{self.accounts_path}"

    @property
    def secret(self) -> str:
        """The secret that signs tokens and ids of files; it is the same after a restart."""
        return signing_key(self.folder / "secret")

    def describe_access(self) -> str:
        """Return in one line who may do what."""
        if self.access is None:
            return "single user: whoever has the key may read and write everything"
        return f"several users: {self.access.describe()}"

    def tiled_config(self) -> dict[str, Any]:
        """Return the configuration of the Tiled service."""
        return {**self._tree_config(), **self._access_config()}

    def _access_config(self) -> dict[str, Any]:
        if self.access is None:
            return {
                "authentication": {"single_user_api_key": self.api_key, "allow_anonymous_access": False},
                "access_control": {"access_policy": "tiled_server.access.policy:KeyPolicy", "args": {}},
            }
        how = self.access.authentication
        providers = [
            {"provider": one.name, "authenticator": one.class_name, "args": dict(one.args)}
            for one in how.providers
        ]
        return {
            "authentication": {
                "providers": providers,
                "secret_keys": [self.secret],
                "allow_anonymous_access": how.anonymous,
                "access_token_max_age": timedelta(minutes=how.token_minutes),
                "refresh_token_max_age": timedelta(days=how.session_days),
                "session_max_age": timedelta(days=how.session_days),
            },
            "database": {"uri": self.accounts_uri, "init_if_not_exists": False},
            "access_control": {
                "access_policy": "tiled_server.access.policy:ProposalPolicy",
                "args": {"source": self.access},
            },
        }

    def _tree_config(self) -> dict[str, Any]:
        catalog = {
            "uri": self.database_uri or f"sqlite:///{self.sqlite_path}",
            "specs": [{"name": "CatalogOfBlueskyRuns", "version": "3.0"}],
            "writable_storage": [
                str(self.folder / "arrays"),
                (tables_uri(self.table_uri) if self.table_uri else None)
                or f"sqlite:///{self.folder / 'tables.db'}",
            ],
            "readable_storage": [str(folder) for folder in self.readable],
            "adapters_by_mimetype": {
                HDF5: "tiled_server.frames:FrameFileAdapter",
                SQL_TABLE: "tiled_server.tables:EventTableAdapter",
                "application/x-montango-frame-list": "tiled_server.ingest.adapter:FrameListAdapter",
            },
            # the tables are made before, in this process: Tiled would start another Python for it, with
            # the database's password in the list of processes
            "init_if_not_exists": False,
        }
        by_proposal = {"path": "/", "tree": "tiled_server.access.tree:runs_from_uri", "args": catalog}
        return {
            **({"catalog": catalog} if self.access is None else {"trees": [by_proposal]}),
            # what run.documents() of the standard client asks for
            "media_types": {"BlueskyRun": {"application/json-seq": "tiled_server.access.documents:json_seq"}},
            # Tiled 0.2.20 let a crafted path out of the readable folders through this endpoint
            "expose_raw_assets": False,
        }


def from_environment(
    state_dir: Path,
    readable: list[Path],
    database_uri: str | None = None,
    table_uri: str | None = None,
    environment: Mapping[str, str] = os.environ,
    access: Path | None = None,
) -> CatalogServer:
    """Return the server of a state directory, with key, folders, databases and people from the environment.

    Raises
    ------
    ConfigurationError
        There is no usable key, a folder is missing, the state directory cannot be written, the address of a
        database is none, or the file of people is wrong.
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
        _access(access or environment.get(ACCESS_VARIABLE), api_key, environment),
        _mongo(environment.get(MONGO_VARIABLE)),
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


def _access(path: Path | str | None, api_key: str, environment: Mapping[str, str]) -> AccessSource | None:
    """Return people and proposals of a file; None without one.

    Raises
    ------
    ConfigurationError
        The file is wrong, its database is none, or the key cannot be that of a service.
    """
    if not path:
        return None
    source = AccessSource(Path(path).resolve(), environment)
    lab_secret(api_key)
    if source.authentication.database is not None:
        checked_uri(f"{source.path}: authentication.database", source.authentication.database)
    return source


def _mongo(uri: str | None) -> str | None:
    if not uri:
        return None
    from tiled_server.mongo.addresses import checked_mongo

    return checked_mongo(MONGO_VARIABLE, uri)


def _database(name: str, uri: str | None) -> str | None:
    return checked_uri(name, uri) if uri else None
