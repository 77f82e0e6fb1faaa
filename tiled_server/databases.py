"""Databases of the catalog: addresses without and with a password, whether they answer, their tables."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import create_async_engine

from devices.errors import ConfigurationError

CONNECT_TIMEOUT_S: Final = 10.0
BUSY_TIMEOUT_S: Final = 30
_TRY_AGAIN_S: Final = 0.5
_KEPT: Final = ("postgresql", "postgres")


def checked_uri(name: str, uri: str) -> str:
    """Return the address of a PostgreSQL database as Tiled takes it: without the name of a driver.

    Raises
    ------
    ConfigurationError
        It is none. The address itself is not in the message: it may hold a password.
    """
    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):
        url = URL.create("unknown")
    if url.drivername.split("+")[0] not in _KEPT or not url.database:
        raise ConfigurationError(
            f"{name} is not the address of a PostgreSQL database; give postgresql://USER@HOST:PORT/DATABASE, "
            f"and encode marks such as @ and / in a password (%40, %2F)"
        )
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def tables_uri(uri: str) -> str:
    """Return the address of a database of tables so that Tiled reads it right.

    Tiled 0.2.20 sends "None" as the password of a user without one, and a file of passwords is never read.
    """
    url = make_url(uri)
    if url.username and url.password is None:
        url = url._replace(username=None).update_query_dict({"user": url.username})
    return url.render_as_string(hide_password=False)


def shown(uri: str) -> str:
    """Return an address with stars for its password."""
    return make_url(uri).render_as_string(hide_password=True)


def check_reachable(name: str, uri: str, patience_s: float = 0.0) -> None:
    """See that a database answers and lets the user in.

    Parameters
    ----------
    name
        What it is, for the message.
    uri
        Its address.
    patience_s
        How long to try again while nothing answers there, s.

    Raises
    ------
    ConfigurationError
        It does not: one line with its address, without the password, and why.
    """
    deadline = time.monotonic() + patience_s
    while (error := asyncio.run(_connection_error(uri))) is not None:
        absent = isinstance(error, (OSError, TimeoutError))
        if not absent or time.monotonic() >= deadline:
            raise ConfigurationError(
                f"{name} {shown(uri)}: {_why(error, make_url(uri))}; see that PostgreSQL runs there, that "
                f"the database exists, and that user and password are right"
            )
        time.sleep(_TRY_AGAIN_S)


async def _connection_error(uri: str) -> Exception | None:
    import asyncpg

    try:
        connection = await asyncpg.connect(dsn=uri, timeout=CONNECT_TIMEOUT_S)
        await connection.close()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, ValueError) as error:
        return error
    return None


def has_catalog(uri: str) -> bool:
    """Return whether a PostgreSQL database that answers has the tables of a catalog."""
    import asyncpg

    async def ask() -> bool:
        connection = await asyncpg.connect(dsn=uri, timeout=CONNECT_TIMEOUT_S)
        try:
            return bool(await connection.fetchval("SELECT to_regclass('nodes') IS NOT NULL"))
        finally:
            await connection.close()

    return asyncio.run(ask())


def _why(error: Exception, url: URL) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_TIMEOUT_S:g} s"
    if isinstance(error, socket.gaierror):
        return f"host {url.host} is not known"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    words = str(error).strip().splitlines()
    text = words[0] if words else type(error).__name__
    return text.replace(url.password, "***") if url.password else text


def make_catalog(uri: str, *, where: str) -> None:
    """Make the catalog's tables in a database that has none.

    Raises
    ------
    ConfigurationError
        The tables are those of another version of Tiled, or cannot be made.
    """
    from sqlalchemy.exc import DBAPIError
    from tiled.alembic_utils import (
        DatabaseUpgradeNeeded,
        UninitializedDatabase,
        UnrecognizedDatabase,
        stamp_head,
    )
    from tiled.catalog.alembic_constants import ALEMBIC_DIR, ALEMBIC_INI_TEMPLATE_PATH
    from tiled.catalog.core import check_catalog_database, initialize_database
    from tiled.utils import ensure_specified_sql_driver

    full = ensure_specified_sql_driver(uri)

    async def make() -> bool:
        engine = create_async_engine(full)
        if engine.dialect.name == "postgresql":
            event.listen(engine.sync_engine, "before_cursor_execute", _bear_extension, retval=True)
        try:
            try:
                await check_catalog_database(engine)
            except UninitializedDatabase:
                await initialize_database(engine)
                return True
            return False
        finally:
            await engine.dispose()

    try:
        # stamping starts an event loop of its own
        if asyncio.run(make()):
            stamp_head(ALEMBIC_INI_TEMPLATE_PATH, ALEMBIC_DIR, full)
    except (DatabaseUpgradeNeeded, UnrecognizedDatabase) as error:
        raise ConfigurationError(
            f"{where} has tables of another version of Tiled ({' '.join(str(error).split())[:200]}); back it "
            f"up and upgrade it, or name another database"
        ) from None
    except DBAPIError as error:
        text = str(error.orig).splitlines()[0]
        raise ConfigurationError(
            f"{where}: the catalog's tables cannot be made ({text}); the user needs the right CREATE on the "
            f"database"
        ) from None


def _bear_extension(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> tuple[str, Any]:
    """Let an extension that the database's owner made already be."""
    bare, safe = "create extension btree_gin", "create extension if not exists btree_gin"
    return statement.replace(bare, safe), parameters


def make_sqlite(path: Path) -> None:
    """Make the catalog's tables in a new SQLite file; a half-made file never gets the final name."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    make_catalog(f"sqlite:///{fresh}", where=str(path))
    write_ahead(fresh)
    fresh.rename(path)


def write_ahead(path: Path) -> None:
    """Put an SQLite file into WAL mode, in which readers and writers do not keep each other waiting.

    Tiled 0.2.20 asks for it within a transaction, where SQLite does not do it.

    Raises
    ------
    ConfigurationError
        It is no such file, or another process holds it.
    """
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.Error as error:
        raise ConfigurationError(
            f"{path} cannot be used ({error}); end what holds it, or restore the catalog from a backup"
        ) from None
