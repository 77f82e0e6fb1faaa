"""The inner loops of a montage: lines of tiles on the sequencer, or tile by tile from the plan."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import bluesky.plan_stubs as bps
import numpy as np
from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.column.device import Column
from devices.sequencer.device import Sequencer
from devices.sequencer.driver import TileRequest
from devices.stage.device import Stage
from plans.specs.grid import Grid, Tile
from plans.specs.montage import MontageSpec
from plans.stubs.ask import ask, read_now
from plans.verdicts import FAIL, VerdictReadable, Verdicts

logger = logging.getLogger(__name__)

COLLECT_S = 0.2
VERDICT_TIMEOUT_S = 60.0
QUEUED_BLOCKS = 2
"""Blocks on the sequencer at a time: while one runs, the next waits there, so that no gap opens."""


@dataclass
class Acquisition:
    """A montage in progress: its instruments, and what is exposed, judged and to be done again."""

    sequencer: Sequencer
    camera: Camera
    column: Column
    stage: Stage
    spec: MontageSpec
    verdicts: Verdicts | None
    exposed: list[tuple[Tile, int]] = field(default_factory=list)
    """Tile and attempt of every frame, in the order of the file."""
    judged: set[int] = field(default_factory=set)
    """Indices of the frames that have a verdict."""
    again: deque[tuple[Tile, int]] = field(default_factory=deque)
    """Tiles that failed, with the attempt to come."""
    attempts: dict[int, int] = field(default_factory=dict)
    """Newest attempt, made or planned, of each tile by its raster index."""
    readable: VerdictReadable = field(default_factory=VerdictReadable)

    def request(self, tile: Tile, attempt: int) -> TileRequest:
        """Return a tile as the sequencer takes it."""
        return TileRequest(
            tile.raster_index, tile.row, tile.column, attempt, tile.x_um, tile.y_um, self.spec.settle_s
        )


def acquire_sequenced(run: Acquisition, grid: Grid) -> Generator[Msg, Any, None]:
    """Acquire the grid in blocks on the sequencer; failed tiles follow as blocks of their own."""
    forget_verdicts(run)
    waiting = deque([(tile, 0) for tile in block] for block in grid.blocks())
    groups: deque[str] = deque()
    while True:
        while waiting and len(groups) < QUEUED_BLOCKS:
            block = waiting.popleft()
            group = f"block-{len(run.exposed)}"
            run.exposed.extend(block)
            tiles = [run.request(tile, attempt) for tile, attempt in block]
            yield from bps.abs_set(run.sequencer, tiles, group=group)
            groups.append(group)
        if groups and (yield from bps.wait(groups[0], timeout=COLLECT_S, error_on_timeout=False)):
            groups.popleft()
        yield from bps.collect(run.camera, name="tiles", return_payload=False)
        yield from save_verdicts(run)
        if groups or waiting:
            continue
        yield from settle_accounts(run)
        if not run.again:
            return
        waiting.append(list(run.again))
        run.again.clear()


def acquire_stepped(run: Acquisition, grid: Grid) -> Generator[Msg, Any, None]:
    """Acquire the grid tile by tile from the plan; failed tiles follow when all were tried once."""
    forget_verdicts(run)
    yield from bps.abs_set(run.column.beam_blanked, False, wait=True)
    image_shift, defocus = yield from read_now(run.column, "image_shift_um", "defocus_um")
    fixed = (float(image_shift[0]), float(image_shift[1]), float(defocus))
    waiting = deque((tile, 0) for tile in grid.tiles)
    collected = time.monotonic()
    while waiting:
        tile, attempt = waiting.popleft()
        run.exposed.append((tile, attempt))
        yield from step_tile(run, tile, attempt, fixed)
        if time.monotonic() - collected > COLLECT_S:
            yield from bps.collect(run.camera, name="tiles", return_payload=False)
            yield from save_verdicts(run)
            collected = time.monotonic()
        if not waiting:
            yield from settle_accounts(run)
            waiting.extend(run.again)
            run.again.clear()


def step_tile(
    run: Acquisition, tile: Tile, attempt: int, fixed: tuple[float, float, float]
) -> Generator[Msg, Any, None]:
    """Move, settle, expose one tile; its readout goes on while the plan goes on.

    ``fixed`` is image shift x, y and defocus, in um.
    """
    started = time.perf_counter()
    yield Msg("set", run.stage, (tile.x_um, tile.y_um), group="move")
    yield Msg("wait", None, group="move")
    arrived = time.perf_counter()
    if run.spec.settle_s:
        yield from bps.sleep(run.spec.settle_s)
    position = (yield Msg("locate", run.stage))["readback"]
    settled = time.perf_counter()
    columns = (
        tile.raster_index,
        tile.row,
        tile.column,
        attempt,
        tile.x_um,
        tile.y_um,
        *position[:3],
        *fixed,
        arrived - started,
        settled - arrived,
    )
    yield Msg("set", run.camera.shutter, np.array(columns, float), group="expose")
    yield Msg("wait", None, group="expose")


def settle_accounts(run: Acquisition) -> Generator[Msg, Any, None]:
    """Bring every frame to disk and into the documents, and every verdict into the run."""
    frames = len(run.exposed)
    yield from ask(lambda: run.camera.wait_written(frames, run.camera.frame_timeout_s))
    yield from bps.collect(run.camera, name="tiles", return_payload=False)
    if run.verdicts is None:
        return
    run.verdicts.flush()
    deadline = time.monotonic() + VERDICT_TIMEOUT_S
    while len(run.judged) < frames:
        yield from save_verdicts(run)
        if len(run.judged) < frames:
            if time.monotonic() > deadline:
                logger.warning(
                    "%d of %d frames have no verdict after %g s; they stay pending",
                    frames - len(run.judged),
                    frames,
                    VERDICT_TIMEOUT_S,
                )
                return
            yield from bps.sleep(0.01)


def forget_verdicts(run: Acquisition) -> None:
    """Drop what is left of an earlier run that was aborted."""
    if run.verdicts is not None:
        run.verdicts.take()


def save_verdicts(run: Acquisition) -> Generator[Msg, Any, None]:
    """Write the verdicts that came into stream ``qc``, and note the tiles to acquire again."""
    if run.verdicts is None:
        return
    for verdict in run.verdicts.take():
        if verdict.tile_index >= len(run.exposed):
            continue  # of an earlier run
        run.judged.add(verdict.tile_index)
        run.readable.hold(verdict)
        yield Msg("create", None, name="qc")
        yield Msg("read", run.readable)
        yield Msg("save")
        tile, attempt = run.exposed[verdict.tile_index]
        newest = run.attempts.get(tile.raster_index, 0)
        if verdict.qc_state == FAIL and attempt == newest and attempt + 1 < run.spec.max_attempts:
            run.attempts[tile.raster_index] = attempt + 1
            run.again.append((tile, attempt + 1))
