"""Tables of events, from Tiled's SQLite file into PostgreSQL.

Tiled keeps the events of all streams that have the same columns in one table, with the number of the dataset
in front; the nodes of the catalog have that number and the table's name.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from tiled.adapters.sql import arrow_schema_to_create_table
from tiled.storage import parse_storage

from devices.errors import ConfigurationError
from tiled_server.databases import shown, tables_uri
from tiled_server.moving.sums import Compared, Sum, values_bytes

_PAGE: Final = 10_000
_COUNTER: Final = "_dataset_id_counter"
_OWN: Final = (pa.field("_dataset_id", pa.int32()), pa.field("_partition_id", pa.int16()))

Schemas = Mapping[str, pa.Schema]
"""Columns of the tables by the table's name, as the catalog describes them."""


def stored_address(uri: str) -> str:
    """Return the address of a database of tables as Tiled writes it to the catalog: without password."""
    return str(parse_storage(tables_uri(uri)).uri)


class EventTables:
    """The tables of events of one catalog, on their way.

    Parameters
    ----------
    source
        Tiled's SQLite file of tables.
    target
        Address of the PostgreSQL database.
    schemas
        The tables that the catalog names, and their columns.
    """

    def __init__(self, source: Path, target: str, schemas: Schemas) -> None:
        self._source, self._target = source, target
        self._schemas = {name: _stored(schema) for name, schema in sorted(schemas.items())}

    def copy(self) -> int:
        """Copy every table, each with all of its rows or not at all; return how many rows.

        A table that an interrupted copy of the same file has left is not copied again.

        Raises
        ------
        ConfigurationError
            There is a table of that name that comes from elsewhere.
        """
        rows = 0
        with closing(self._connect()) as target, closing(self._open()) as source:
            for name, schema in self._schemas.items():
                if not self._left(target, name):
                    rows += self._copy_one(source, target, name, schema)
            self._copy_counter(source, target)
        return rows

    def compare(self) -> list[Compared]:
        """Return for each table what both databases have."""
        found = []
        with closing(self._connect()) as target, closing(self._open()) as source:
            for name, schema in self._schemas.items():
                here = there = Sum()
                for page in _pages(source, name, schema):
                    here = here.plus(_rows(page))
                with target.cursor() as cursor:
                    cursor.execute(f'SELECT {_columns(schema)} FROM "{name}"')
                    for batch in cursor.fetch_record_batch():
                        there = there.plus(_rows(pa.Table.from_batches([batch]).cast(schema)))
                found.append(Compared(f"events {name}", here, there))
        return found

    def _connect(self) -> Any:
        return parse_storage(tables_uri(self._target)).create_adbc_connection()

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{self._source.as_uri()}?mode=ro", uri=True)

    def _left(self, target: Any, name: str) -> bool:
        """Return whether a table is there already, from an earlier copy of this file."""
        with target.cursor() as cursor:
            cursor.execute("SELECT to_regclass($1) IS NOT NULL", (f'"{name}"',))
            if not cursor.fetchone()[0]:
                return False
            cursor.execute("SELECT obj_description(to_regclass($1), 'pg_class')", (f'"{name}"',))
            if cursor.fetchone()[0] == self._mark:
                return True
        raise ConfigurationError(
            f"{shown(self._target)} has a table {name} of another catalog; name an empty database"
        )

    @property
    def _mark(self) -> str:
        return f"montango: from {self._source.resolve()}".replace("'", "")

    def _copy_one(self, source: sqlite3.Connection, target: Any, name: str, schema: pa.Schema) -> int:
        count = 0
        with target.cursor() as cursor:
            cursor.execute(arrow_schema_to_create_table(schema, name, "postgresql"))
            # Tiled makes this index under one name, which only one table of a database can have
            cursor.execute(f'CREATE INDEX "{name}_dataset" ON "{name}"(_dataset_id, _partition_id)')
            cursor.execute(f"COMMENT ON TABLE \"{name}\" IS '{self._mark}'")
            for page in _pages(source, name, schema):
                cursor.adbc_ingest(name, page, mode="append")
                count += len(page)
        target.commit()
        return count

    def _copy_counter(self, source: sqlite3.Connection, target: Any) -> None:
        """Let new datasets get numbers that none has."""
        try:
            last = source.execute(f"SELECT value FROM {_COUNTER}").fetchone()
        except sqlite3.OperationalError:  # no table was ever made
            last = None
        with target.cursor() as cursor:
            cursor.execute(f"CREATE SEQUENCE IF NOT EXISTS {_COUNTER}")
            if last is not None and last[0] > 0:
                cursor.execute(
                    f"SELECT setval('{_COUNTER}', greatest({int(last[0])}, last_value)) FROM {_COUNTER}"
                )
        target.commit()


def _stored(schema: pa.Schema) -> pa.Schema:
    """Return the columns as they are in the database: Tiled's own first, names in lower case."""
    fields = [field.with_name(field.name.lower()) for field in schema]
    return pa.schema([*_OWN, *fields])


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f'"{name}"' for name in schema.names)


def _pages(source: sqlite3.Connection, name: str, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of a table in the order in which they were written."""
    cursor = source.execute(f'SELECT {_columns(schema)} FROM "{name}" ORDER BY rowid')
    while rows := cursor.fetchmany(_PAGE):
        columns = zip(*rows, strict=True)
        yield pa.table(
            [_array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema=schema
        )


def _array(values: tuple[Any, ...], kind: pa.DataType) -> pa.Array:
    if pa.types.is_boolean(kind):  # SQLite has numbers instead
        return pa.array([None if one is None else bool(one) for one in values], kind)
    return pa.array(values, kind)


def _rows(page: pa.Table) -> Iterator[bytes]:
    yield from values_bytes([column.to_pylist() for column in page.columns])
