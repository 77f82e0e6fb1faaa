"""What a catalog has: read from its own tables, some runs at a time, whether or not a server runs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import JSON, column, inspect, select, table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from tiled_server.mimetypes import SQL_TABLE

_BLOCK: Final = 100
_NODES: Final = table(
    "nodes",
    column("id"),
    column("parent"),
    column("key"),
    column("structure_family"),
    column("metadata", JSON),
)
_SOURCES: Final = table(
    "data_sources",
    column("id"),
    column("node_id"),
    column("structure_id"),
    column("mimetype"),
    column("parameters", JSON),
)
_STRUCTURES: Final = table("structures", column("id"), column("structure", JSON))
_LINKS: Final = table("data_source_asset_association", column("data_source_id"), column("asset_id"))
_ASSETS: Final = table("assets", column("id"), column("data_uri"))

_SAFE: Final = re.compile(r"[a-z][a-z0-9_]*")
_OWN: Final = "internal"


@dataclass(slots=True)
class Part:
    """An array or a table of a stream.

    Attributes
    ----------
    name
        Its key in the stream.
    mimetype, parameters
        How it is read.
    length
        Of an array along its first axis; of a table None: `Tables` counts its rows.
    files
        Addresses of its files, folders or databases.
    """

    name: str
    mimetype: str
    parameters: Mapping[str, Any]
    length: int | None
    files: list[str] = field(default_factory=list)

    @property
    def rows(self) -> tuple[str, int] | None:
        """The table of SQL and the number in it by which its rows are known."""
        if self.mimetype != SQL_TABLE:
            return None
        return str(self.parameters.get("table_name")), int(self.parameters.get("dataset_id", -1))


@dataclass(slots=True)
class CatalogRun:
    """A run in the catalog: documents, and the parts of its streams by the streams' names."""

    uid: str
    start: Mapping[str, Any]
    stop: Mapping[str, Any]
    streams: dict[str, list[Part]] = field(default_factory=dict)


async def catalog_runs(connection: AsyncConnection) -> AsyncIterator[CatalogRun]:
    """Yield the runs of a catalog, in the order in which they were added."""
    last = 0
    while True:
        statement = (
            select(_NODES.c.id, _NODES.c.key, _NODES.c.metadata)
            .where(_NODES.c.parent == 0, _NODES.c.id > last)
            .order_by(_NODES.c.id)
            .limit(_BLOCK)
        )
        rows = (await connection.execute(statement)).all()
        if not rows:
            return
        last = rows[-1][0]
        found = {
            number: CatalogRun(key, (facts or {}).get("start") or {}, (facts or {}).get("stop") or {})
            for number, key, facts in rows
        }
        await _add_streams(connection, found)
        for run in found.values():
            yield run


async def _add_streams(connection: AsyncConnection, runs: Mapping[int, CatalogRun]) -> None:
    statement = select(_NODES.c.id, _NODES.c.parent, _NODES.c.key).where(_NODES.c.parent.in_(list(runs)))
    streams = {}
    for number, parent, key in await connection.execute(statement):
        streams[number] = runs[parent].streams.setdefault(key, [])
    numbers = list(streams)
    for first in range(0, len(numbers), _BLOCK):
        await _add_parts(connection, streams, numbers[first : first + _BLOCK])


async def _add_parts(
    connection: AsyncConnection, streams: Mapping[int, list[Part]], numbers: Sequence[int]
) -> None:
    statement = (
        select(
            _NODES.c.id,
            _NODES.c.parent,
            _NODES.c.key,
            _SOURCES.c.mimetype,
            _SOURCES.c.parameters,
            _STRUCTURES.c.structure,
            _ASSETS.c.data_uri,
        )
        .join(_SOURCES, _SOURCES.c.node_id == _NODES.c.id)
        .join(_STRUCTURES, _STRUCTURES.c.id == _SOURCES.c.structure_id, isouter=True)
        .join(_LINKS, _LINKS.c.data_source_id == _SOURCES.c.id, isouter=True)
        .join(_ASSETS, _ASSETS.c.id == _LINKS.c.asset_id, isouter=True)
        .where(_NODES.c.parent.in_(list(numbers)))
        .order_by(_NODES.c.id, _SOURCES.c.id, _ASSETS.c.id)
    )
    found: dict[int, Part] = {}
    for number, parent, key, mimetype, parameters, structure, uri in await connection.execute(statement):
        part = found.get(number)
        if part is None:
            shape = (structure or {}).get("shape")
            part = found[number] = Part(key, mimetype, parameters or {}, int(shape[0]) if shape else None)
            streams[parent].append(part)
        if uri is not None:
            part.files.append(str(uri))


@dataclass(frozen=True, slots=True)
class Counted:
    """Rows of a table of events, and how many different ones by their number in the stream."""

    rows: int
    different: int


class Tables:
    """The tables of events: rows by table and data set, counted once for all runs."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], Counted] = {}
        self._used: set[tuple[str, int]] = set()

    async def read(self, connection: AsyncConnection) -> None:
        """Count all rows."""

        def columns(one: Any) -> dict[str, set[str]]:
            asked = inspect(one)
            return {name: {c["name"] for c in asked.get_columns(name)} for name in asked.get_table_names()}

        for name, known in (await connection.run_sync(columns)).items():
            if "_dataset_id" not in known or not _SAFE.fullmatch(name):
                continue
            different = "count(DISTINCT seq_num)" if "seq_num" in known else "count(*)"
            statement = f'SELECT _dataset_id, count(*), {different} FROM "{name}" GROUP BY _dataset_id'
            for number, rows, one in await connection.execute(text(statement)):  # the name is safe
                self._counts[name, int(number)] = Counted(int(rows), int(one))

    def count(self, part: Part) -> Counted:
        """Return the rows of a part, none where it has no table."""
        assert part.rows is not None
        self._used.add(part.rows)
        return self._counts.get(part.rows, Counted(0, 0))

    def unused(self) -> dict[str, int]:
        """Return how many rows no part has asked for, by table."""
        found: dict[str, int] = {}
        for (name, number), counted in self._counts.items():
            if (name, number) not in self._used:
                found[name] = found.get(name, 0) + counted.rows
        return found


def folder_of(uri: str) -> Path | None:
    """Return the file or folder of an address; None for one of a database."""
    from tiled.utils import path_from_uri

    return Path(path_from_uri(uri)) if uri.startswith("file:") else None
