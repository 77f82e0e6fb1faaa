"""The report of a montage: counts, reasons, and times with a known answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from devices.errors import MontangoError
from processing.callbacks.summary import MontageSummary, split_times
from tests.processing.documents import MontageRun

FRAME = np.zeros((64, 64), np.uint16)


def test_a_montage_with_a_tile_acquired_again(tmp_path: Path) -> None:
    summary = MontageSummary()
    with pytest.raises(MontangoError, match="no montage has ended"):
        summary.result()
    run = MontageRun(tmp_path, emit=summary, cycle_s=0.3, montage_id="m-7")
    run.tiles([FRAME] * 4, row=0.0)
    faults = json.dumps([{"kind": "blurred", "severity": 1.0}])
    states = ["pass", "fail", "pass", "fail"]
    for index, state in enumerate(states):
        found = faults if state == "fail" else "[]"
        run.verdict({"tile_index": index, "qc_state": state, "faults": found})
    run.tiles([FRAME], row=0.0, column=1.0, attempt=1.0)
    run.verdict({"tile_index": 4, "qc_state": "pass", "faults": "[]"})
    run.stop()
    report = summary.result()
    assert (report.run_uid, report.montage_id, report.exit_status) == (run.uid, "m-7", "success")
    assert (report.frames, report.tiles) == (5, 4)
    assert report.verdicts == {"pass": 3, "fail": 2}
    (again,) = report.reacquired
    assert (again.roi, again.row, again.column, again.attempt, again.reasons) == (0, 0, 1, 1, ("blurred",))
    assert report.failed == ((0, 0, 3),)
    assert report.paths == (run.path,)
    assert report.times is not None
    # a cycle of 0.3 s; the ideal is max(0.1 move + 0.05 settle, 0.05 readout) + 0.1 exposure
    assert report.times.cycle == pytest.approx((0.3, 1.2))
    assert report.times.move == pytest.approx((0.1, 0.4))
    assert report.times.settle == pytest.approx((0.05, 0.2))
    assert report.times.expose == pytest.approx((0.1, 0.4))
    assert report.times.software == pytest.approx((0.05, 0.2))
    assert report.times.ratio == pytest.approx(1.2)
    text = report.as_text(overview="/a/b.png", catalog=None)
    for part in (
        "4 in 5 frames",
        "row 0 column 1, attempt 1: blurred",
        "50.00 ms",
        "1.200 x",
        "overview   /a/b.png",
    ):
        assert part in text
    assert "catalog" not in text


def test_readout_longer_than_the_move_is_not_software() -> None:
    columns = {
        "exposure_start_s": np.array([0.0, 1.0, 2.0]),
        "exposure_time_s": np.full(3, 0.2),
        "readout_time_s": np.full(3, 0.75),
        "move_time_s": np.array([np.nan, 0.1, np.nan]),
        "settle_time_s": np.array([np.nan, 0.1, np.nan]),
    }
    times = split_times(columns)
    assert times is not None
    assert times.software == pytest.approx((0.05, 0.1))
    assert times.move == pytest.approx((0.1, 0.1))
    assert split_times({name: values[:1] for name, values in columns.items()}) is None


def test_runs_without_tiles_leave_the_last_report(tmp_path: Path) -> None:
    summary = MontageSummary()
    run = MontageRun(tmp_path, emit=summary)
    run.tiles([FRAME])
    run.stop("abort")
    assert summary.result().exit_status == "abort"
    assert summary.result().times is None
    assert "not judged" in summary.result().as_text()
    MontageRun(tmp_path, emit=summary).stop()
    assert summary.result().run_uid == run.uid


def test_behind_a_queue(tmp_path: Path) -> None:
    summary = MontageSummary()
    queued = summary.queued()
    run = MontageRun(tmp_path, emit=queued)
    run.tiles([FRAME] * 3)
    run.stop()
    assert queued.close()
    assert summary.result().frames == 3
