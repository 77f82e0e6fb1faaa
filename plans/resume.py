"""Go on with a montage that was interrupted: only what is missing or failed is acquired."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Literal

import bluesky.plan_stubs as bps
import tango
from bluesky.protocols import Readable
from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.column.device import Column
from devices.errors import ConfigurationError, DeviceLost, InstrumentFault, MontangoError, OperationTimeout
from devices.sequencer.device import Sequencer
from devices.stage.device import Stage
from plans.calibrations import CalibrationStore
from plans.control import Control
from plans.interrupted import close_interrupted, judge_frames
from plans.judgements import save_judgements
from plans.montage import montage
from plans.preprocessors import plain_errors
from plans.record import MontageRecord
from plans.relocate import MAX_OFFSET_UM, find_stage_offset
from plans.specs.montage import MontageSpec
from plans.stubs.ask import ask
from plans.verdicts import Verdicts
from processing.callbacks.tile_qc import QCThresholds

logger = logging.getLogger(__name__)

APPROACH_UM = 20.0
"""More than the backlash of any of the stages in use."""
REFERENCE_TOLERANCES = 2.0
"""A single move, without the retries that a tile has, may miss by so many tolerances."""
BUSY = (tango.DevState.RUNNING, tango.DevState.STANDBY)
IDLE_POLL_S = 0.1
IDLE_TIMEOUT_S = 120.0


def resume_montage(
    sequencer: Sequencer,
    camera: Camera,
    column: Column,
    stage: Stage,
    montage_id: str,
    md: dict[str, Any] | None = None,
    *,
    journal_dir: Path | str,
    spec: MontageSpec | None = None,
    accept_changes: bool = False,
    thresholds: QCThresholds | None = None,
    verdicts: Verdicts | None = None,
    baseline: Sequence[Readable[Any]] = (),
    minimum_free_gb: float = 2.0,
    calibrations: CalibrationStore | None = None,
    control: Control | None = None,
    reference: Literal["readback", "image"] = "readback",
    max_offset_um: float = MAX_OFFSET_UM,
) -> Generator[Msg, Any, str]:
    """Go on with a montage after a crash, an abort or a power cut.

    The sequencer is brought to rest and every frame that was exposed to disk; runs without an end are ended
    in the journal, their unjudged frames judged from the file. Then the stage takes up its backlash, and what
    is missing or failed is acquired in a new run of the same ``montage_id`` that ``resumes`` the earlier
    ones; focus is measured first where the specification has it.

    Parameters
    ----------
    sequencer, camera, column, stage
        The instruments.
    montage_id
        The montage, as its runs name it.
    md
        Metadata of the new run.
    journal_dir
        The journal of the laboratory.
    spec
        What to acquire; None is what the montage was begun with. Another one is refused unless
        ``accept_changes``.
    accept_changes
        Go on although ``spec`` differs.
    thresholds
        Of the verdicts on frames that have none.
    verdicts, baseline, minimum_free_gb, calibrations, control
        As for `plans.montage.montage`.
    reference
        How the stage is trusted: "readback" as it reads, with the offset of the montage's last run; "image"
        measures its offset with one image of a tile that was acquired (`plans.relocate`), and shifts what
        is acquired by it. For a stage that lost its power.
    max_offset_um
        A larger offset is refused, um.

    Returns
    -------
    str
        The montage id.

    Raises
    ------
    ConfigurationError
        There is no such montage, another process acquires it, its specification differs, or it has no good
        tile for a reference image; nothing has moved.
    InstrumentFault
        The reference image looks like nothing that was acquired, or the stage is too far off.
    MontangoError
        An instrument failed.

    Examples
    --------
    >>> RE(resume_montage(sequencer, camera, column, stage, "m20260102-1a2b3c"))  # doctest: +SKIP
    """
    if reference not in ("readback", "image"):
        raise ConfigurationError(f"reference = {reference!r} is neither 'readback' nor 'image'")
    before = MontageRecord.read(journal_dir, montage_id)
    before.fence()
    wanted = before.check_spec(spec or before.spec, accept_changes=accept_changes)
    yield from plain_errors(come_to_rest(sequencer, camera))
    folder = calibrations.folder if calibrations is not None else None
    closed = yield from ask(lambda: asyncio.to_thread(close_interrupted, journal_dir, thresholds, folder))
    record = yield from _judged(journal_dir, montage_id, thresholds, folder)
    logger.info(
        "montage %s: %d tiles are good in %d runs, %d of them ended only now",
        montage_id,
        record.good,
        len(record.runs),
        len(closed),
    )
    if wanted == record.spec and record.good >= int(record.start.get("num_points", record.good + 1)):
        logger.warning("montage %s is complete: there is nothing to go on with", montage_id)
        return montage_id
    yield from plain_errors(re_reference(column, stage, wanted.tolerance_um))
    offset = None
    if reference == "image":
        search = find_stage_offset(camera, column, stage, record, wanted, max_offset_um=max_offset_um)
        offset = yield from plain_errors(search)
    return (
        yield from montage(
            sequencer,
            camera,
            column,
            stage,
            wanted,
            {**(md or {}), "montage_id": montage_id, "resumes": list(record.run_uids)},
            verdicts=verdicts,
            baseline=baseline,
            minimum_free_gb=minimum_free_gb,
            calibrations=calibrations,
            control=control,
            resume=record,
            stage_offset=offset,
        )
    )


def _judged(
    journal_dir: Path | str, montage_id: str, thresholds: QCThresholds | None, folder: Path | None
) -> Generator[Msg, Any, MontageRecord]:
    """Return the record of a montage, every frame judged; verdicts that were missing become a run."""
    record = yield from ask(lambda: asyncio.to_thread(MontageRecord.read, journal_dir, montage_id))
    verdicts = {}
    for run in record.runs:
        if run.pending:
            verdicts[run.uid] = yield from ask(
                lambda one=run: asyncio.to_thread(judge_frames, one, thresholds, folder)  # type: ignore[misc]
            )
    yield from save_judgements(montage_id, verdicts)
    return record.with_verdicts(verdicts)


def come_to_rest(sequencer: Sequencer, camera: Camera) -> Generator[Msg, Any, None]:
    """End what an engine that is gone left running, and bring every exposed frame to disk.

    Raises
    ------
    OperationTimeout
        The sequencer does not end its tile.
    """
    yield from ask(lambda: _rest(sequencer))
    try:
        yield from ask(lambda: camera.call("CloseFile", timeout_s=camera.frame_timeout_s))
    except DeviceLost:
        raise
    except MontangoError as error:
        logger.info("%s; there was no file to close", error)


def re_reference(column: Column, stage: Stage, tolerance_um: float) -> Generator[Msg, Any, None]:
    """Show that the stage goes where it is sent, with the beam blanked, and take up its backlash.

    It goes `APPROACH_UM` away along x and y and comes back to where it was.

    Raises
    ------
    InstrumentFault
        It came back to another place: its reference is lost, and tiles would lie elsewhere than before.
    """
    yield from bps.abs_set(column.beam_blanked, True, wait=True)
    x_um, y_um = (yield Msg("locate", stage))["readback"][:2]
    limits = yield from ask(stage.limits)
    (low_x, _), (low_y, _) = limits.x_um, limits.y_um
    away = tuple(
        value + (APPROACH_UM if value - APPROACH_UM < low else -APPROACH_UM)
        for value, low in ((x_um, low_x), (y_um, low_y))
    )
    for target in (away, (x_um, y_um)):
        yield Msg("set", stage, target, group="reference")
        yield Msg("wait", None, group="reference")
    back_x_um, back_y_um = (yield Msg("locate", stage))["readback"][:2]
    error_um = math.hypot(back_x_um - x_um, back_y_um - y_um)
    if tolerance_um and error_um > REFERENCE_TOLERANCES * tolerance_um:
        raise InstrumentFault(
            f"the stage came back to {back_x_um:.3f}, {back_y_um:.3f} um, {error_um:.3f} um from "
            f"{x_um:.3f}, {y_um:.3f} um where it was; find its reference again before the montage goes on"
        )


async def _rest(sequencer: Sequencer) -> None:
    deadline = asyncio.get_running_loop().time() + IDLE_TIMEOUT_S
    await sequencer.call("Stop")
    while (await sequencer.read_now("State"))[0] in BUSY:
        if asyncio.get_running_loop().time() > deadline:
            raise OperationTimeout(
                f"{sequencer.trl} has not ended its tile after {IDLE_TIMEOUT_S:g} s; end it with its command "
                f"Abort, then resume"
            )
        await asyncio.sleep(IDLE_POLL_S)
