"""The progress display: a bar on a terminal, a line now and then elsewhere, nothing for other runs."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import event_model
import numpy as np
import pytest
from rich.console import Console

import processing.callbacks.progress as module
from processing.callbacks.progress import Progress
from tests.processing.documents import MontageRun

FRAME = np.zeros((64, 64), np.uint16)


def acquire(tmp_path: Path, progress: Progress) -> None:
    run = MontageRun(tmp_path, emit=progress, num_points=6, montage_id="m-9")
    run.tiles([FRAME] * 3)
    faults = json.dumps([{"kind": "blurred"}])
    run.verdict({"tile_index": 0, "tile_row": 2, "tile_column": 1, "qc_state": "fail", "faults": faults})
    run.verdict({"tile_index": 1, "tile_row": 2, "tile_column": 2, "qc_state": "pass", "faults": "[]"})
    run.tiles([FRAME] * 4)
    run.stop()


def test_lines_where_there_is_no_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LINE_INTERVAL_S", 0.0)
    output = io.StringIO()
    acquire(tmp_path, Progress(Console(file=output, width=200)))
    lines = output.getvalue().splitlines()
    assert lines[0].startswith("m-9: 3/6 tiles | ")
    assert "last fault: blurred at row 2 column 1" in lines[1]
    assert "1 pass, 1 fail" in lines[2]
    assert lines[-1].startswith("7/7 tiles | ")  # a tile acquired again came on top
    assert lines[-1].endswith("| success")
    assert "\x1b" not in output.getvalue()


def test_a_short_run_prints_its_end_only(tmp_path: Path) -> None:
    output = io.StringIO()
    acquire(tmp_path, Progress(Console(file=output, width=200)))
    assert len(output.getvalue().splitlines()) == 1


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    output = io.StringIO()
    progress = Progress(Console(file=output, width=160, force_terminal=True))
    acquire(tmp_path, progress)
    progress.close()
    text = output.getvalue()
    assert "m-9" in text
    assert "7/7" in text
    assert "last fault: blurred" in text


def test_runs_without_tiles_show_nothing() -> None:
    output = io.StringIO()
    progress = Progress(Console(file=output, force_terminal=True))
    run = event_model.compose_run()
    progress("start", run.start_doc)
    key = {"source": "s", "dtype": "number", "shape": []}
    stream = run.compose_descriptor(name="primary", data_keys={"x": key})
    progress("descriptor", stream.descriptor_doc)
    progress("event", stream.compose_event(data={"x": 1}, timestamps={"x": 0.0}))
    progress("stop", run.compose_stop())
    assert output.getvalue() == ""


def test_a_failing_display_stops_no_run(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        Progress()("descriptor", {})
    assert "progress display failed" in caplog.text
