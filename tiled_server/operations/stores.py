"""Where the things of a catalog lie, and engines to ask them with."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from tiled_server.configuration import DATABASE_VARIABLE, TABLES_VARIABLE
from tiled_server.databases import BUSY_TIMEOUT_S, checked_uri

RUNS: Final = "select count(*) from nodes where parent = 0"
ENDED: Final = {
    "sqlite": "select key from nodes where parent = 0 and json_type(metadata, '$.stop') = 'object'",
    "postgresql": "select key from nodes where parent = 0 and jsonb_typeof(metadata->'stop') = 'object'",
}
"""How many runs a catalog has, and the uids of those that have ended, by the kind of its database."""

CATALOG, TABLES, ARRAYS, INDEX = "catalog.db", "tables.db", "arrays", "index.db"


@dataclass(frozen=True, slots=True)
class Stores:
    """The things of one catalog.

    Parameters
    ----------
    state_dir
        The lab's state directory.
    database
        Address of the catalog's database; None for SQLite in the state directory.
    tables
        Address of the database of tables of events; None for SQLite in the state directory.
    """

    state_dir: Path
    database: str | None = None
    tables: str | None = None

    @classmethod
    def of(
        cls,
        state_dir: Path,
        database: str | None = None,
        tables: str | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> Stores:
        """Return the things of a state directory; the server's variables come before what is given.

        Raises
        ------
        ConfigurationError
            An address is none of a PostgreSQL database.
        """
        database = environment.get(DATABASE_VARIABLE) or database
        tables = environment.get(TABLES_VARIABLE) or tables
        return cls(
            state_dir.expanduser().resolve(),
            checked_uri("services.tiled.database", database) if database else None,
            checked_uri("services.tiled.tables", tables) if tables else None,
        )

    @property
    def folder(self) -> Path:
        """The folder of SQLite files and of arrays that the catalog keeps itself."""
        return self.state_dir / "catalog"

    @property
    def arrays(self) -> Path:
        """The folder of arrays that the catalog keeps itself."""
        return self.folder / ARRAYS

    @property
    def run_folder(self) -> Path:
        """The folder of the server's lock."""
        return self.state_dir / "run"

    @property
    def journal(self) -> Path:
        """The journal."""
        return self.state_dir / "journal"

    @property
    def catalog_address(self) -> str | Path:
        """The catalog: the address of a PostgreSQL database, or an SQLite file."""
        return self.database or self.folder / CATALOG

    @property
    def tables_address(self) -> str | Path:
        """The tables of events: the address of a PostgreSQL database, or an SQLite file."""
        return self.tables or self.folder / TABLES

    def sqlite_files(self) -> list[Path]:
        """Return the SQLite files that the catalog uses, the catalog's own first."""
        unused = {name for name, uri in ((CATALOG, self.database), (TABLES, self.tables)) if uri}
        if self.database:
            unused.add(INDEX)
        found = [path for path in sorted(self.folder.glob("*.db")) if path.name not in unused]
        return sorted(found, key=lambda path: path.name != CATALOG)

    def postgres(self) -> dict[str, str]:
        """Return the addresses of PostgreSQL databases: `catalog` (and its tables), `tables` (apart)."""
        found = {}
        if self.database:
            found["catalog"] = self.database
        if self.tables and not (self.database and same_database(self.database, self.tables)):
            found["tables"] = self.tables
        return found


def same_database(first: str, second: str) -> bool:
    """Return whether two addresses are of one database, whoever asks."""
    places = []
    for uri in (first, second):
        url = make_url(uri)
        host = url.host or url.query.get("host")
        places.append((host, url.port or url.query.get("port") or 5432, url.database))
    return places[0] == places[1]


@asynccontextmanager
async def asking(
    address: str | Path, *, writing: bool = False, moment: bool = False
) -> AsyncIterator[AsyncConnection]:
    """Open a database for one job: a transaction that is kept where it writes, and read only otherwise.

    Parameters
    ----------
    address
        Of a PostgreSQL database, or an SQLite file.
    writing
        Whether it is written to.
    moment
        See all of it as it is at the first question; PostgreSQL always does. Of an SQLite file that is not
        in WAL mode, writers wait meanwhile.
    """
    engine = create_async_engine(_url(address, writing=writing))
    if isinstance(address, str) and not writing:
        engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    try:
        if writing:
            async with engine.begin() as connection:
                yield connection
        else:
            async with engine.connect() as connection:
                if moment and isinstance(address, Path):
                    await connection.exec_driver_sql("BEGIN")
                yield connection
    finally:
        await engine.dispose()


def _url(address: str | Path, *, writing: bool) -> URL:
    if isinstance(address, str):
        return make_url(address).set(drivername="postgresql+asyncpg")
    mode = "rw" if writing else "ro"
    return make_url("sqlite+aiosqlite://").set(
        database=f"file:{quote(str(address))}",
        query={"mode": mode, "uri": "true", "timeout": str(BUSY_TIMEOUT_S)},
    )
