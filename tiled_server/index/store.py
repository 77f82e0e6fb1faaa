"""The database of the index: opened, its tables made, made anew after a change of the tables."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import CreateSchema

from tiled_server.index.schema import VERSION, about, metadata
from tiled_server.own_tables import SCHEMA, open_engine

_log = logging.getLogger(__name__)


class IndexStore:
    """The tables of the index in a database.

    Parameters
    ----------
    uri
        ``postgresql://...``: that of the catalog; or the path of an SQLite file.
    """

    def __init__(self, uri: str | Path) -> None:
        self._engine = open_engine(uri, derived=True)
        self.ready = False

    @property
    def dialect(self) -> str:
        """``postgresql`` or ``sqlite``."""
        return self._engine.dialect.name

    @property
    def pool(self) -> Any:
        """The pool of its connections."""
        return self._engine.sync_engine.pool

    async def prepare(self) -> bool:
        """Make the tables where they are missing or of another version; return whether they are new."""
        async with self._engine.begin() as connection:
            if self.dialect == "postgresql":
                await connection.execute(CreateSchema(SCHEMA, if_not_exists=True))
            made = await _version(connection) != VERSION
        if made:
            await self.reset()
        self.ready = True
        return made

    async def reset(self) -> None:
        """Drop the tables and make them anew, empty."""
        async with self._engine.begin() as connection:
            await connection.run_sync(metadata.drop_all)
            await connection.run_sync(metadata.create_all)
            await connection.execute(delete(about))
            await connection.execute(insert(about).values(name="version", value=VERSION))
        _log.info("the index was made anew (version %s)", VERSION)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Open a connection to ask with."""
        async with self._engine.connect() as connection:
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction: all of it is kept, or nothing."""
        async with self._engine.begin() as connection:
            yield connection

    async def close(self) -> None:
        """Close all connections."""
        self.ready = False
        await self._engine.dispose()


async def _version(connection: AsyncConnection) -> str | None:
    """Return the version of the tables that are there; None without any."""
    try:
        async with connection.begin_nested():
            found = await connection.scalar(select(about.c.value).where(about.c.name == "version"))
    except DBAPIError:
        return None
    return None if found is None else str(found)
