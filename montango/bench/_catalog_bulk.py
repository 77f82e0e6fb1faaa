"""Databases written in bulk: PostgreSQL by COPY, SQLite in one transaction a table."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

Row = dict[str, Any]


class Bulk(Protocol):
    """A database."""

    def rows(self, statement: str) -> list[Row]:
        """Return the rows of a SELECT."""
        ...

    def insert(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Add rows to a table, ``schema.table`` or ``table``."""
        ...

    def execute(self, statement: str) -> None:
        """Execute a statement without rows."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class SqliteBulk:
    """An SQLite file; schemas are left out of the names of tables."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA synchronous=OFF")
        self._connection.execute("PRAGMA cache_size=-200000")

    def rows(self, statement: str) -> list[Row]:
        """Return the rows of a SELECT."""
        return [dict(one) for one in self._connection.execute(statement)]

    def insert(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Add rows to a table."""
        names, marks = ", ".join(f'"{one}"' for one in columns), ", ".join("?" * len(columns))
        self._connection.execute("BEGIN")
        statement = f'INSERT INTO "{table.rpartition(".")[2]}" ({names}) VALUES ({marks})'
        self._connection.executemany(statement, (tuple(map(_stored, row)) for row in rows))
        self._connection.execute("COMMIT")

    def execute(self, statement: str) -> None:
        """Execute a statement without rows."""
        self._connection.execute(statement)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _stored(value: Any) -> Any:
    return value.isoformat(" ") if isinstance(value, datetime) else value


class PostgresBulk:
    """A PostgreSQL database."""

    def __init__(self, uri: str) -> None:
        import asyncpg

        self._loop = asyncio.new_event_loop()
        self._connection: Any = self._loop.run_until_complete(asyncpg.connect(uri))

    def rows(self, statement: str) -> list[Row]:
        """Return the rows of a SELECT."""
        return [dict(one) for one in self._loop.run_until_complete(self._connection.fetch(statement))]

    def insert(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Add rows to a table."""
        schema, _, name = table.rpartition(".")
        self._loop.run_until_complete(
            self._connection.copy_records_to_table(
                name, schema_name=schema or None, columns=list(columns), records=map(tuple, rows)
            )
        )

    def execute(self, statement: str) -> None:
        """Execute a statement without rows."""
        self._loop.run_until_complete(self._connection.execute(statement))

    def close(self) -> None:
        """Close the connection."""
        self._loop.run_until_complete(self._connection.close())
        self._loop.close()
