"""The distortion is kept, compared, and said to have changed once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from processing.callbacks._live_field import watch_field
from processing.kernels.field import FieldModel
from processing.stitching.engine import Stitcher, StitchOptions, TileInput
from processing.stitching.solution import StitchSolution

SIZE = (512, 512)


def found(scale: float, tiles: int = 9) -> StitchSolution:
    """Return what a montage of tiles that match might find, with a field of ``scale`` px."""
    stitcher = Stitcher(StitchOptions(), SIZE)
    blank = np.zeros(SIZE, np.uint8)
    for k in range(tiles):
        stitcher.add(TileInput((0, 0, k), 0, (450.0 * k, 0.0)), blank)
    solution = stitcher.solution()
    coefficients = scale * np.random.default_rng(1).normal(0, 1, (2, 7))
    return replace(
        solution,
        tiles=tuple(replace(tile, matched=True) for tile in solution.tiles),
        field=FieldModel(*SIZE, 3, coefficients),
        field_origin="calibrated",
        residual_p95_px=0.05,
    )


def changed(folder: Path, scale: float, pixel_nm: float = 4.0, **more: Any) -> Any:
    """Return what is said of a montage: whether the distortion changed, None where nothing is known."""
    said = watch_field(folder, pixel_nm, found(scale, **more))
    return said["field_changed"] if said["field_change_px"] else None


def test_a_change_is_said_once(tmp_path: Path) -> None:
    assert changed(tmp_path, 1.0) is None
    assert changed(tmp_path, 1.05) is False
    assert changed(tmp_path, 4.0) is True
    assert changed(tmp_path, 4.0) is False


def test_each_magnification_has_its_own_and_small_montages_say_nothing(tmp_path: Path) -> None:
    assert changed(tmp_path, 1.0) is None
    assert changed(tmp_path, 5.0, pixel_nm=8.0) is None
    assert changed(tmp_path, 5.0, tiles=8) is None
    assert changed(tmp_path, 1.0) is False


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    assert changed(tmp_path, 1.0) is None
    (path,) = tmp_path.glob("field-*.json")
    path.write_text("{")
    assert changed(tmp_path, 1.0) is None
    assert changed(tmp_path, 1.0) is False
