"""How long the raw data of a montage is kept: marks by people. Nothing is ever deleted by this program.

A mark is added and never changed; the newest of a montage holds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Column, Double, Index, Integer, MetaData, String, Table, Text, func, insert, select

from tiled_server.own_tables import SCHEMA, KeptTables


class Mark(StrEnum):
    """What is to become of raw data."""

    KEEP = "keep"
    UNTIL = "until"
    MAY_GO = "may-go"


_tables = MetaData(schema=SCHEMA)

marks = Table(
    "retention_marks",
    _tables,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("montage_id", Text, nullable=False),
    Column("time", Double, nullable=False),
    Column("author", Text, nullable=False),
    Column("principal", String(40)),
    Column("mark", String(10), nullable=False),
    Column("until", String(10)),
    Column("why", Text, nullable=False),
    Index("ix_retention_marks_montage_id", "montage_id", "id"),
)
"""A row a mark. ``until``: the last day on which raw data is kept, ISO 8601."""

SHOWN: Final = ("id", "montage_id", "time", "author", "mark", "until", "why")

Row = dict[str, Any]


def is_due(row: Mapping[str, Any], on: date) -> bool:
    """Return whether the raw data of a montage may go on a day, by its mark."""
    if row["mark"] == Mark.MAY_GO:
        return True
    return row["mark"] == Mark.UNTIL and date.fromisoformat(str(row["until"])) < on


class Marks(KeptTables):
    """The marks of all montages.

    Parameters
    ----------
    uri
        ``postgresql://...``: the catalog's database; or the path of an SQLite file.
    """

    def __init__(self, uri: str | Path) -> None:
        super().__init__(uri, _tables)

    async def add(
        self, montage_id: str, author: str, principal: str | None, mark: Mark, until: date | None, why: str
    ) -> Row:
        """Add a mark, and return it."""
        row = {
            "montage_id": montage_id,
            "time": time.time(),
            "author": author,
            "principal": principal,
            "mark": mark.value,
            "until": None if until is None else until.isoformat(),
            "why": why,
        }
        async with self.writing() as connection:
            made = await connection.execute(insert(marks).values(row))
        (number,) = made.inserted_primary_key or (0,)
        return {name: {**row, "id": number}[name] for name in SHOWN}

    async def of(self, montage_id: str) -> list[Row]:
        """Return all marks of a montage, the newest, which holds, first."""
        statement = self._shown().where(marks.c.montage_id == montage_id).order_by(marks.c.id.desc())
        async with self.reading() as connection:
            return [dict(one) for one in (await connection.execute(statement)).mappings()]

    async def holding(self) -> list[Row]:
        """Return the mark that holds of each montage that has one, by the montages' names."""
        newest = select(func.max(marks.c.id)).group_by(marks.c.montage_id)
        statement = self._shown().where(marks.c.id.in_(newest)).order_by(marks.c.montage_id)
        async with self.reading() as connection:
            return [dict(one) for one in (await connection.execute(statement)).mappings()]

    @staticmethod
    def _shown() -> Any:
        return select(*(marks.c[name] for name in SHOWN))
