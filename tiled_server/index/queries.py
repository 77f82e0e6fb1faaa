"""What is asked of the index, in SQL: nothing is computed from rows that were fetched for it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from tiled_server.index.access import Tags, visible
from tiled_server.index.schema import (
    METRICS,
    MONTAGE_COLUMNS,
    SECOND,
    SEVERITY,
    TILE_COLUMNS,
    montages,
    runs,
    tiles,
)

Row = dict[str, Any]

MATCHED: Final = {
    "sample": montages.c.sample,
    "operator": montages.c.operator,
    "proposal": montages.c.proposal,
    "session": montages.c.data_session,
    "instrument": montages.c.instrument,
}
"""Parameters that are compared with a text of a montage."""

SORTED: Final = (
    "started", "ended", "montage_id", "sample", "operator", "proposal", "data_session", "instrument",
    "status", "asked", "acquired", "passed", "failed", "needs_review", "pending", "exposures",
)  # fmt: skip
"""Columns that montages can be sorted by."""

GOOD: Final = "good"
QC_FILTERS: Final = ("pass", "fail", "needs_review", "pending", GOOD)
_COUNTED: Final = {"pass": "passed", "fail": "failed", "needs_review": "needs_review", "pending": "pending"}
_QUANTILES: Final = {"p05": 0.05, "median": 0.5, "p95": 0.95}
_SHOWN: Final = [montages.c[name] for name in MONTAGE_COLUMNS]


@dataclass(frozen=True, slots=True)
class Search:
    """What montages are looked for.

    Attributes
    ----------
    texts
        Texts by the names of `MATCHED`; ``*`` stands for anything.
    since, until
        When it began: not before ``since``, and before ``until``; Unix time, s.
    qc
        One of `QC_FILTERS`.
    words
        All of them have to be in sample, title, the run's notes, or notes on the montage.
    sort
        A column of `SORTED`, with ``-`` before it the other way round.
    noted
        Ids of montages that have a word elsewhere, by word.
    """

    texts: Mapping[str, str]
    since: float | None = None
    until: float | None = None
    qc: str | None = None
    words: str | None = None
    sort: str = "-started"
    noted: Mapping[str, Collection[str]] = field(default_factory=dict)

    def all_words(self) -> list[str]:
        """Return each word that is looked for, in lower case."""
        return (self.words or "").lower().split()


async def find_montages(
    connection: AsyncConnection, search: Search, tags: Tags, offset: int, limit: int
) -> tuple[int, list[Row]]:
    """Return how many montages are found, and the rows of some of them."""
    where = and_(*_conditions(search, connection.dialect.name), visible(tags, montages.c.montage_id))
    count = await connection.scalar(select(func.count()).select_from(montages).where(where))
    column = montages.c[search.sort.removeprefix("-")]
    order = column.desc() if search.sort.startswith("-") else column.asc()
    statement = (
        select(*_SHOWN)
        .where(where)
        .order_by(order.nulls_last(), montages.c.montage_id)
        .offset(offset)
        .limit(limit)
    )
    return int(count or 0), [_row(MONTAGE_COLUMNS, row) for row in await connection.execute(statement)]


async def montage(connection: AsyncConnection, montage_id: str, tags: Tags) -> Row | None:
    """Return the row of a montage; None if there is none, or it is not for the caller."""
    statement = select(*_SHOWN).where(
        montages.c.montage_id == montage_id, visible(tags, montages.c.montage_id)
    )
    found = (await connection.execute(statement)).first()
    return None if found is None else _row(MONTAGE_COLUMNS, found)


async def count_runs(connection: AsyncConnection) -> int:
    """Return how many runs were read."""
    return int(await connection.scalar(select(func.count()).select_from(runs)) or 0)


def tile_rows(montage_id: str, *, best: bool) -> Select[Any]:
    """Return the statement for the tiles of a montage, in the order of their places."""
    statement = select(tiles).where(tiles.c.montage_id == montage_id)
    if best:
        statement = statement.where(tiles.c.best)
    place = (tiles.c.roi, tiles.c.row, tiles.c.column, tiles.c.attempt)
    return statement.order_by(*(one.nulls_last() for one in place), tiles.c.run_uid, tiles.c.tile_index)


@dataclass(frozen=True, slots=True)
class Scope:
    """Which tiles are meant: those of a montage, or of a session, a sample or both, or all one may see.

    ``texts`` are compared with the montages' own as in `Search`.
    """

    montage_id: str | None = None
    texts: Mapping[str, str] = field(default_factory=dict)

    def conditions(self, tags: Tags, dialect: str) -> list[ColumnElement[bool]]:
        """Return the conditions on the table of tiles."""
        found = [tiles.c.best, visible(tags, tiles.c.montage_id)]
        if self.montage_id is not None:
            found.append(tiles.c.montage_id == self.montage_id)
        if self.texts:
            named = [_matches(MATCHED[name], text, dialect) for name, text in self.texts.items()]
            found.append(tiles.c.montage_id.in_(select(montages.c.montage_id).where(*named)))
        return found


async def worst(connection: AsyncConnection, scope: Scope, by: str, count: int, tags: Tags) -> list[Row]:
    """Return the tiles at the bad end of a metric, the worst first.

    By severity, tiles without a fault come after those with one, by `SECOND`, and have no value.
    """
    column = tiles.c[by]
    where = scope.conditions(tags, connection.dialect.name)
    found = await _ranked(connection, by, [*where, column.is_not(None)], column, count)
    if by == SEVERITY and len(found) < count:
        second = [*where, column.is_(None), tiles.c[SECOND].is_not(None)]
        found += await _ranked(connection, SECOND, second, column, count - len(found))
    return found


async def _ranked(
    connection: AsyncConnection,
    by: str,
    where: Sequence[ColumnElement[bool]],
    value: ColumnElement[Any],
    count: int,
) -> list[Row]:
    column = tiles.c[by]
    order = column.asc() if METRICS[by].better == "higher" else column.desc()
    statement = (
        select(tiles, value.label("value"))
        .where(*where)
        .order_by(order, tiles.c.run_uid, tiles.c.tile_index)
        .limit(count)
    )
    return [_row((*TILE_COLUMNS, "value"), row) for row in await connection.execute(statement)]


async def statistics(connection: AsyncConnection, scope: Scope, metric: str, tags: Tags) -> Row:
    """Return how a metric is distributed over the best attempts, and how many have which state and faults.

    ``std`` is that of the values themselves (divided by their number); quantiles are interpolated linearly.
    """
    column = tiles.c[metric]
    where = scope.conditions(tags, connection.dialect.name)
    valued = [*where, column.is_not(None)]
    count, mean, low, high = (
        await connection.execute(
            select(func.count(), func.avg(column), func.min(column), func.max(column)).where(*valued)
        )
    ).one()
    found: Row = {"metric": metric, "unit": METRICS[metric].unit, "count": count, "mean": mean}
    deviation = column - (mean if mean is not None else 0.0)
    variance = await connection.scalar(select(func.avg(deviation * deviation)).where(*valued))
    found["std"] = None if variance is None else math.sqrt(variance)
    found |= {"min": low, "max": high} | await _quantiles(connection, column, valued, count)
    states = select(tiles.c.qc_state, func.count()).where(*where).group_by(tiles.c.qc_state)
    found["states"] = {state: number async for state, number in await connection.stream(states)}
    faults: dict[str, int] = {}
    grouped = (
        select(tiles.c.faults, func.count())
        .where(*where, tiles.c.faults.is_not(None))
        .group_by(tiles.c.faults)
    )
    for kinds, number in await connection.execute(grouped):
        for kind in kinds.split(","):
            faults[kind] = faults.get(kind, 0) + number
    return found | {"faults": dict(sorted(faults.items(), key=lambda one: (-one[1], one[0])))}


async def _quantiles(
    connection: AsyncConnection, column: ColumnElement[Any], where: Sequence[ColumnElement[bool]], count: int
) -> dict[str, float | None]:
    """Return quantiles from the values beside them in order: SQLite has no function for it."""
    if not count:
        return dict.fromkeys(_QUANTILES)
    at = {name: share * (count - 1) for name, share in _QUANTILES.items()}
    wanted = {place for one in at.values() for place in (math.floor(one), math.ceil(one))}
    ordered = (
        select(column.label("value"), func.row_number().over(order_by=column).label("place"))
        .where(*where)
        .subquery()
    )
    statement = select(ordered.c.place, ordered.c.value).where(
        ordered.c.place.in_([place + 1 for place in sorted(wanted)])
    )
    values = {place - 1: value for place, value in await connection.execute(statement)}
    found: dict[str, float | None] = {}
    for name, one in at.items():
        low, high = values[math.floor(one)], values[math.ceil(one)]
        found[name] = low + (high - low) * (one - math.floor(one))
    return found


def _row(names: Sequence[str], values: Iterable[Any]) -> Row:
    return dict(zip(names, values, strict=True))


def _conditions(search: Search, dialect: str) -> list[ColumnElement[bool]]:
    found = [_matches(MATCHED[name], text, dialect) for name, text in search.texts.items()]
    if search.since is not None:
        found.append(montages.c.started >= search.since)
    if search.until is not None:
        found.append(montages.c.started < search.until)
    if search.qc == GOOD:
        found += [montages.c.acquired > 0, montages.c.passed == montages.c.acquired]
    elif search.qc is not None:
        found.append(montages.c[_COUNTED[search.qc]] > 0)
    for word in search.all_words():
        there = montages.c.words.contains(word, autoescape=True)
        elsewhere = search.noted.get(word)
        found.append(or_(there, montages.c.montage_id.in_(list(elsewhere))) if elsewhere else there)
    return found


def _matches(column: ColumnElement[Any], text: str, dialect: str) -> ColumnElement[bool]:
    """Compare a whole text; ``*`` stands for anything, and upper and lower case differ."""
    if "*" not in text:
        return column == text
    if dialect == "sqlite":  # its LIKE does not tell upper from lower case
        pattern = "".join(f"[{mark}]" if mark in "[?" else mark for mark in text)
        return column.op("GLOB")(pattern)
    parts = [part.replace("/", "//").replace("%", "/%").replace("_", "/_") for part in text.split("*")]
    return column.like("%".join(parts), escape="/")
