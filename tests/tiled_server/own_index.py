"""An index of a test's own, in a database that nothing else uses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from sqlalchemy.ext.asyncio import AsyncConnection

from tiled_server.index.rows import RECORDED, RunTiles, run_row
from tiled_server.index.store import IndexStore
from tiled_server.index.writing import write_run

Answer = TypeVar("Answer")
FOCUS = np.random.default_rng(5).normal(-15, 3, 12)
"""Focus scores of tiles by their index, again and again."""


class Index:
    """An index in a database; every call has an event loop and connections of its own."""

    def __init__(self, uri: str | Path) -> None:
        self.uri = uri

    def ask(self, what: Callable[..., Awaitable[Answer]], *given: Any, **named: Any) -> Answer:
        """Ask one of `queries`."""
        return self._run(IndexStore.reading, lambda connection: what(connection, *given, **named))

    def write(self, what: Callable[[AsyncConnection], Awaitable[Answer]]) -> Answer:
        """Write in one transaction."""
        return self._run(IndexStore.writing, what)

    def prepare(self) -> bool:
        """Make the tables if they are not there."""

        async def prepare() -> bool:
            store = IndexStore(self.uri)
            try:
                return await store.prepare()
            finally:
                await store.close()

        return asyncio.run(prepare())

    def _run(
        self,
        opened: Callable[[IndexStore], AbstractAsyncContextManager[AsyncConnection]],
        what: Callable[[AsyncConnection], Awaitable[Answer]],
    ) -> Answer:
        async def run() -> Answer:
            store = IndexStore(self.uri)
            try:
                async with opened(store) as connection:
                    return await what(connection)
            finally:
                await store.close()

        return asyncio.run(run())

    def add(
        self,
        uid: str,
        tiles: list[tuple[int, int, int, str]],
        *,
        tags: tuple[str, ...] = (),
        centres_um: npt.NDArray[np.float64] | None = None,
        **start: Any,
    ) -> None:
        """Write a run with tiles (row, column, attempt, state), each with a focus score by its index."""
        metadata = {
            "start": {"uid": uid, **start},
            "stop": {"time": start["time"] + 60, "exit_status": "success"},
        }
        row = {**run_row(metadata), "uid": uid, "node_id": 1, "stamp": "", "tags": list(tags)}
        numbers = {name: np.zeros(len(tiles)) for name in RECORDED}
        for position, name in enumerate(("row", "column", "attempt")):
            numbers[name] = np.array([float(tile[position]) for tile in tiles])
        if centres_um is not None:
            numbers |= dict(zip(("centre_x_um", "centre_y_um"), centres_um.T, strict=True))
        verdicts = {
            index: {
                "qc_state": state,
                "faults": '[{"kind": "blurred", "severity": %f}]' % (index / 100)
                if state == "fail"
                else "[]",
                "focus_score": float(FOCUS[index % len(FOCUS)]),
            }
            for index, (*_, state) in enumerate(tiles)
            if state != "pending"
        }
        found = RunTiles(uid, str(start["montage_id"]), len(tiles), numbers, verdicts, {})
        self.write(lambda connection: write_run(connection, row, found))
