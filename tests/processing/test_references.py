"""The references of a run: found from its start document, and taken out of what QC and overview look at."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices.errors import ConfigurationError
from plans.calibrations import Calibration, CalibrationKind, CalibrationStore
from processing.callbacks.overview import Overview
from processing.callbacks.tile_qc import TileQC
from processing.references import read_reference
from processing.survey import SurveyCollector
from tests.processing.documents import MontageRun
from tests.processing.specimens import expose, tissue

SHAPE = (96, 128)
DARK = np.full(SHAPE, 300.0, np.float32)
BRIGHT = np.linspace(0.5, 1.5, SHAPE[1], dtype=np.float32) * np.ones((SHAPE[0], 1), np.float32)


@pytest.fixture
def store(tmp_path: Path) -> CalibrationStore:
    """Return a store with a dark and a bright reference, and another calibration."""
    store = CalibrationStore(tmp_path / "calibrations")
    keep(store, "dark", "d1", {"dark": DARK})
    keep(store, "bright", "b1", {"bright": BRIGHT})
    keep(store, "stage_camera", "s1", None)
    return store


def keep(
    store: CalibrationStore, kind: CalibrationKind, uid: str, arrays: dict[str, Any] | None
) -> Calibration:
    """Keep a calibration."""
    made = Calibration(
        uid=uid,
        kind=kind,
        made_at_s=time.time(),
        magnification=5000,
        high_voltage_kv=120,
        camera="camera",
        binning=1,
        values={"exposure_time_s": 0.1},
    )
    return store.add(made, arrays)


def test_a_run_that_names_both_has_a_reference(store: CalibrationStore) -> None:
    for uids in (["s1", "d1", "b1"], {"dark": "d1", "bright": "b1"}):
        found = read_reference({"calibration_uids": uids}, store.folder)
        assert found is not None
        assert np.array_equal(found.dark, DARK)
        assert found.gain == pytest.approx(1 / BRIGHT)
    for start in ({}, {"calibration_uids": ["s1", "d1"]}, {"calibration_uids": ["gone", "*"]}):
        assert read_reference(start, store.folder) is None
    assert read_reference({"calibration_uids": ["d1", "b1"]}, None) is None


def test_a_reference_that_is_damaged_is_named(store: CalibrationStore) -> None:
    start = {"calibration_uids": ["d1", "b1"]}
    (path,) = store.folder.glob("bright-*.npz")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ConfigurationError, match=r"bright reference .* run calibrate_bright again"):
        read_reference(start, store.folder)
    path.unlink()
    with pytest.raises(ConfigurationError, match="No such file"):
        read_reference(start, store.folder)
    keep(store, "bright", "b2", {"bright": BRIGHT[:50]})
    with pytest.raises(ConfigurationError, match="must be of one size"):
        read_reference({"calibration_uids": ["d1", "b2"]}, store.folder)


def test_what_looks_at_frames_sees_them_corrected(tmp_path: Path, store: CalibrationStore) -> None:
    qc, seen = TileQC(calibrations=store.folder), SurveyCollector(calibrations=store.folder)
    emitted: list[tuple[str, dict[str, Any]]] = []
    overview = Overview(
        tmp_path / "out", lambda *doc: emitted.append(doc), reduction=1, calibrations=store.folder
    )

    def emit(name: str, doc: dict[str, Any]) -> None:
        for callback in (qc, overview, seen):
            callback(name, doc)

    view = {"stage_per_px_um": [[0.01, 0.0], [0.0, 0.01]]}
    run = MontageRun(tmp_path, SHAPE, emit, ring_slots=8, calibration_uids=["d1", "b1"], montage_view=view)
    light = [expose(tissue(SHAPE, seed), seed) for seed in range(3)]
    frames = [np.rint(one * BRIGHT + DARK).astype(np.uint16) for one in light]
    run.tiles(frames, [(2.0 * n, 0.0) for n in range(3)])
    run.stop()
    for verdict, one in zip(qc.take(), light, strict=True):
        assert verdict.metrics.mean_counts == pytest.approx(one.mean(), rel=1e-3)
        assert verdict.metrics.std_counts == pytest.approx(one.std(), rel=1e-3)
    for picture in (overview.picture(), seen.picture()):
        assert picture is not None
        left = picture.pixels[:, : SHAPE[1]].astype(float)
        assert np.abs(left - light[0]).max() < 2
    assert dict(emitted)["start"]["parameters"]["corrected"] is True


def test_one_that_does_not_fit_is_told_and_left_out(
    tmp_path: Path, store: CalibrationStore, caplog: pytest.LogCaptureFixture
) -> None:
    qc = TileQC(calibrations=store.folder)
    run = MontageRun(tmp_path, (64, 64), qc, calibration_uids=["d1", "b1"])
    frames = [expose(tissue((64, 64), seed), seed) for seed in range(2)]
    with caplog.at_level(logging.ERROR):
        run.tiles(frames)
        run.stop()
    assert [verdict.metrics.mean_counts for verdict in qc.take()] == pytest.approx(
        [frame.mean() for frame in frames], rel=1e-4
    )
    (message,) = (one.message for one in caplog.records if "not corrected" in one.message)
    assert str(run.path) in message
