"""The task that keeps the index: what it does when changes come in an unlucky order."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from tiled_server.index.indexer import Indexer
from tiled_server.index.reading import CatalogReader, RunStamp
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
