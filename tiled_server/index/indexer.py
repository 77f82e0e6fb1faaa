"""The task that keeps the index up to date, beside the server's other work.

Writing to the catalog never waits for it: it is told of a change by a word in a set, gathers for a moment,
and reads the run anew. A run that takes long to read is read the less often. What goes wrong is logged with
the uid of the run and tried again; what changed while it was down it finds by comparing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import select

from tiled_server.index.reading import CatalogReader, FoundRun, RunStamp
from tiled_server.index.rows import (
    ACQUISITION,
    PLACE,
    RECORDED,
    RESULT,
    VERDICT,
    ByTile,
    First,
    Row,
    RunTiles,
    run_row,
)
from tiled_server.index.schema import runs
from tiled_server.index.store import IndexStore
from tiled_server.index.writing import delete_run, mark_unread, write_run

_log = logging.getLogger(__name__)

MOSAICS: Final = ("live_mosaic",)
"""Recipes of the results that say where tiles lie."""
JUDGEMENTS: Final = ("judge_frames",)
"""Recipes of the results that judge the frames of other runs."""

_MOST_WAITING: Final = 10_000
_PAGE: Final = 500
_SHARE: Final = 0.1
"""Largest share of the time that is spent on one run that keeps changing."""


class Indexer:
    """Keeps the rows of every run as the catalog has it.

    Parameters
    ----------
    reader
        The catalog.
    store
        The index.
    settle_s
        How long changes of a run are gathered, s.
    retry_s
        Shortest and longest time to the next try after an error, s.
    """

    def __init__(
        self,
        reader: CatalogReader,
        store: IndexStore,
        *,
        settle_s: float = 1.0,
        retry_s: tuple[float, float] = (2.0, 300.0),
    ) -> None:
        self.store = store
        self._reader = reader
        self._settle_s = settle_s
        self._retry_s = retry_s
        self._waiting: dict[str, float] = {}
        self._under_way = 0
        self._rest: dict[str, float] = {}
        self._failed: dict[str, tuple[float, str]] = {}
        self._newest = 0
        self._wake = asyncio.Event()
        self._compare, self._all = True, False
        self._comparing = False
        self._task: asyncio.Task[None] | None = None

    @property
    def complete(self) -> bool:
        """Whether everything that the catalog had at the start, or at `reindex`, is in the index."""
        return self.store.ready and not self._compare and not self._comparing

    @property
    def overdue_s(self) -> float:
        """How long ago the run that waits longest was due, s; 0 where none is."""
        return max(0.0, time.monotonic() - min(self._waiting.values(), default=float("inf")))

    def state(self) -> dict[str, Any]:
        """Return how the index stands: ready, complete, runs that wait or are being read, failures."""
        return {
            "ready": self.store.ready,
            "complete": self.complete,
            "waiting": len(self._waiting) + self._under_way,
            "failed": {key: text for key, (_, text) in self._failed.items()},
        }

    def changed(self, key: str) -> None:
        """Take the key of a run that may have changed; empty: there may be a new one."""
        if len(self._waiting) >= _MOST_WAITING:
            self._waiting.clear()
            self._compare = True
        due = max(time.monotonic() + self._settle_s, self._rest.get(key, 0.0))
        self._waiting[key] = min(due, self._waiting.get(key, due))
        self._wake.set()

    def reindex(self) -> None:
        """Read every run anew, changed or not."""
        self._compare = self._all = True
        self._wake.set()

    async def start(self) -> None:
        """Begin, in a task."""
        self._task = asyncio.create_task(self._run(), name="index")

    async def stop(self) -> None:
        """End the task, and close the index."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self.store.close()

    async def _run(self) -> None:
        wait_s = self._retry_s[0]
        while True:
            try:
                if not self.store.ready:
                    await self.store.prepare()
                if self._compare:
                    await self._compare_all()
                await self._work()
                wait_s = self._retry_s[0]
            except Exception as error:  # noqa: BLE001  # the index must not end with its database
                _log.warning("the index waits %.0f s (%s)", wait_s, _words(error))
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, self._retry_s[1])
            await self._pause()

    async def _pause(self) -> None:
        """Wait until a run is due, or something changes."""
        self._wake.clear()
        if self._compare:
            return
        due = min(self._waiting.values(), default=None)
        timeout_s = None if due is None else max(0.0, due - time.monotonic())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), timeout_s)

    async def _work(self) -> None:
        """Read the runs that are due."""
        now = time.monotonic()
        for key in [key for key, due in self._waiting.items() if due <= now]:
            if self._waiting.pop(key, None) is None:
                continue  # read while others were: new runs are taken with what is due meanwhile
            self._under_way += 1
            try:
                if key:
                    await self._try(key)
                    continue
                while page := await self._reader.page(self._newest, _PAGE):
                    await self._take(page)
            finally:
                self._under_way -= 1

    async def _compare_all(self) -> None:
        """Read every run that is not as it was read last, and delete those that are gone."""
        self._compare, self._comparing = False, True
        everything, self._all = self._all, False
        started, last, count = time.monotonic(), 0, 0
        try:
            while page := await self._reader.page(last, _PAGE):
                last = page[-1].node_id
                count += await self._take(page, everything=everything)
            count += await self._drop_gone()
        except BaseException:
            self._compare, self._all = True, everything
            raise
        finally:
            self._comparing = False
        if count:
            _log.info("the index read %d runs in %.1f s", count, time.monotonic() - started)

    async def _take(self, page: Sequence[RunStamp], *, everything: bool = False) -> int:
        """Read those of these runs that changed; return how many."""
        statement = select(runs.c.uid, runs.c.stamp, runs.c.ended).where(
            runs.c.uid.in_([one.key for one in page])
        )
        async with self.store.reading() as connection:
            known = {uid: (stamp, ended) for uid, stamp, ended in await connection.execute(statement)}
        # a run that has not ended may have new events without a new stamp
        changed = [one.key for one in page if everything or known.get(one.key) != (one.stamp, True)]
        for key in changed:
            await self._try(key)
            if any(due <= time.monotonic() for due in self._waiting.values()):
                await self._work()
        self._newest = max([self._newest, *(one.node_id for one in page)])
        return len(changed)

    async def _drop_gone(self) -> int:
        last, count = "", 0
        while True:
            statement = select(runs.c.uid).where(runs.c.uid > last).order_by(runs.c.uid).limit(_PAGE)
            async with self.store.reading() as connection:
                keys = list((await connection.execute(statement)).scalars())
            if not keys:
                return count
            last = keys[-1]
            for key in sorted(set(keys) - await self._reader.present(keys)):
                await self._try(key)
                count += 1

    async def _try(self, key: str) -> None:
        """Read a run; what goes wrong is logged and tried again later."""
        started = time.monotonic()
        try:
            await self._index(key)
        except Exception as error:  # noqa: BLE001  # one bad run keeps no other out of the index
            last_s, _ = self._failed.get(key, (self._retry_s[0] / 2, ""))
            wait_s = min(2 * last_s, self._retry_s[1])
            _log.warning("run %s is not in the index (%s); tried again in %.0f s", key, _words(error), wait_s)
            if len(self._failed) < _MOST_WAITING:
                self._failed[key] = (wait_s, _words(error))
                self._waiting[key] = self._rest[key] = time.monotonic() + wait_s
            return
        self._failed.pop(key, None)
        now = time.monotonic()
        self._rest = {one: until for one, until in self._rest.items() if until > now}
        self._rest[key] = now + (now - started) * (1 / _SHARE - 1)

    async def _index(self, key: str) -> None:
        found = await self._reader.run(key)
        if found is None:
            await self._forget(key)
            return
        self._newest = max(self._newest, found.node_id)
        row = run_row(found.metadata)
        row |= {"uid": key, "node_id": found.node_id, "stamp": found.stamp, "tags": list(found.tags)}
        acquires = row["role"] == ACQUISITION and row["montage_id"] is not None
        tiles = await self._tiles(found, row["montage_id"]) if acquires else None
        async with self.store.writing() as connection:
            await write_run(connection, row, tiles)
            if _says_of_tiles(row):
                await mark_unread(connection, row["montage_id"])
        if _says_of_tiles(row):
            await self._read_inputs(row["montage_id"])

    async def _forget(self, key: str) -> None:
        async with self.store.writing() as connection:
            found = (await connection.execute(select(runs).where(runs.c.uid == key))).mappings().first()
            known = None if found is None else dict(found)
            montage_id = await delete_run(connection, key)
            if known is not None and _says_of_tiles(known):
                await mark_unread(connection, montage_id)
        if known is not None and _says_of_tiles(known):
            await self._read_inputs(montage_id)

    async def _read_inputs(self, montage_id: str | None) -> None:
        """Read the acquiring runs of a montage anew, for a result that says something of their tiles."""
        for run in await self._runs_of(montage_id, ACQUISITION):
            await self._index(run["uid"])

    async def _runs_of(self, montage_id: str | None, role: str) -> list[Row]:
        if montage_id is None:
            return []
        statement = (
            select(runs)
            .where(runs.c.montage_id == montage_id, runs.c.role == role)
            .order_by(runs.c.started, runs.c.uid)
        )
        async with self.store.reading() as connection:
            return [dict(one) for one in (await connection.execute(statement)).mappings()]

    async def _tiles(self, found: FoundRun, montage_id: str) -> RunTiles:
        """Read the tiles of a run: what was recorded, the newest verdicts, places of the newest mosaic."""
        count, numbers = await self._reader.tile_numbers(found, tuple(RECORDED))
        # what the run itself says of a frame stands, and a newer mosaic before an older one
        verdicts = [ByTile(await self._reader.events(found.key, "qc", VERDICT))]
        places: list[ByTile] = []
        for result in reversed(await self._runs_of(montage_id, RESULT)):
            if result["recipe"] in MOSAICS:
                events = await self._reader.events(result["uid"], "alignment", PLACE)
                places.append(ByTile(events, found.key))
            elif result["recipe"] in JUDGEMENTS:
                events = await self._reader.events(result["uid"], "qc", VERDICT)
                verdicts.append(ByTile(events, found.key))
        if not numbers:  # a file that was moved away leaves the verdicts
            count = max([count, *(index + 1 for index in First(*verdicts))])
        return RunTiles(found.key, montage_id, count, numbers, First(*verdicts), First(*places))


def _says_of_tiles(run: Mapping[str, Any]) -> bool:
    """Return whether what is known of the tiles of other runs comes from a run, too."""
    return run["role"] == RESULT and run["recipe"] in (*MOSAICS, *JUDGEMENTS)


def _words(error: BaseException) -> str:
    """Return an error in one line, without the values of a statement."""
    text = str(getattr(error, "orig", None) or error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
