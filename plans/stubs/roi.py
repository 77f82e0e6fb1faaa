"""One ROI of a sample: its montage, begun again or resumed as often as the policy allows, and its account."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
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
from plans.record import MontageRecord
from plans.resume import resume_montage
from plans.sample_report import BadTile, RoiReport
from plans.specs.grid import Grid, make_grid
from plans.specs.montage import MontageSpec
from plans.specs.samples import SamplePolicy
from plans.specs.view import View
from plans.stubs.ask import ask
from plans.stubs.load import await_device
from processing.callbacks.tile_qc import QCThresholds

logger = logging.getLogger(__name__)

JOURNAL_TIMEOUT_S = 60.0
POLL_S = 0.05
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
"""Wait before a montage is tried again; it doubles each time."""
FAILED, REVIEW, MISSING = "fail", "needs_review", "missing"


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


class RoiWatch:
    """Follows the documents of a montage: its runs, the faults of its tiles, its verdict."""

    def __init__(self, montage_id: str) -> None:
        self._montage_id = montage_id
        self._ours = False
        self.run_uids: list[str] = []
        self.verdict = ""
        self.reason = ""
        self.faults: Counter[str] = Counter()
        self.reasons: dict[tuple[int, int, int], str] = {}

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document."""
        if name == "start":
            self._ours = doc.get("montage_id") == self._montage_id
            if self._ours and doc.get("purpose") == "montage":  # frames judged later have a run of their own
                self.run_uids.append(doc["uid"])
                self.verdict = self.reason = ""
        elif name == "event" and self._ours:
            data = doc["data"]
            if "montage_verdict" in data:
                self.verdict, self.reason = data["montage_verdict"], data["montage_reason"]
            elif "qc_state" in data and "faults" in data:
                self._judged(data)

    def _judged(self, data: Mapping[str, Any]) -> None:
        place = int(data.get("tile_roi", 0)), int(data["tile_row"]), int(data["tile_column"])
        kinds = [str(fault["kind"]) for fault in json.loads(data["faults"])]
        self.faults.update(kinds)
        self.reasons[place] = data.get("qc_reason") or ", ".join(kinds)


def new_montage_id() -> str:
    """Return an id that no other montage has."""
    return f"m{datetime.now():%Y%m%d}-{secrets.token_hex(3)}"


def acquire_roi(
    instruments: Instruments,
    spec: MontageSpec,
    report: RoiReport,
    policy: SamplePolicy,
    md: Mapping[str, Any],
) -> Generator[Msg, Any, None]:
    """Acquire the montage of a ROI and write its account into ``report``; failures are told there.

    A montage that fails before its first frame is begun again up to ``policy.attempts`` times; one that has
    frames is resumed up to ``policy.resumes`` times, once the devices answer again.

    Raises
    ------
    RunEngineControlException
        The RunEngine was told to stop or to abort.
    """
    report.montage_id = new_montage_id()
    watch, began = RoiWatch(report.montage_id), time.monotonic()
    metadata = {**md, "montage_id": report.montage_id}
    while True:
        begun = bool(watch.run_uids)
        plan = (
            instruments.resume(report.montage_id, dict(md)) if begun else instruments.montage(spec, metadata)
        )
        report.attempts += not begun
        report.resumes += begun
        try:
            yield from bpp.subs_wrapper(plan, {"all": [watch]})
            report.reason = ""
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
            if not _final(error, watch) and _tries_left(report, policy, bool(watch.run_uids)):
                yield from bps.sleep(
                    min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (report.resumes + report.attempts))
                )
                continue
        break
    if watch.run_uids:
        yield from _account(instruments.journal_dir, report, watch)
    else:
        report.status = "failed"
    report.duration_s = time.monotonic() - began


def _final(error: BaseException, watch: RoiWatch) -> bool:
    """Return whether to try again changes nothing: a wrong request, or an end that was wanted."""
    if isinstance(error, Aborted):
        return True
    return isinstance(error, LimitError | ConfigurationError) and not watch.run_uids


def _tries_left(report: RoiReport, policy: SamplePolicy, begun: bool) -> bool:
    return report.resumes < policy.resumes if begun else report.attempts < policy.attempts


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


def _account(journal_dir: Path, report: RoiReport, watch: RoiWatch) -> Generator[Msg, Any, None]:
    """Count the tiles as journal and files have them."""
    record = yield from settled_record(journal_dir, report.montage_id, watch.run_uids)
    report.run_uids = list(watch.run_uids)
    report.verdict = watch.verdict
    grid = _grid_of(record)
    report.tiles = len(grid.tiles) if grid else int(record.start.get("num_points", len(record.tiles)))
    report.exposures = record.exposures
    report.reimaged = record.exposures - sum(
        any(one.readable for one in attempts) for attempts in record.tiles.values()
    )
    report.faults = dict(watch.faults)
    report.bad = [*_bad_tiles(record, report, watch), *_missing_tiles(record, grid, report, watch)]
    report.good = report.tiles - len(report.bad)
    if not report.bad:
        report.status = "good"
    elif any(tile.state == MISSING for tile in report.bad):
        report.status = "incomplete"
    else:
        report.status = "accounted"
    report.reason = report.reason or (watch.reason if watch.verdict not in ("", "GOOD") else "")


def _grid_of(record: MontageRecord) -> Grid | None:
    """Return the grid of a montage, as its first run was begun; None where that does not say."""
    if "montage_view" not in record.start:
        return None
    x_um, y_um = record.start["montage_centre_um"]
    return make_grid(record.spec, View(**record.start["montage_view"]), (float(x_um), float(y_um)))


def _bad_tiles(record: MontageRecord, report: RoiReport, watch: RoiWatch) -> Iterator[BadTile]:
    """Yield the tiles that were acquired and are not good, and why."""
    for key, attempts in sorted(record.tiles.items()):
        states = [one.qc_state for one in attempts if one.readable]
        if states and "pass" not in states:
            state = REVIEW if REVIEW in states else FAILED if FAILED in states else "unjudged"
            why = watch.reasons.get((key.roi, key.row, key.column)) or report.reason or "no verdict came"
            yield BadTile(*key, state, len(states), why)


def _missing_tiles(
    record: MontageRecord, grid: Grid | None, report: RoiReport, watch: RoiWatch
) -> Iterator[BadTile]:
    """Yield the tiles that were not acquired, and why."""
    there = {key for key, attempts in record.tiles.items() if any(one.readable for one in attempts)}
    why = report.reason or watch.reason or "the montage ended before it was exposed"
    if grid is None:
        for _ in range(report.tiles - len(there)):
            yield BadTile(-1, -1, -1, MISSING, 0, why)
        return
    for tile in grid.tiles:
        if (tile.roi, tile.row, tile.column) not in there:
            yield BadTile(tile.roi, tile.row, tile.column, MISSING, 0, why)


def settled_record(
    journal_dir: Path, montage_id: str, run_uids: list[str], timeout_s: float = JOURNAL_TIMEOUT_S
) -> Generator[Msg, Any, MontageRecord]:
    """Return what there is of a montage once the journal has its runs to their end.

    Raises
    ------
    MontangoError
        The journal has no run of it, or is damaged.
    """
    deadline = time.monotonic() + timeout_s
    read = partial(MontageRecord.read, journal_dir, montage_id)
    while True:
        try:
            record = yield from ask(lambda: asyncio.to_thread(read))
        except ConfigurationError:
            if time.monotonic() > deadline:
                raise
        else:
            complete = {run.uid for run in record.runs if run.ended and not run.live}
            if complete.issuperset(run_uids) or time.monotonic() > deadline:
                return record
        yield from bps.sleep(POLL_S)


def one_line(error: BaseException) -> str:
    """Return an error on one line, with its class where it is not one of Montango's."""
    text = " ".join(str(error).split())
    return text if isinstance(error, MontangoError) else f"{type(error).__name__}: {text}"
