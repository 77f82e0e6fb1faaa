"""Montango's own tables that cannot be made anew: notes and retention marks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Table, create_engine, func, insert, inspect, select, text

from tiled_server.access.notes import Notes, notes
from tiled_server.moving.sums import Compared, Sum, row_bytes
from tiled_server.operations.hook import MARKS_FILE
from tiled_server.operations.marks import Marks, marks
from tiled_server.own_tables import SCHEMA

_PAGE: Final = 2_000


class _Own(NamedTuple):
    file: str
    table: Table
    kept_by: type[Notes] | type[Marks]


TABLES: Final = (_Own("notes.db", notes, Notes), _Own(MARKS_FILE, marks, Marks))


class OwnTables:
    """The own tables of a state directory, on their way into PostgreSQL.

    Parameters
    ----------
    folder
        Where their SQLite files are; one that is not there has nothing.
    """

    def __init__(self, folder: Path) -> None:
        self._found = [(folder / one.file, one) for one in TABLES if (folder / one.file).is_file()]

    async def prepare(self, uri: str) -> None:
        """Make the tables in a database, where they are missing."""
        for _, one in self._found:
            keeper = one.kept_by(uri)
            try:
                await keeper.prepare()
            finally:
                await keeper.close()

    def is_fresh(self, target: Connection) -> bool:
        """Return whether the tables are empty in a database."""
        return not any(target.scalar(select(func.count()).select_from(one.table)) for _, one in self._found)

    def copy(self, target: Connection) -> int:
        """Copy every row, within the target's transaction; return how many."""
        count = 0
        for path, one in self._found:
            for page in _rows(path, one.table):
                target.execute(insert(one.table), page)
                count += len(page)
            last = target.scalar(select(func.max(one.table.c.id)))
            if last:
                target.execute(
                    text("SELECT setval(pg_get_serial_sequence(:table, 'id'), :last)"),
                    {"table": f"{SCHEMA}.{one.table.name}", "last": int(last)},
                )
        return count

    def compare(self, target: Connection) -> list[Compared]:
        """Return for each table what both databases have."""
        found = []
        for path, one in self._found:
            here = there = Sum()
            for page in _rows(path, one.table):
                here = here.plus(map(row_bytes, page))
            statement = select(one.table).execution_options(yield_per=_PAGE)
            for rows in target.execute(statement).mappings().partitions(_PAGE):
                there = there.plus(row_bytes(dict(row)) for row in rows)
            found.append(Compared(one.table.name, here, there))
        return found


def _rows(path: Path, table: Table) -> Iterator[Sequence[dict[str, Any]]]:
    engine = create_engine(f"sqlite:///file:{path}?mode=ro&uri=true").execution_options(
        schema_translate_map={SCHEMA: None}
    )
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table(table.name):
                return
            statement = select(table).order_by(table.c.id).execution_options(yield_per=_PAGE)
            for rows in connection.execute(statement).mappings().partitions(_PAGE):
                yield [dict(row) for row in rows]
    finally:
        engine.dispose()
