"""The catalog of a lab, from the SQLite files of its state directory into PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from tiled.server.connection_pool import json_serializer
from tiled.storage import parse_storage
from tiled.structures.table import TableStructure
from tiled.utils import ensure_specified_sql_driver

from devices.errors import ConfigurationError, MontangoError
from tiled_server.databases import check_reachable, checked_uri, make_catalog, shown
from tiled_server.moving.catalog_rows import compare_rows, copy_rows, is_fresh, table_schemas
from tiled_server.moving.event_tables import EventTables, stored_address
from tiled_server.moving.own_tables import OwnTables
from tiled_server.moving.sums import Compared
from tiled_server.sockets import lock_state

_PATIENCE_S: Final = 7.0

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration did.

    Attributes
    ----------
    rows, events
        Rows of the catalog, and of the tables of events, that were copied; 0 where they were there already.
    compared
        Each table as it is here and there.
    """

    rows: int
    events: int
    compared: tuple[Compared, ...]

    @property
    def equal(self) -> bool:
        """Whether every table has the same rows in both databases."""
        return all(one.equal for one in self.compared)


def migrate(state_dir: Path, database: str, tables: str, report: Report = lambda _: None) -> Migrated:
    """Copy the catalog of a state directory into PostgreSQL, and compare every row of both.

    The files stay as they are. Rows of the catalog are copied in one transaction, each table of events in one
    of its own: done again after an interruption it goes on, and when all is there it only compares.

    Parameters
    ----------
    state_dir
        The lab's state directory; no server may run on it.
    database, tables
        Addresses of PostgreSQL for the catalog and for the tables of events; they may be the same.
    report
        Told what is done next.

    Raises
    ------
    ConfigurationError
        There is no catalog, a server runs on it, an address does not answer, or a database has another
        catalog already.
    MontangoError
        A row cannot be kept in PostgreSQL.
    """
    folder = state_dir.resolve() / "catalog"
    source = folder / "catalog.db"
    if not source.is_file():
        raise ConfigurationError(f"there is no catalog {source}; name the lab's state directory with --state")
    database, tables = checked_uri("--to", database), checked_uri("--tables", tables)
    with lock_state(state_dir.resolve() / "run"):
        for name, uri in (("--to", database), ("--tables", tables)):
            check_reachable(name, uri, _PATIENCE_S)
        make_catalog(f"sqlite:///{source}", where=str(source))
        make_catalog(database, where=shown(database))
        return _Migration(source, folder / "tables.db", database, tables, report).run()


class _Migration:
    def __init__(self, source: Path, events: Path, database: str, tables: str, report: Report) -> None:
        self._source, self._events = source, events
        self._database, self._tables = database, tables
        self._report = report
        self._own = OwnTables(source.parent)

    def run(self) -> Migrated:
        engine = _reading(self._source)
        try:
            with engine.connect() as connection:
                return asyncio.run(self._with_target(connection))
        finally:
            engine.dispose()

    async def _with_target(self, source: Connection) -> Migrated:
        engine = create_async_engine(
            ensure_specified_sql_driver(self._database), json_serializer=json_serializer
        )
        try:
            await self._own.prepare(self._database)
            async with engine.begin() as target:
                return await target.run_sync(lambda connection: self._work(source, connection))
        except DBAPIError as error:
            why = str(error.orig).splitlines()[0]
            raise MontangoError(
                f"{shown(self._database)} does not take the catalog ({why}); it is as it was before"
            ) from error
        finally:
            await engine.dispose()

    def _work(self, source: Connection, target: Connection) -> Migrated:
        events, renamed = self._event_tables(source)
        rows = copied = 0
        if is_fresh(target):
            self._report("copying tables of events")
            copied = events.copy()
            self._report(f"{copied} rows of events; copying the catalog")
            rows = copy_rows(source, target, renamed)
            if not self._own.is_fresh(target):
                raise ConfigurationError(
                    f"{shown(self._database)} has notes or marks of another catalog; name an empty database"
                )
            rows += self._own.copy(target)
            self._report(f"{rows} rows of the catalog; comparing")
        else:
            self._report(f"{shown(self._database)} has a catalog already; comparing")
        compared = (
            *compare_rows(source, target, renamed),
            *self._own.compare(target),
            *self._compared(events, rows),
        )
        if not rows and not all(one.equal for one in compared):
            first = next(one for one in compared if not one.equal)
            raise ConfigurationError(
                f"{shown(self._database)} has another catalog ({first}); name an empty database"
            )
        if not all(one.equal for one in compared):
            target.rollback()
        return Migrated(rows, copied, compared)

    def _compared(self, events: EventTables, rows: int) -> list[Compared]:
        try:
            return events.compare()
        except Exception as error:
            if rows:
                raise
            raise ConfigurationError(
                f"{shown(self._tables)} does not have the tables of events of this catalog "
                f"({str(error).splitlines()[0]}); name the database that has, or an empty one"
            ) from error

    def _event_tables(self, source: Connection) -> tuple[EventTables, dict[str, str]]:
        found = table_schemas(source)
        here = str(parse_storage(f"sqlite:///{self._events}").uri)
        elsewhere = {uri for one in found.values() for uri in one["addresses"]} - {here}
        if elsewhere:
            raise ConfigurationError(
                f"tables of events of this catalog lie in {shown(min(elsewhere))} and not in {self._events}; "
                f"they cannot be moved with it"
            )
        schemas = {
            name: TableStructure.from_json(one["structure"]).arrow_schema_decoded
            for name, one in found.items()
        }
        events = EventTables(self._events, self._tables, schemas)
        return events, {here: stored_address(self._tables)}


def _reading(path: Path) -> Engine:
    """Return an SQLite file opened to be read only."""
    engine = create_engine(f"sqlite:///file:{path}?mode=ro&uri=true")
    event.listen(engine, "connect", _one_moment)
    return engine


def _one_moment(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA query_only=ON")
