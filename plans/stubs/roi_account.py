"""The account of a ROI: its tiles as journal and files have them, and why one is not good."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.utils import Msg

from devices.errors import ConfigurationError
from plans.record import MontageRecord
from plans.sample_report import BadTile, RoiReport
from plans.specs.grid import Grid, make_grid
from plans.specs.view import View
from plans.stubs.ask import ask
from plans.stubs.roi_watch import RoiWatch

JOURNAL_TIMEOUT_S = 60.0
POLL_S = 0.05
FAILED, REVIEW, MISSING = "fail", "needs_review", "missing"


def account(journal_dir: Path, report: RoiReport, watch: RoiWatch) -> Generator[Msg, Any, None]:
    """Count the tiles of a ROI as journal and files have them, and write that into its report.

    Raises
    ------
    MontangoError
        The journal has no run of it, or is damaged.
    """
    record = yield from settled_record(journal_dir, report.montage_id, watch.run_uids)
    report.run_uids = list(record.run_uids)
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
