"""The rows of a run, written in one transaction with all that follows from them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import case, delete, func, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from tiled_server.index.rows import ACQUISITION, Row, RunTiles, montage_row
from tiled_server.index.schema import montage_tags, montages, runs, tiles

KEPT: Final = ("pass", "needs_review")
"""Verdicts with which an attempt counts, whatever came after it."""

_BLOCK: Final = 500


async def write_run(connection: AsyncConnection, row: Row, found: RunTiles | None) -> None:
    """Write a run, and make the row of its montage anew.

    Parameters
    ----------
    connection
        In a transaction.
    row
        The run's own.
    found
        What is known of its tiles; None for a run that acquires none.
    """
    uid = row["uid"]
    before = await connection.scalar(select(runs.c.montage_id).where(runs.c.uid == uid))
    await connection.execute(delete(runs).where(runs.c.uid == uid))
    await connection.execute(insert(runs).values(**row))
    await _replace_tiles(connection, uid, found)
    for montage_id in {before, row["montage_id"]} - {None}:
        await refresh_montage(connection, montage_id)


async def delete_run(connection: AsyncConnection, uid: str) -> str | None:
    """Delete what is known of a run; return the montage that it was of."""
    montage_id: str | None = await connection.scalar(select(runs.c.montage_id).where(runs.c.uid == uid))
    await connection.execute(delete(runs).where(runs.c.uid == uid))
    await connection.execute(delete(tiles).where(tiles.c.run_uid == uid))
    if montage_id is not None:
        await refresh_montage(connection, montage_id)
    return montage_id


async def mark_unread(connection: AsyncConnection, montage_id: str | None) -> None:
    """Let the acquiring runs of a montage be read anew at the next start, unless they are before."""
    acquiring = (runs.c.montage_id == montage_id) & (runs.c.role == ACQUISITION)
    await connection.execute(update(runs).where(acquiring).values(stamp=""))


async def refresh_montage(connection: AsyncConnection, montage_id: str) -> None:
    """Make the row of a montage anew from the rows of its runs and tiles."""
    await _choose_best(connection, montage_id)
    found = (await connection.execute(select(runs).where(runs.c.montage_id == montage_id))).mappings()
    row = montage_row(montage_id, [dict(one) for one in found], await _counts(connection, montage_id))
    await connection.execute(delete(montages).where(montages.c.montage_id == montage_id))
    await connection.execute(delete(montage_tags).where(montage_tags.c.montage_id == montage_id))
    if row is None:
        return
    await connection.execute(insert(montages).values(**row))
    if row["access_tags"]:
        pairs = [{"montage_id": montage_id, "tag": tag} for tag in row["access_tags"]]
        await connection.execute(insert(montage_tags), pairs)


async def _replace_tiles(connection: AsyncConnection, uid: str, found: RunTiles | None) -> None:
    """Write the rows that are new or changed, some at a time, and delete those that are gone."""
    of_run = tiles.c.run_uid == uid
    count = 0 if found is None else found.count
    for first in range(0, count, _BLOCK):
        assert found is not None
        rows = await asyncio.to_thread(found.rows, first, first + _BLOCK)
        among = tiles.c.tile_index.between(first, first + _BLOCK - 1)
        statement = select(tiles).where(of_run, among)
        known = {one["tile_index"]: dict(one) for one in (await connection.execute(statement)).mappings()}
        changed = [row for row in rows if not _same(row, known.get(row["tile_index"]))]
        old = sorted({row["tile_index"] for row in changed} & known.keys())
        if old:
            await connection.execute(delete(tiles).where(of_run, tiles.c.tile_index.in_(old)))
        if changed:
            await connection.execute(insert(tiles), changed)
    await connection.execute(delete(tiles).where(of_run, tiles.c.tile_index >= count))


def _same(row: Row, known: Mapping[str, Any] | None) -> bool:
    """Return whether a row is as it is known; which attempt counts is not the row's own."""
    return known is not None and all(known[name] == value for name, value in row.items() if name != "best")


async def _choose_best(connection: AsyncConnection, montage_id: str) -> None:
    """Mark of each tile the attempt that counts: the newest that was kept, else the newest."""
    order = (
        case((tiles.c.qc_state.in_(KEPT), 1), else_=0).desc(),
        tiles.c.attempt.desc().nulls_last(),
        tiles.c.time.desc().nulls_last(),
        tiles.c.run_uid,
        tiles.c.tile_index.desc(),
    )
    place = (func.coalesce(tiles.c.roi, 0), tiles.c.row, tiles.c.column)
    ranked = (
        select(
            tiles.c.run_uid,
            tiles.c.tile_index,
            func.row_number().over(partition_by=place, order_by=order).label("rank"),
        )
        .where(tiles.c.montage_id == montage_id, tiles.c.row >= 0, tiles.c.column >= 0)
        .subquery()
    )
    chosen = select(ranked.c.run_uid, ranked.c.tile_index).where(ranked.c.rank == 1)
    is_best = tuple_(tiles.c.run_uid, tiles.c.tile_index).in_(chosen)
    await connection.execute(
        update(tiles)
        .where(tiles.c.montage_id == montage_id, tiles.c.best != is_best)
        .values(best=~tiles.c.best)
    )


async def _counts(connection: AsyncConnection, montage_id: str) -> dict[str, int]:
    states = {"passed": "pass", "failed": "fail", "needs_review": "needs_review", "pending": "pending"}
    counted = [
        func.coalesce(func.sum(case((tiles.c.best & (tiles.c.qc_state == state), 1), else_=0)), 0).label(name)
        for name, state in states.items()
    ]
    statement = select(
        func.count().label("exposures"),
        func.coalesce(func.sum(case((tiles.c.best, 1), else_=0)), 0).label("acquired"),
        *counted,
    ).where(tiles.c.montage_id == montage_id)
    found = (await connection.execute(statement)).mappings().one()
    return {name: int(value) for name, value in found.items()}
