"""What people write to a montage: kept beside the catalog, added to, never changed or removed."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Column, Double, Index, Integer, MetaData, String, Table, Text, insert, select

from tiled_server.own_tables import SCHEMA, KeptTables

LONGEST: Final = 10_000
_MOST_FOUND: Final = 1000

_tables = MetaData(schema=SCHEMA)

notes = Table(
    "notes",
    _tables,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("montage_id", Text, nullable=False),
    Column("time", Double, nullable=False),
    Column("author", Text, nullable=False),
    Column("principal", String(40)),
    Column("text", Text, nullable=False),
    Column("words", Text, nullable=False),
    Index("ix_notes_montage_id", "montage_id", "id"),
)
"""A row a note. ``principal`` is Tiled's uuid of the author, ``words`` the text in lower case."""

_KEPT: Final = {
    "sqlite": tuple(
        f"CREATE TRIGGER IF NOT EXISTS notes_kept_{verb.lower()} BEFORE {verb} ON notes "
        f"BEGIN SELECT RAISE(ABORT, 'notes are never changed'); END"
        for verb in ("UPDATE", "DELETE")
    ),
    "postgresql": (
        f"CREATE OR REPLACE FUNCTION {SCHEMA}.notes_kept() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION 'notes are never changed'; END $$",
        f"CREATE OR REPLACE TRIGGER notes_kept BEFORE UPDATE OR DELETE ON {SCHEMA}.notes "
        f"FOR EACH ROW EXECUTE FUNCTION {SCHEMA}.notes_kept()",
    ),
}

Note = dict[str, Any]


class Notes(KeptTables):
    """The notes on all montages.

    Parameters
    ----------
    uri
        ``postgresql://...``: the catalog's database; or the path of an SQLite file.
    """

    def __init__(self, uri: str | Path) -> None:
        super().__init__(uri, _tables, _KEPT)

    async def add(self, montage_id: str, author: str, principal: str | None, words: str) -> Note:
        """Add a note, and return it."""
        row = {
            "montage_id": montage_id,
            "time": time.time(),
            "author": author,
            "principal": principal,
            "text": words,
            "words": words.lower(),
        }
        async with self.writing() as connection:
            number = await connection.scalar(insert(notes).values(row).returning(notes.c.id))
        return {"id": number, **{name: row[name] for name in ("montage_id", "time", "author", "text")}}

    async def of(self, montage_id: str, after: int = 0, limit: int = 1000) -> list[Note]:
        """Return the notes on a montage, oldest first, those after an id."""
        shown = (notes.c.id, notes.c.montage_id, notes.c.time, notes.c.author, notes.c.text)
        statement = (
            select(*shown)
            .where(notes.c.montage_id == montage_id, notes.c.id > after)
            .order_by(notes.c.id)
            .limit(limit)
        )
        async with self.reading() as connection:
            return [dict(one) for one in (await connection.execute(statement)).mappings()]

    async def montages_with(self, word: str) -> Collection[str]:
        """Return the montages that have a word in a note, at most those of the newest thousand notes."""
        statement = (
            select(notes.c.montage_id)
            .where(notes.c.words.contains(word.lower(), autoescape=True))
            .order_by(notes.c.id.desc())
            .limit(_MOST_FOUND)
        )
        async with self.reading() as connection:
            return set((await connection.execute(statement)).scalars())
