"""Blocks of tiles on the sequencer: feeding it, emptying it, and knowing what was exposed."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Generator, Sequence
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.utils import FailedStatus, Msg

from devices.errors import Aborted, LimitError, MontangoError, OperationTimeout
from devices.sequencer.driver import Table
from plans.preprocessors import cause_of, tolerate
from plans.stubs.acquisition import Acquisition, Item, Queued
from plans.stubs.ask import ask, read_now
from plans.stubs.judge import describe
from plans.verdicts import save_event

logger = logging.getLogger(__name__)

QUEUED_BLOCKS = 2
"""Blocks on the sequencer at a time: while one runs, the next waits there, so that no gap opens."""
SETTLE_CHECK_S = 0.02
ABORT_TIMEOUT_S = 60.0
"""Longest time for the sequencer to end; frames exposed before have some seconds to reach the file."""
GROUP = "tiles-"
"""Beginning of the names of the groups of blocks."""


def due(run: Acquisition, item: Item, *, begins: bool) -> str:
    """Return why focus is to be measured before a tile, or ``""``."""
    if run.schedule is None or run.focus_wanted:
        return run.focus_wanted if run.schedule is not None else ""
    fault = item.remedy == "refocus"
    return run.schedule.due(item.tile, block_begins=begins, focus_fault=fault)


def next_block(run: Acquisition) -> list[Item]:
    """Take the next tiles that may follow each other without the plan: up to the next focusing."""
    block = run.waiting.popleft()
    taken = [block[0]]
    if run.schedule is not None:
        run.schedule.acquired()
    for item in block[1:]:
        new_station = item.tile.station != taken[-1].tile.station or item.remedy == "refocus"
        if item.remedy != taken[0].remedy or (new_station and due(run, item, begins=False)):
            run.waiting.appendleft(block[len(taken) :])
            break
        if run.schedule is not None:
            run.schedule.acquired()
        taken.append(item)
    return taken


def submit(run: Acquisition, block: Sequence[Item]) -> Generator[Msg, Any, None]:
    """Send tiles to the sequencer; those over the dose are left out, or end the montage."""
    requests, items = [], []
    for item in block:
        prior = run.prior_dose(item.tile)
        if not within_dose(run, item, prior):
            continue
        run.count_dose(item.tile)
        requests.append(run.request(item, prior))
        items.append(item)
    if not items:
        return
    table = Table(tuple(requests), run.options_for(items[0].remedy))
    behind = tuple(before.status for before in run.queued)
    status = yield Msg("set", run.sequencer, table, behind=behind, group=f"{GROUP}{len(run.exposed)}")
    run.exposed.extend(items)
    run.queued.append(Queued(status, items))


def within_dose(run: Acquisition, item: Item, prior: float) -> bool:
    """Return whether a tile may be exposed; note it as skipped where not.

    Raises
    ------
    LimitError
        It may not, and the policy says that this ends the montage.
    """
    limit = run.spec.max_dose_e_per_a2
    if limit is None or prior + run.exposure_dose <= limit * (1 + 1e-9):
        return True
    reason = (
        f"tile {describe(item)}, attempt {item.attempt}, would give {prior + run.exposure_dose:.3g} e/A^2, "
        f"over max_dose_e_per_a2 = {limit:g} ({prior:.3g} were given there before)"
    )
    if run.spec.policy.over_dose == "stop" and not item.attempt:
        raise LimitError(f"{reason}; raise the limit, or let policy.over_dose be skip")
    if not item.attempt:
        run.skipped[item.tile.raster_index] = reason
    logger.warning("%s: not exposed", reason)
    return False


def requeue(run: Acquisition, items: Sequence[Item]) -> None:
    """Put tiles back in front of what waits, a line of the order a block, as they were."""
    lines = [list(line) for _, line in itertools.groupby(items, key=lambda item: line_of(run, item))]
    run.waiting.extendleft(reversed(lines))


def line_of(run: Acquisition, item: Item) -> tuple[Any, ...]:
    """Return what tells the line of the order (a row of stage positions, say) that a tile belongs to."""
    columns, rows = run.grid.supertile
    tile = item.tile
    if run.grid.order.startswith("column"):
        return tile.roi, "column", tile.column // columns, item.attempt > 0
    return tile.roi, "row", tile.row // rows, item.attempt > 0


def pause_sequencer(run: Acquisition) -> Generator[Msg, Any, None]:
    """Let the tile that runs end, then blank the beam and expose nothing; the queue is kept."""
    if not run.held:
        run.held = True
        yield from ask(lambda: run.sequencer.hold(run.montage_id))


def resume_sequencer(run: Acquisition) -> Generator[Msg, Any, None]:
    """Go on with the queue."""
    if run.held:
        run.held = False
        yield from ask(lambda: run.sequencer.go_on(run.montage_id))


def empty_sequencer(run: Acquisition, *, now: bool = False) -> Generator[Msg, Any, None]:
    """Take back the tiles that the sequencer has not exposed; ``now`` gives up the one that runs, too."""
    if run.queued:
        command = "Abort" if now else "Stop"
        yield from tolerate(
            ask(lambda: run.sequencer.call(command, timeout_s=ABORT_TIMEOUT_S)), "ending the queue"
        )
        yield from reconcile(run)
    yield from resume_sequencer(run)  # an empty queue need not be held


def first_failure(run: Acquisition, failure: Exception) -> Generator[Msg, Any, BaseException]:
    """Return why the first block failed, once none runs any more; those behind it were only refused."""
    yield from await_idle(run)
    errors = [cause_of(error) for block in run.queued if (error := block.status.exception()) is not None] or [
        cause_of(failure)
    ]
    return next((error for error in errors if not isinstance(error, Aborted)), errors[0])


def await_idle(run: Acquisition) -> Generator[Msg, Any, None]:
    """Wait until every block has ended, well or not, and the plan has been told."""
    while any(not block.status.done for block in run.queued):
        yield from swallow(0.05)
    yield from swallow(0.05)  # the failures of blocks reach the plan a moment after they are done


def reconcile(run: Acquisition) -> Generator[Msg, Any, None]:
    """Wait until the sequencer is idle, see which tiles are in the file, put the others back in front."""
    yield from await_idle(run)
    run.queued.clear()
    frames = yield from frames_in_file(run)
    left = run.exposed[frames:]
    del run.exposed[frames:]
    lost = yield from frames_lost(run)
    for item in left[lost:]:
        run.count_dose(item.tile, -1)
    requeue(run, left)


def frames_lost(run: Acquisition) -> Generator[Msg, Any, int]:
    """Return how many exposures gave no frame since the last call; say so where there are any."""
    (given_up,) = yield from read_now(run.camera, "frames_given_up")
    lost, run.given_up = max(0, int(given_up) - run.given_up), int(given_up)
    if lost:
        text = f"{lost} exposed frames did not reach the file; their tiles are to be exposed again"
        logger.warning("montage %s: %s", run.montage_id, text)
        yield from note(run, "frames_given_up", text)
    return lost


def note(run: Acquisition, kind: str, text: str) -> Generator[Msg, Any, None]:
    """Write into stream ``incidents`` what happened beside the tiles."""
    data = {"incident_kind": kind, "incident_text": text, "incident_frame": len(run.exposed)}
    yield from save_event(run.incidents, data)


def frames_in_file(run: Acquisition, patience_s: float | None = None) -> Generator[Msg, Any, int]:
    """Return how many frames the file holds when none is on its way any more.

    Raises
    ------
    OperationTimeout
        Frames are still on their way after ``patience_s`` (None: the camera's longest time for a frame).
    """
    before = -1
    deadline = time.monotonic() + (patience_s or run.camera.frame_timeout_s)
    while True:
        written, waiting = yield from read_now(run.camera, "frames_written", "frames_waiting")
        if not waiting and written == before:
            run.written = int(written)
            return int(written)
        if time.monotonic() > deadline:
            raise OperationTimeout(
                f"{run.camera.trl}: {waiting} exposed frames are not on disk; see `montango logs camera`"
            )
        before = written
        yield from bps.sleep(SETTLE_CHECK_S)


def swallow(seconds: float) -> Generator[Msg, Any, None]:
    """Sleep, and let failures of blocks pass that are known already."""
    try:
        yield from bps.sleep(seconds)
    except (FailedStatus, MontangoError) as failure:
        logger.debug("known already: %s", failure)
