"""Tables of Montango beside Tiled's, in the catalog's PostgreSQL database or in SQLite files of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import MetaData, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.schema import CreateSchema

from tiled_server.databases import BUSY_TIMEOUT_S

SCHEMA: Final = "montango"
"""Schema of the tables on PostgreSQL; SQLite has none."""
_POOL: Final = {"pool_size": 4, "max_overflow": 4}


def open_engine(uri: str | Path, *, derived: bool = False) -> AsyncEngine:
    """Return the engine of the tables.

    Parameters
    ----------
    uri
        ``postgresql://...``: the catalog's database; or the path of an SQLite file.
    derived
        The tables can be made anew: a file need not outlive a power failure with its last rows.
    """
    if isinstance(uri, str):
        url = make_url(uri).set(drivername="postgresql+asyncpg")
        return create_async_engine(url, pool_pre_ping=True, **_POOL)
    url = make_url("sqlite+aiosqlite://").set(database=str(uri))
    engine = create_async_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, **_POOL).execution_options(
        schema_translate_map={SCHEMA: None}
    )

    def set_pragmas(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        # readers go on while rows are written
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={'NORMAL' if derived else 'FULL'}")
        cursor.close()

    event.listen(engine.sync_engine, "connect", set_pragmas)
    return engine


class KeptTables:
    """Tables that people fill: made where they are missing, at their first use.

    Parameters
    ----------
    uri
        ``postgresql://...``: the catalog's database; or the path of an SQLite file.
    tables
        What they are.
    statements
        What else is done when they are made, by the name of the dialect.
    """

    def __init__(
        self, uri: str | Path, tables: MetaData, statements: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self._engine, self._tables, self._statements = open_engine(uri), tables, statements or {}
        self._ready = False

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Open a connection to ask with."""
        await self.prepare()
        async with self._engine.connect() as connection:
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction: all of it is kept, or nothing."""
        await self.prepare()
        async with self._engine.begin() as connection:
            yield connection

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    async def prepare(self) -> None:
        """Make the tables where they are missing; reading and writing do so first."""
        if self._ready:
            return
        dialect = self._engine.dialect.name
        async with self._engine.begin() as connection:
            if dialect == "postgresql":
                await connection.execute(CreateSchema(SCHEMA, if_not_exists=True))
            await connection.run_sync(self._tables.create_all)
            for statement in self._statements.get(dialect, ()):
                await connection.execute(text(statement))
        self._ready = True
