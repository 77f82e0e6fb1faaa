"""One ROI of a sample: its montage, begun again or resumed as often as the policy allows, and its account."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import IllegalMessageSequence, Msg, RunEngineControlException

from devices.camera.device import Camera
from devices.column.device import Column
from devices.errors import Aborted, ConfigurationError, LimitError, MontangoError
from devices.sequencer.device import Sequencer
from devices.stage.device import Stage
from plans.montage import montage
from plans.preprocessors import cause_of, tolerate
from plans.resume import resume_montage
from plans.sample_report import RoiReport
from plans.specs.montage import MontageSpec
from plans.specs.samples import SamplePolicy
from plans.stubs.ask import ask
from plans.stubs.load import await_device
from plans.stubs.roi_account import account
from plans.stubs.roi_watch import RoiWatch, recall
from processing.callbacks.tile_qc import QCThresholds

logger = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
"""Wait before a montage is tried again; it doubles each time."""


@dataclass(frozen=True)
class Instruments:
    """What acquires a montage: the instruments, and what goes to `montage` and `resume_montage` besides."""

    sequencer: Sequencer
    camera: Camera
    column: Column
    stage: Stage
    journal_dir: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    thresholds: QCThresholds | None = None

    def montage(self, spec: MontageSpec, md: dict[str, Any]) -> Generator[Msg, Any, str]:
        """Return the plan that acquires a montage."""
        return montage(self.sequencer, self.camera, self.column, self.stage, spec, md, **self.options)

    def resume(self, montage_id: str, md: dict[str, Any]) -> Generator[Msg, Any, str]:
        """Return the plan that goes on with a montage."""
        return resume_montage(
            self.sequencer,
            self.camera,
            self.column,
            self.stage,
            montage_id,
            md,
            journal_dir=self.journal_dir,
            thresholds=self.thresholds,
            **self.options,
        )


def new_montage_id() -> str:
    """Return an id that no other montage has."""
    return f"m{datetime.now():%Y%m%d}-{secrets.token_hex(3)}"


def acquire_roi(
    instruments: Instruments,
    spec: MontageSpec,
    report: RoiReport,
    policy: SamplePolicy,
    md: Mapping[str, Any],
    note: Callable[[], None],
) -> Generator[Msg, Any, None]:
    """Acquire the montage of a ROI and write its account into ``report``; failures are told there.

    A montage that fails before its first frame is begun again up to ``policy.attempts`` times; one that has
    frames is resumed up to ``policy.resumes`` times, once the devices answer again. So is one that an earlier
    process began, which ``report.montage_id`` names. ``note`` is called before each try: it puts ``report``
    on disk before something is exposed.

    Raises
    ------
    RunEngineControlException
        The RunEngine was told to stop or to abort.
    """
    report.montage_id = report.montage_id or new_montage_id()
    watch = yield from begun_before(instruments.journal_dir, report.montage_id)
    tries, began = _Tries(policy), time.monotonic()
    watch.ended, report.retry = watch.ended and not report.retry, False
    while not watch.ended:
        begun = bool(watch.run_uids)
        plan = (
            instruments.resume(report.montage_id, dict(md))
            if begun
            else instruments.montage(spec, {**md, "montage_id": report.montage_id})
        )
        tries.count(report, begun)
        note()
        try:
            yield from bpp.subs_wrapper(plan, {"all": [watch]})
            report.reason = ""
            break
        except RunEngineControlException:
            raise
        except Exception as failure:  # one ROI must not end the list
            error = cause_of(failure)
            report.reason = one_line(error)
            logger.warning(
                "ROI %s: %s", report.name, report.reason, exc_info=not isinstance(error, MontangoError)
            )
            report.aborted = isinstance(error, Aborted) and watch.verdict != "STOP_NOW"
            yield from come_back(instruments, policy.recovery_timeout_s)
            if _final(error, watch) or not tries.left(bool(watch.run_uids)):
                break
            yield from bps.sleep(tries.pause_s)
    if watch.run_uids:
        yield from account(instruments.journal_dir, report, watch)
    else:
        report.status = "failed"
    report.duration_s += time.monotonic() - began


def begun_before(journal_dir: Path, montage_id: str) -> Generator[Msg, Any, RoiWatch]:
    """Return what the journal has of a montage; nothing of one that is new."""
    watch, _ = yield from ask(lambda: asyncio.to_thread(recall, journal_dir, montage_id))
    return watch


@dataclass
class _Tries:
    """How often this process has begun and resumed a montage."""

    policy: SamplePolicy
    attempts: int = 0
    resumes: int = 0

    def count(self, report: RoiReport, resumed: bool) -> None:
        """Count a try, here and in the account."""
        self.attempts += not resumed
        self.resumes += resumed
        report.attempts += not resumed
        report.resumes += resumed

    def left(self, begun: bool) -> bool:
        """Whether the policy allows another one."""
        return self.resumes < self.policy.resumes if begun else self.attempts < self.policy.attempts

    @property
    def pause_s(self) -> float:
        """Wait before the next one."""
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (self.resumes + self.attempts))


def _final(error: BaseException, watch: RoiWatch) -> bool:
    """Return whether to try again changes nothing: a wrong request, or an end that was wanted."""
    if isinstance(error, Aborted):
        return True
    return isinstance(error, LimitError | ConfigurationError) and not watch.run_uids


def come_back(instruments: Instruments, timeout_s: float) -> Generator[Msg, Any, None]:
    """End a run that a failure left open, wait for every server, and leave beam blanked and stage still."""
    yield from close_left_open()
    devices = (instruments.column, instruments.stage, instruments.camera, instruments.sequencer)
    for device in devices:
        yield from tolerate(await_device(device, timeout_s), f"waiting for {device.name}")
    yield from tolerate(bps.abs_set(instruments.column.beam_blanked, True, wait=True), "blanking the beam")
    yield from tolerate(bps.stop(instruments.stage), "stopping the stage")


def close_left_open() -> Generator[Msg, Any, None]:
    """End a run whose end failed: what is read then cannot be read of a server that is gone."""
    try:
        yield Msg("close_run", None, exit_status="fail", reason="a device was lost")
    except IllegalMessageSequence:
        return  # as it should be
    logger.warning("a run was left open by a failure; it is closed now")


def one_line(error: BaseException) -> str:
    """Return an error on one line, with its class where it is not one of Montango's."""
    text = " ".join(str(error).split())
    return text if isinstance(error, MontangoError) else f"{type(error).__name__}: {text}"
