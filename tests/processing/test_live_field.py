"""The distortion is kept, used again, and said to have changed once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plans.calibrations import Calibration, CalibrationStore
from processing.callbacks._live_field import known_field, watch_field
from processing.kernels.field import FieldModel
from processing.stitching.engine import Stitcher, StitchOptions, TileInput
from processing.stitching.solution import StitchSolution

SIZE = (512, 512)
PIXEL_NM = 4.0
COEFFICIENTS = np.random.default_rng(1).normal(0, 1, (2, 7))


def found(scale: float, origin: str = "calibrated", tiles: int = 9, left_px: float = 0.1) -> StitchSolution:
    """Return what a montage of tiles that match might find, with a field of ``scale`` px."""
    stitcher = Stitcher(StitchOptions(), SIZE)
    blank = np.zeros(SIZE, np.uint8)
    for k in range(tiles):
        stitcher.add(TileInput((0, 0, k), 0, (450.0 * k, 0.0)), blank)
    solution = stitcher.solution()
    return replace(
        solution,
        tiles=tuple(replace(tile, matched=True) for tile in solution.tiles),
        field=FieldModel(*SIZE, 3, scale * COEFFICIENTS),
        field_origin=origin,
        field_change_px=(0.5, 1.5) if origin != "calibrated" else None,
        holdout_p95_px=left_px,
    )


def scale_known(folder: Path, **start: Any) -> float | None:
    """Return the ``scale`` of the field that is known."""
    known = known_field(folder, PIXEL_NM, SIZE, start, folder / "calibrations")
    return None if known is None else float((known.field.coefficients / COEFFICIENTS).mean())


def test_a_field_is_kept_for_its_magnification(tmp_path: Path) -> None:
    assert scale_known(tmp_path) is None
    assert not watch_field(tmp_path, PIXEL_NM, "one", found(1.0), None)["field_changed"]
    assert scale_known(tmp_path) == pytest.approx(1)
    assert known_field(tmp_path, 2 * PIXEL_NM, SIZE, {}, None) is None
    assert known_field(tmp_path, PIXEL_NM, (512, 256), {}, None) is None


def test_a_field_that_holds_stays_and_one_that_does_not_is_replaced(tmp_path: Path) -> None:
    watch_field(tmp_path, PIXEL_NM, "one", found(1.0), None)
    known = known_field(tmp_path, PIXEL_NM, SIZE, {}, None)
    said = watch_field(tmp_path, PIXEL_NM, "two", found(1.1, "given"), known)
    assert said == {"field_known": "montage run one", "field_changed": False, "field_change_px": [0.5, 1.5]}
    assert scale_known(tmp_path) == pytest.approx(1)
    assert watch_field(tmp_path, PIXEL_NM, "three", found(4.0, "outdated"), known)["field_changed"]
    assert scale_known(tmp_path) == pytest.approx(4)


@pytest.mark.parametrize("poor", [{"tiles": 8}, {"left_px": 1.5}, {"left_px": float("nan")}])
def test_what_few_tiles_or_poor_matches_tell_is_not_kept(tmp_path: Path, poor: dict[str, Any]) -> None:
    watch_field(tmp_path, PIXEL_NM, "one", found(1.0, **poor), None)
    assert scale_known(tmp_path) is None


def test_the_newer_of_calibration_and_montage_counts(tmp_path: Path) -> None:
    store = CalibrationStore(tmp_path / "calibrations")
    # of frames binned by two
    values: dict[str, Any] = {"degree": 3.0, "width_px": 256.0, "height_px": 256.0}
    about: dict[str, Any] = {"magnification": 2000, "high_voltage_kv": 200, "camera": "camera", "binning": 2}
    for uid, made_at_s, scale in (("old", 1.0, 2.0), ("new", 4e9, 3.0)):
        made = Calibration(uid=uid, kind="distortion", made_at_s=made_at_s, values=values, **about)
        store.add(made, {"field_coefficients_px": 0.5 * scale * COEFFICIENTS})
    assert scale_known(tmp_path, calibration_uids=["another", "old"]) == pytest.approx(2)
    watch_field(tmp_path, PIXEL_NM, "one", found(1.0), None)
    assert scale_known(tmp_path, calibration_uids=["another", "old"]) == pytest.approx(1)
    assert scale_known(tmp_path, calibration_uids=["new"]) == pytest.approx(3)
    assert scale_known(tmp_path) == pytest.approx(1)


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    watch_field(tmp_path, PIXEL_NM, "one", found(1.0), None)
    (path,) = tmp_path.glob("field-*.json")
    path.write_text("{")
    assert scale_known(tmp_path) is None
    watch_field(tmp_path, PIXEL_NM, "two", found(2.0), None)
    assert scale_known(tmp_path) == pytest.approx(2)
