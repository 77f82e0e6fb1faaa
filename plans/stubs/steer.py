"""Steering a montage between two blocks: requests of the operator, reasons to hold, faults of devices."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.utils import Msg

from devices.errors import Aborted, DeviceLost, InstrumentFault, OperationTimeout
from plans.control import Request
from plans.preprocessors import tolerate
from plans.specs.policy import DeviceFault, MontageVerdict, RunVerdict
from plans.stubs.acquisition import Acquisition
from plans.stubs.ask import ask, read_now
from plans.stubs.blocks import (
    ABORT_TIMEOUT_S,
    empty_sequencer,
    first_failure,
    line_of,
    note,
    pause_sequencer,
    reconcile,
    requeue,
    resume_sequencer,
)
from plans.stubs.judge import overrule, save_verdicts

logger = logging.getLogger(__name__)

HOLD_POLL_S = 0.1
OPERATOR = "paused by the operator"


def steer(run: Acquisition) -> Generator[Msg, Any, None]:
    """Do what the operator asked for since the last call, hold while there is a reason to, say how far it is.

    Raises
    ------
    Aborted
        The montage is to end.
    """
    yield from bps.checkpoint()
    yield from obey(run)
    if run.beam_doubted:
        yield from check_beam(run)
    if run.paused or run.control.holds:
        yield from hold(run)
    if run.ending:
        raise Aborted(run.ending)
    run.control.publish(run.progress())


def obey(run: Acquisition) -> Generator[Msg, Any, None]:
    """Do what the operator asked for since the last call."""
    for request in run.control.take():
        logger.info("the operator asks: %s", request)
        yield from note(run, "request", str(request))
        if request in (Request.PAUSE, Request.PAUSE_NOW):
            run.paused = OPERATOR
            if request == Request.PAUSE_NOW:
                yield from empty_sequencer(run, now=True)
        elif request == Request.RESUME:
            run.paused = ""
        elif request == Request.ABORT:
            raise Aborted("the operator ended the montage")
        elif request in (Request.RETRY, Request.ACCEPT):
            yield from overrule(run, accept=request == Request.ACCEPT)
        else:
            yield from cut(run, request)


def cut(run: Acquisition, request: Request) -> Generator[Msg, Any, None]:
    """Leave out tiles to come: all after this row, all after this region, or the rest of the region."""
    yield from pause_sequencer(run)
    yield from empty_sequencer(run)
    waiting = [item for block in run.waiting for item in block]
    if not waiting:
        return
    now = waiting[0]
    if request == Request.ABORT_AT_END_OF_ROW:
        kept = [item for item in waiting if line_of(run, item) == line_of(run, now)]
        run.again.clear()
    elif request == Request.ABORT_AT_END_OF_ROI:
        kept = [item for item in waiting if item.tile.roi == now.tile.roi]
    else:
        kept = [item for item in waiting if item.tile.roi != now.tile.roi]
        run.again = [item for item in run.again if item.tile.roi != now.tile.roi]
        name = run.grid.roi_names[now.tile.roi]
        left_out = {item.tile.raster_index for item in waiting if item.tile.roi == now.tile.roi}
        run.skipped.update(dict.fromkeys(left_out, f"the operator skipped region {name}"))
    if request != Request.SKIP_ROI and len(kept) < len(waiting):
        run.cut_short = f"the operator ended the montage at the end of the {request.rsplit('_', 1)[-1]}"
    run.waiting.clear()
    requeue(run, kept)


def hold(run: Acquisition, reason: str = "") -> Generator[Msg, Any, None]:
    """Expose nothing, beam blanked, while there is a reason to; go on by itself when there is none.

    Parameters
    ----------
    run
        The montage.
    reason
        Why the beam is doubted: it is then waited for until the column reads a current.

    Raises
    ------
    InstrumentFault
        There was no beam for the longest time that the policy allows.
    """
    yield from pause_sequencer(run)
    said: list[str] = []
    with run.clock("hold"):
        if not run.queued:
            run.unblanked = False
            yield from bps.abs_set(run.column.beam_blanked, True, wait=True)
        began = time.monotonic()
        while reasons := (yield from _reasons(run, reason)):
            if reasons != said:
                said = reasons
                logger.warning("montage %s holds: %s", run.montage_id, "; ".join(said))
                yield from note(run, "hold", "; ".join(said))
            if reason and time.monotonic() - began > run.spec.policy.beam_timeout_s:
                raise InstrumentFault(
                    f"no beam for {run.spec.policy.beam_timeout_s:g} s (policy.beam_timeout_s): {reason}; "
                    f"switch the beam on and go on with `montango resume {run.montage_id}`"
                )
            run.state = "paused"
            run.control.publish(run.progress("; ".join(said)))
            yield from bps.checkpoint()
            yield from bps.sleep(HOLD_POLL_S)
            yield from bps.collect(run.camera, name="tiles", return_payload=False)
            yield from save_verdicts(run)
            yield from obey(run)
    if said:
        logger.warning("montage %s goes on", run.montage_id)
        yield from note(run, "resume", "; ".join(said))
        run.state = "resumed"
        run.control.publish(run.progress())
    run.state = "in_progress"
    yield from resume_sequencer(run)


def check_beam(run: Acquisition) -> Generator[Msg, Any, None]:
    """See whether the column has beam; wait for it, blanked, where it has none."""
    reason, run.beam_doubted = run.beam_doubted, ""
    if (yield from _no_beam(run, reason)):
        yield from hold(run, reason)


def _reasons(run: Acquisition, doubt: str) -> Generator[Msg, Any, list[str]]:
    """Return why nothing may be exposed now; ``doubt`` is why there may be no beam."""
    no_beam = yield from _no_beam(run, doubt)
    return [*run.control.holds, *filter(None, (run.paused,)), *no_beam]


def _no_beam(run: Acquisition, reason: str) -> Generator[Msg, Any, list[str]]:
    """Return why there is no beam, in a list, where the plan waits for it."""
    if not reason:
        return []
    (current_na,) = yield from read_now(run.column, "beam_current_na")
    return [f"no beam: {run.column.name} reads beam_current_na = {current_na:g}"] if current_na <= 0 else []


def recover(run: Acquisition, failure: Exception) -> Generator[Msg, Any, None]:
    """Deal with a block that failed: repeat what a policy covers, else let the montage end.

    Raises
    ------
    MontangoError
        What failed, where it is not to be repeated, or was often enough.
    """
    if not run.queued:
        raise failure
    with run.clock("recover"):
        error = yield from first_failure(run, failure)
        kind = classify(error)
        if kind is None:
            raise error
        if kind == "camera_timeout":  # the frames behind it never come either
            yield from end_exposure(run)
        yield from reconcile(run)
    rule = run.spec.policy.rule(kind)
    if run.written > run.faulty_frames:
        run.device_faults.clear()  # a tile came through since: the count is of failures in a row
    run.faulty_frames = run.written
    times = run.device_faults[kind] = run.device_faults.get(kind, 0) + 1
    if times > rule.repeats or rule.action == "stop":
        reason = f"{kind} {times} times in a row: {error}"
        run.spoil(MontageVerdict(RunVerdict.STOP_NOW, reason))
        raise error
    logger.warning("%s (%d of %d): %s; the tile is acquired again", kind, times, rule.repeats, error)
    yield from note(run, kind, f"{error}; begun again, {times} of {rule.repeats}")


def end_exposure(run: Acquisition) -> Generator[Msg, Any, None]:
    """End an exposure that hangs; the camera takes exposures again afterwards."""
    abort = ask(lambda: run.sequencer.call("Abort", timeout_s=ABORT_TIMEOUT_S))
    yield from tolerate(abort, "ending the sequencer")


def classify(error: BaseException) -> DeviceFault | None:
    """Return which fault of a device an error is, None where it is not one to repeat."""
    if isinstance(error, DeviceLost) or not isinstance(error, OperationTimeout | InstrumentFault):
        return None
    text = str(error)
    if "/camera/" in text and isinstance(error, OperationTimeout):
        return "camera_timeout"
    if "/stage/" in text and isinstance(error, OperationTimeout):
        return "stage_stuck"
    return None
