"""The task that keeps the index: what it does when changes come in an unlucky order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from sqlalchemy import select

from tiled_server.index.indexer import Indexer
from tiled_server.index.reading import CatalogReader, FoundRun, RunStamp
from tiled_server.index.schema import tiles
from tiled_server.index.store import IndexStore


class Gone:
    """A catalog whose two runs are listed, and gone when they are read."""

    def __init__(self) -> None:
        self.read: list[str] = []

    async def page(self, after_id: int, limit: int) -> list[RunStamp]:
        del limit
        return [one for one in (RunStamp("a", 1, ""), RunStamp("b", 2, "")) if one.node_id > after_id]

    async def run(self, key: str) -> Any:
        self.read.append(key)


def test_a_run_that_is_read_with_new_ones_is_not_read_again(tmp_path: Path) -> None:
    async def work() -> list[str]:
        reader, store = Gone(), IndexStore(tmp_path / "index.db")
        await store.prepare()
        indexer = Indexer(cast("CatalogReader", reader), store, settle_s=0.0)
        indexer.changed("")  # new runs: while "a" is taken, all that is due is read, "b" too
        indexer.changed("b")
        await indexer._work()
        assert indexer.overdue_s == 0.0
        await store.close()
        return reader.read

    # from the page, then since it is due, then from the page; and not a fourth time
    assert asyncio.run(work()) == ["a", "b", "b"]


class WithMosaic:
    """A catalog with a montage of one tile, and the mosaic that says where it lies, until that is removed."""

    def __init__(self) -> None:
        self.removed = False
        start = {"montage_id": "m", "time": 1.0, "purpose": "montage"}
        result = start | {"time": 2.0, "purpose": "processing", "recipe": "live_mosaic"}
        self._runs = [("a", start), ("b", result)]

    def _found(self) -> list[FoundRun]:
        stop = {"time": 3.0, "exit_status": "success"}
        return [
            FoundRun(key, number, f"{number}", {"start": start, "stop": stop}, ())
            for number, (key, start) in enumerate(self._runs, 1)
            if key == "a" or not self.removed
        ]

    async def page(self, after_id: int, limit: int) -> list[RunStamp]:
        del limit
        found = [one for one in self._found() if one.node_id > after_id]
        return [RunStamp(one.key, one.node_id, one.stamp) for one in found]

    async def present(self, keys: Sequence[str]) -> set[str]:
        return {one.key for one in self._found()} & set(keys)

    async def run(self, key: str) -> FoundRun | None:
        return next((one for one in self._found() if one.key == key), None)

    async def tile_numbers(self, run: FoundRun, names: Sequence[str]) -> tuple[int, dict[str, Any]]:
        assert run.key == "a"
        whole = np.zeros(1)
        return 1, {name: whole for name in names if name in ("row", "column", "attempt")}

    async def events(self, key: str, stream: str, names: Sequence[str]) -> dict[str, Any]:
        del names
        if (key, stream) != ("b", "alignment"):
            return {}
        return {"tile_run": ["a"], "tile_index": [0], "position_x_um": [7.0], "position_y_um": [8.0]}


class CutOff(Indexer):
    """An indexer whose server ends before the tiles that a result speaks of are read anew."""

    async def _read_inputs(self, montage_id: str | None) -> None:
        raise asyncio.CancelledError


@pytest.mark.parametrize("removed", [False, True])
def test_a_mosaic_is_not_forgotten_by_a_server_that_ends_in_between(tmp_path: Path, removed: bool) -> None:
    async def solved(indexer: type[Indexer], reader: WithMosaic) -> float | None:
        store = IndexStore(tmp_path / "index.db")
        await store.prepare()
        with suppress(asyncio.CancelledError):
            await indexer(cast("CatalogReader", reader), store)._compare_all()
        async with store.reading() as connection:
            found = await connection.scalar(select(tiles.c.solved_x_um))
        await store.close()
        return None if found is None else float(found)

    reader = WithMosaic()
    if removed:
        assert asyncio.run(solved(Indexer, reader)) == 7.0
        reader.removed = True
    before = asyncio.run(solved(CutOff, reader))
    assert before == (7.0 if removed else None)
    assert asyncio.run(solved(Indexer, reader)) == (None if removed else 7.0)
