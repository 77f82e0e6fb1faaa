"""Synthetic montages: the truth is exact, the same every time, and small in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from montango.bench._stitch_canvas import make_canvas
from montango.bench._stitch_sets import SETS, SetSpec, SyntheticSet, open_set

SPEC = SetSpec("tiny", 2, 3, 96, 24, 5.0, 0.0, gain_sigma=0.0, vignetting=0.0, seed=7)


def test_tiles_show_the_canvas_where_they_say() -> None:
    y, x = np.mgrid[: SPEC.canvas_px, : SPEC.canvas_px]

    def wave(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(140 + 50 * np.sin(0.9 * x + 0.3 * y) + 40 * np.cos(0.2 * x - 1.1 * y))

    made = SyntheticSet(SPEC, np.round(wave(x, y)).astype(np.uint8))
    for i, tile in made.tiles():
        across, down = np.meshgrid(np.arange(96), np.arange(96))
        corner = made.true_px[i] - 95 / 2 + SPEC.margin_px
        error = tile - wave(across + corner[0], down + corner[1])
        # half a grey value twice over; a hundredth of a pixel would be as much as all the bias
        assert np.abs(error).max() < 2.0
        assert abs(error.mean()) < 0.05
        slope = 45 * np.cos(0.9 * (across + corner[0]) + 0.3 * (down + corner[1]))
        assert abs((error * slope).sum() / (slope**2).sum()) < 0.005
    assert np.abs(made.true_px - made.nominal_px).max() <= 15.0
    assert list(made.pairs())[:3] == [(0, 1), (1, 2), (0, 3)]
    assert (made.rows, made.columns, made.tile_px, made.overlap_px, len(made)) == (2, 3, 96, 24, 6)


def test_noise_and_light_follow_from_the_seed() -> None:
    grey = np.full((SPEC.canvas_px, SPEC.canvas_px), 140, np.uint8)
    noisy = SetSpec("tiny", 2, 3, 96, 24, 5.0, 12.0, seed=7)
    made = SyntheticSet(noisy, grey)
    assert np.array_equal(made.image(3), SyntheticSet(noisy, grey).image(3))
    assert not np.array_equal(made.image(3), made.image(4))
    assert made.image(3).std() == pytest.approx(12.0, rel=0.1)


def test_a_canvas_is_drawn_once(tmp_path: Path) -> None:
    first = make_canvas(tmp_path, 1024)
    stamp = [path.stat().st_mtime_ns for path in tmp_path.iterdir()]
    again = make_canvas(tmp_path, 1024)
    assert np.array_equal(first, again)
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == stamp
    assert 20 < np.asarray(first).std() < 45


def test_recorded_tiles_are_used_where_they_are(tmp_path: Path, test_data: Path) -> None:
    canvas = np.asarray(make_canvas(tmp_path, 2000, recorded=test_data))
    assert [path.name for path in tmp_path.iterdir()] == ["canvas-recorded-2000-0.npy"]
    assert 20 < canvas.std() < 45
    assert abs(float(canvas.mean()) - 140) < 10


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no set 'x'; there are s25"):
        open_set("x", tmp_path)
    with pytest.raises(ValueError, match="needs a canvas of"):
        SyntheticSet(SPEC, np.zeros((64, 64), np.uint8))
    assert {"s25", "s100", "s400", "n100", "e100", "k64"} <= set(SETS)
