"""The loop of a montage: blocks to the sequencer two ahead, verdicts, focus and control between them."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Generator, Sequence
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.utils import FailedStatus, Msg

from devices.errors import Aborted
from plans.preprocessors import tolerate
from plans.stubs.acquisition import Acquisition, Item
from plans.stubs.ask import ask
from plans.stubs.blocks import QUEUED_BLOCKS, await_idle, due, frames_in_file, frames_lost, next_block, submit
from plans.stubs.judge import forget_verdicts, save_verdicts
from plans.stubs.refocus import map_focus, refocus
from plans.stubs.steer import recover, steer
from plans.stubs.step import park, step_tiles
from plans.unbroken import await_statuses

logger = logging.getLogger(__name__)

COLLECT_S = 0.2
VERDICT_TIMEOUT_S = 60.0
KEEP_S = 10.0


def acquire(run: Acquisition, items: Sequence[Item]) -> Generator[Msg, Any, None]:
    """Acquire tiles: in blocks on the sequencer, or one by one from the plan; failed tiles follow.

    Raises
    ------
    Aborted
        The operator or the policy ended the montage.
    MontangoError
        An instrument failed.
    """
    forget_verdicts(run)
    run.waiting.extend(lines_of(run, items))
    run.state = "in_progress"
    run.control.publish(run.progress())
    if run.spec.focus is not None and run.spec.focus.map is not None and items:
        yield from map_focus(run)
    done = False
    while not done:
        failure = None
        try:
            done = yield from _round(run)
        except FailedStatus as error:
            failure = error
        if failure is not None:  # not within `except`: what is found out is not a consequence of it
            yield from recover(run, failure)
    if run.cut_short:
        raise Aborted(run.cut_short)


def lines_of(run: Acquisition, items: Sequence[Item]) -> list[list[Item]]:
    """Return tiles a line of the order at a time, as the grid has them; some may be missing."""
    line = {tile.raster_index: number for number, block in enumerate(run.grid.blocks()) for tile in block}
    grouped = itertools.groupby(items, key=lambda item: line[item.tile.raster_index])
    return [list(block) for _, block in grouped]


def _round(run: Acquisition) -> Generator[Msg, Any, bool]:
    """Feed, wait a moment, collect, judge; return whether everything is done."""
    yield from steer(run)
    if run.spec.mode == "stepped":
        yield from _step(run)
    else:
        yield from feed(run)
    if run.queued:
        first = run.queued[0].status
        yield from await_statuses([first], COLLECT_S)
        if first.done:
            run.queued.popleft()
    yield from collect(run)
    if run.queued or (run.waiting and not _region_ends(run)):
        return False
    yield from settle_accounts(run)
    if run.again:
        newest = sorted(run.again, key=lambda item: item.tile.raster_index)
        run.again = []
        run.waiting.extendleft(reversed(by_remedy(newest)))
    return not run.waiting


def by_remedy(items: Sequence[Item]) -> list[list[Item]]:
    """Return tiles to acquire again as blocks that are treated alike."""
    ordered = sorted(items, key=lambda item: str(item.remedy))
    return [list(block) for _, block in itertools.groupby(ordered, key=lambda item: item.remedy)]


def _region_ends(run: Acquisition) -> bool:
    """Whether what waits lies in another region than the tiles exposed last, which are not settled yet."""
    if not run.exposed or not run.waiting or run.waiting[0][0].attempt:
        return False
    return run.waiting[0][0].tile.roi != run.exposed[-1].tile.roi and run.settled < len(run.exposed)


def feed(run: Acquisition) -> Generator[Msg, Any, None]:
    """Keep blocks on the sequencer; focus first, with the sequencer idle, where that is due."""
    while run.waiting and len(run.queued) < QUEUED_BLOCKS:
        if _region_ends(run):
            return
        first = run.waiting[0][0]
        reason = due(run, first, begins=True)
        if reason:
            if run.queued:
                return
            yield from refocus(run, first.tile, reason)
        yield from submit(run, next_block(run))


def _step(run: Acquisition) -> Generator[Msg, Any, None]:
    """Acquire tiles from the plan for as long as the sequencer would run between two looks."""
    end = time.monotonic() + COLLECT_S
    while run.waiting and not _region_ends(run) and time.monotonic() < end:
        block = run.waiting.popleft()
        if len(block) > 1:
            run.waiting.appendleft(block[1:])
        reason = due(run, block[0], begins=block[0].tile.column == 0)
        if reason:
            yield from park(run)
            yield from refocus(run, block[0].tile, reason)
        yield from step_tiles(run, block[:1])


def collect(run: Acquisition) -> Generator[Msg, Any, None]:
    """Bring what is on disk into the documents, and the verdicts into the run."""
    yield from bps.collect(run.camera, name="tiles", return_payload=False)
    run.written = yield from ask(run.camera.count_written)
    yield from save_verdicts(run)


def keep_frames(run: Acquisition) -> Generator[Msg, Any, None]:
    """Bring what was exposed before a failure into the documents."""
    if any(not block.status.done for block in run.queued):
        yield from tolerate(ask(lambda: run.sequencer.stop()), "ending the sequencer")
    yield from await_idle(run)
    yield from frames_in_file(run, KEEP_S)
    yield from collect(run)
    yield from frames_lost(run)


def settle_accounts(run: Acquisition) -> Generator[Msg, Any, None]:
    """Bring every frame to disk and into the documents, and every verdict into the run."""
    frames = len(run.exposed)
    run.settled = frames
    yield from park(run)
    yield from ask(lambda: run.camera.wait_written(frames, run.camera.frame_timeout_s))
    yield from collect(run)
    if run.verdicts is None:
        return
    run.verdicts.flush()
    deadline = time.monotonic() + VERDICT_TIMEOUT_S
    with run.clock("qc_wait"):
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
