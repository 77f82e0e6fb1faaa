"""Offsets of overlapping tiles: exact, with an error that is true, and refused where there is none."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from montango.bench._stitch_sets import SetSpec, SyntheticSet
from processing.kernels.pairs import PairMatch, PairOptions, match_pair
from processing.kernels.strips import possible_overlap, shared
from tests.processing.specimens import tissue

Image = npt.NDArray[Any]


def _montage(noise: float, side: int = 3, tile_px: int = 320, sigma_px: float = 6.0) -> SyntheticSet:
    spec = SetSpec("small", side, side, tile_px, 72, sigma_px, noise, seed=3)
    drawn = tissue((spec.canvas_px, spec.canvas_px), seed=5)
    smooth = cv2.GaussianBlur(drawn, (0, 0), 1.0)
    grey = np.clip(140 + 33 * (smooth - smooth.mean()) / smooth.std(), 0, 255).astype(np.uint8)
    return SyntheticSet(spec, grey)


@pytest.fixture(scope="module")
def montage() -> SyntheticSet:
    return _montage(12.0)


def _matched(
    montage: SyntheticSet, i: int, j: int, **changes: Any
) -> tuple[PairMatch, npt.NDArray[np.float64]]:
    nominal = montage.nominal_px[j] - montage.nominal_px[i]
    match = match_pair(
        montage.image(i), montage.image(j), (float(nominal[0]), float(nominal[1])), (30.0, 30.0), **changes
    )
    true = montage.true_px[j] - montage.true_px[i]
    return match, np.array([match.dx_px, match.dy_px]) - true


@pytest.mark.parametrize(("noise", "limit_px"), [(2.0, 0.02), (12.0, 0.08), (50.0, 0.4)])
def test_neighbours_are_found_and_the_error_is_as_large_as_it_says(noise: float, limit_px: float) -> None:
    montage = _montage(noise, 4)
    normal = []
    for i, j in montage.pairs():
        match, error = _matched(montage, i, j)
        assert match.accepted, match.reason
        assert np.abs(error).max() < limit_px
        assert np.abs(np.subtract(sorted(match.overlap_px), (72, 320))).max() < 45
        xx, xy, yy = match.covariance_px2
        normal.append(error @ np.linalg.solve([[xx, xy], [xy, yy]], error) / 2)
    assert 0.4 < np.mean(normal) < 2.5


def test_corners_sizes_and_tiles_inside_tiles(montage: SyntheticSet) -> None:
    first, second = montage.image(0), montage.image(4)
    true = montage.true_px[4] - montage.true_px[0]
    corner = match_pair(first, second, (float(true[0]) + 4, float(true[1]) - 5), (12.0, 12.0))
    assert corner.accepted, corner.reason
    assert math.hypot(corner.dx_px - true[0], corner.dy_px - true[1]) < 0.3
    part = montage.image(1)[40:240, :260]
    true = montage.true_px[1] - montage.true_px[0] + [(260 - 320) / 2, 40 + (200 - 320) / 2]
    cut = match_pair(first, part, (float(true[0]) + 4, float(true[1]) - 5), (12.0, 12.0))
    assert cut.accepted, cut.reason
    assert math.hypot(cut.dx_px - true[0], cut.dy_px - true[1]) < 0.1
    back = match_pair(part, first, (-float(true[0]), -float(true[1])), (12.0, 12.0))
    assert math.hypot(back.dx_px + cut.dx_px, back.dy_px + cut.dy_px) < 0.05


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_counts_of_any_scale_give_the_same(montage: SyntheticSet, dtype: str) -> None:
    scale = 190 if dtype == "uint16" else 1e-6
    first, second = ((montage.image(i).astype(np.float32) * scale).astype(dtype) for i in (0, 1))
    nominal = montage.nominal_px[1] - montage.nominal_px[0]
    scaled = match_pair(first, second, (float(nominal[0]), float(nominal[1])), (30.0, 30.0))
    plain, _ = _matched(montage, 0, 1)
    assert math.hypot(scaled.dx_px - plain.dx_px, scaled.dy_px - plain.dy_px) < 1e-3


def test_gain_that_varies_across_the_overlap_does_not_pull(montage: SyntheticSet) -> None:
    first, second = montage.image(0).astype(np.float32), montage.image(1).astype(np.float32)
    ramp = np.linspace(0.8, 1.2, 320, dtype=np.float32)
    true = montage.true_px[1] - montage.true_px[0]
    match = match_pair(first * ramp, second * ramp[:, None], (float(true[0]), float(true[1])), (20.0, 20.0))
    assert match.accepted, match.reason
    assert math.hypot(match.dx_px - true[0], match.dy_px - true[1]) < 0.05


def test_tiles_that_share_nothing_are_refused(montage: SyntheticSet) -> None:
    # 0 is the upper left tile: those two away do not touch it
    for j in (2, 5, 6, 7, 8):
        for predicted in ((248.0, 0.0), (0.0, 248.0)):
            match = match_pair(montage.image(0), montage.image(j), predicted, (30.0, 30.0))
            assert not match.accepted
            assert match.reason
            assert (match.dx_px, match.dy_px) == predicted
            assert math.isinf(match.covariance_px2[0])


def test_a_place_beyond_the_search_is_not_taken_for_one_inside(montage: SyntheticSet) -> None:
    true = montage.true_px[1] - montage.true_px[0]
    for miss in (14.0, 25.0, -25.0):
        match = match_pair(
            montage.image(0), montage.image(1), (float(true[0]) + miss, float(true[1])), (8.0, 8.0)
        )
        assert not match.accepted, miss


def _spoilt(tile: Image, how: str) -> Image:
    tile = tile.astype(np.float32) if how == "nan" else tile.copy()
    noise = np.random.default_rng(0).integers(100, 140, tile.shape)
    values = {"constant": 7, "saturated": 255, "nan": math.nan, "noise": noise}
    tile[:] = values[how]
    if how == "saturated":
        tile[100, ::2] = 130
    return tile


@pytest.mark.parametrize(
    ("how", "word"),
    [("constant", "blank"), ("saturated", "saturated"), ("nan", "not a number"), ("noise", "no match")],
)
def test_tiles_without_structure_are_refused_in_words(montage: SyntheticSet, how: str, word: str) -> None:
    for order in (1, -1):
        pair = [_spoilt(montage.image(0), how), montage.image(1)][::order]
        match = match_pair(pair[0], pair[1], (248.0, 0.0), (30.0, 30.0))
        assert not match.accepted
        assert word in match.reason


def test_missing_pixels_are_left_out(montage: SyntheticSet) -> None:
    tile = montage.image(0).astype(np.float32)
    tile[60:90, 250:] = math.nan
    true = montage.true_px[1] - montage.true_px[0]
    match = match_pair(
        tile, montage.image(1).astype(np.float32), (float(true[0]), float(true[1])), (20.0, 20.0)
    )
    assert match.accepted, match.reason
    assert math.hypot(match.dx_px - true[0], match.dy_px - true[1]) < 0.2


def test_too_little_overlap_and_no_place(montage: SyntheticSet) -> None:
    tile = montage.image(0)
    assert "16 px" in match_pair(tile, tile, (306.0, 0.0), (1.0, 1.0)).reason
    assert "16 px" in match_pair(tile, tile[:5], (0.0, 0.0)).reason
    assert "16 px" in match_pair(tile, tile[:0], (0.0, 0.0)).reason
    assert "no place" in match_pair(tile, tile, (math.nan, 0.0)).reason
    for wrong in (tile.astype(np.float64), tile[None], None):
        with pytest.raises(TypeError, match="a tile must be"):
            match_pair(wrong, tile, (0.0, 0.0))  # type: ignore[arg-type]


def test_options_refuse(montage: SyntheticSet) -> None:
    assert "correlation" in _matched(montage, 0, 1, options=PairOptions(min_ncc=0.9999))[0].reason
    assert "highest peak" in _matched(montage, 0, 1, options=PairOptions(min_z=1e6))[0].reason


def test_threads_give_what_one_does(montage: SyntheticSet) -> None:
    pairs = list(montage.pairs())
    alone = [_matched(montage, i, j)[0] for i, j in pairs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda pair: _matched(montage, *pair)[0], pairs))
    assert together == alone


def test_real_seams_are_found_and_others_are_not(test_data: Path) -> None:
    tiles: dict[tuple[int, int], Image] = {}
    for row, column in np.ndindex(3, 3):
        path = test_data / f"mussel/sample_2/2_{row + 1}_{column + 1}.png"
        tiles[row + 1, column + 1] = np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    for (row, column), tile in tiles.items():
        for other, predicted in (((row, column + 1), (1847.0, 0.0)), ((row + 1, column), (0.0, 1595.0))):
            if other in tiles:
                assert match_pair(tile, tiles[other], predicted, (100.0, 100.0)).accepted
    for other in ((1, 3), (3, 1), (3, 3), (2, 3)):
        assert not match_pair(tiles[1, 1], tiles[other], (1847.0, 0.0), (100.0, 100.0)).accepted


@given(
    first=st.integers(1, 60), second=st.integers(1, 60), corner=st.floats(-80, 80), search=st.floats(0, 30)
)
@settings(deadline=None, max_examples=200)
def test_strips_hold_all_that_may_overlap(first: int, second: int, corner: float, search: float) -> None:
    axis = possible_overlap(first, second, corner, search)
    for place in range(math.ceil(corner - search), math.floor(corner + search) + 1):
        lag = place - axis.first.start + axis.second.start
        assert axis.low <= lag <= axis.high
        assert shared(axis.first_px, axis.second_px, lag) == shared(first, second, place)
        assert axis.longest_overlap_px >= shared(first, second, place)
