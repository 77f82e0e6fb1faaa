"""Tiles drawn: where their pixels go, how deep they lie, what masks and references do."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from processing.kernels.blend import FEATHER_STEPS, blend_feather, halve, halves
from processing.kernels.field import FieldModel
from processing.kernels.render import (
    WEIGHT_STEPS,
    Area,
    Patch,
    TileTransform,
    footprint,
    render_tile,
    tile_weight,
)

SHAPE = 120, 150
Image = npt.NDArray[np.float64]


def wave(points: npt.NDArray[np.float64]) -> Image:
    """Return a smooth picture at points (..., 2), 20 to 230."""
    x, y = points[..., 0], points[..., 1]
    return np.asarray(125 + 60 * np.sin(x / 9.0 + y / 17.0) + 45 * np.cos(y / 8.0 - x / 21.0))


def frame_of(transform: TileTransform, shape: tuple[int, int] = SHAPE, scale: float = 1.0) -> Image:
    """Return what a tile that lies so sees of the picture."""
    rows, columns = shape
    x, y = np.meshgrid(np.arange(columns) - (columns - 1) / 2, np.arange(rows) - (rows - 1) / 2)
    return scale * wave(transform(np.stack([x, y], -1)))


def distortion(largest_px: float = 1.0) -> FieldModel:
    rng = np.random.default_rng(2)
    model = FieldModel(SHAPE[1], SHAPE[0], 5, rng.normal(0, 1, (2, 18)))
    return FieldModel(SHAPE[1], SHAPE[0], 5, model.coefficients * largest_px / model.largest_px)


def mosaic_points(patch: Patch) -> npt.NDArray[np.float64]:
    area = patch.area
    x, y = np.meshgrid(np.arange(area.x0, area.x1), np.arange(area.y0, area.y1))
    return np.stack([x, y], -1).astype(np.float64)


TRANSFORMS = {
    "whole pixels": TileTransform((500.5, -39.5)),
    "sub-pixel": TileTransform((500.3, -39.2)),
    "turned": TileTransform((500.3, -39.2), ((1.01, 0.03), (-0.028, 0.985))),
    "field": TileTransform((500.3, -39.2), ((1.002, 0.003), (-0.001, 0.998)), distortion()),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize(("dtype", "scale"), [("uint8", 1), ("uint16", 250), ("float32", 1)])
def test_a_tile_lands_where_its_transform_says(name: str, dtype: str, scale: float) -> None:
    transform = TRANSFORMS[name]
    image = np.rint(frame_of(transform, scale=scale)).astype(dtype)
    patch = render_tile(image, transform)
    assert patch.pixels.dtype == image.dtype
    assert patch.pixels.shape == patch.weight.shape
    error = patch.pixels / scale - wave(mosaic_points(patch))
    inside = patch.weight > 3 * WEIGHT_STEPS
    assert inside.sum() > 0.85 * image.size
    # the picture changes by up to 13 counts a px: 0.02 px are a quarter of a count, rounding twice 0.4 rms
    assert np.sqrt((error[inside] ** 2).mean()) < 0.55
    assert np.abs(error[inside]).max() < 2.0


@pytest.mark.parametrize("name", TRANSFORMS)
def test_weight_is_the_depth_in_the_tile(name: str) -> None:
    transform = TRANSFORMS[name]
    patch = render_tile(np.ones(SHAPE, np.uint8), transform)
    field = transform.field
    points = mosaic_points(patch) - np.asarray(transform.position_px)
    points = points @ np.linalg.inv(np.asarray(transform.matrix)).T
    if isinstance(field, FieldModel):
        points = field.inverse(points)
    depth = np.minimum(SHAPE[1] / 2 - np.abs(points[..., 0]), SHAPE[0] / 2 - np.abs(points[..., 1]))
    expected = np.where(depth >= 0, np.floor(depth * WEIGHT_STEPS) + 1, 0)
    assert np.abs(patch.weight - expected).max() <= 1
    assert abs(int((patch.weight > 0).sum()) - SHAPE[0] * SHAPE[1]) < 0.04 * SHAPE[0] * SHAPE[1]
    np.testing.assert_array_equal(tile_weight(transform, SHAPE).weight, patch.weight)
    assert tile_weight(transform, SHAPE).origin_px == patch.origin_px


def test_whole_pixels_are_copied() -> None:
    image = np.random.default_rng(0).integers(0, 65536, SHAPE, dtype=np.uint16)
    patch = render_tile(image, TileTransform((10 + 74.5, -3 + 59.5)))
    assert patch.origin_px == (10, -3)
    np.testing.assert_array_equal(patch.pixels, image)
    assert (patch.weight > 0).all()


@settings(max_examples=30)
@given(x=st.floats(-3, 3), y=st.floats(-3, 3))
def test_the_short_way_for_shifts_is_the_long_way(x: float, y: float) -> None:
    assume(y == round(y) or abs(y - round(y)) > 1e-9)  # else the shear moves an edge over a pixel's centre
    transform = TileTransform((x, y))
    image = frame_of(transform).astype(np.float32)
    short = render_tile(image, transform)
    long = render_tile(image, TileTransform((x, y), ((1.0, 0.0), (1e-12, 1.0))))
    assert short.origin_px == long.origin_px
    assert np.abs(short.weight.astype(int) - long.weight).max() <= 1
    inside = np.minimum(short.weight, long.weight) > 3 * WEIGHT_STEPS
    assert np.abs(short.pixels - long.pixels)[inside].max() < 0.6


def test_no_pixel_near_an_invalid_one_is_used() -> None:
    transform = TRANSFORMS["field"]
    image = frame_of(transform).astype(np.float32)
    image[40:50, 60:75] = np.nan
    patch = render_tile(image, transform)
    error = patch.pixels - wave(mosaic_points(patch))
    assert np.isfinite(patch.pixels).all()
    assert np.abs(error[patch.weight > 3 * WEIGHT_STEPS]).max() < 2.0
    lost = (render_tile(np.ones(SHAPE, np.uint8), transform).weight > 0) & (patch.weight == 0)
    assert 150 <= lost.sum() <= 600
    masked = render_tile(np.nan_to_num(image), transform, mask=np.isfinite(image))
    np.testing.assert_array_equal(masked.weight, patch.weight)


def test_counts_stay_in_their_range() -> None:
    image = np.zeros(SHAPE, np.uint8)
    image[:, 75:] = 255
    patch = render_tile(image, TRANSFORMS["turned"], interpolation="lanczos")
    assert {0, 255} <= set(np.unique(patch.pixels))
    bright = patch.pixels[:, 90:140][patch.weight[:, 90:140] > 0]
    assert (bright == 255).all()


def test_a_reference_is_applied_first() -> None:
    class Doubling:
        def apply(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
            return image * 2

    patch = render_tile(np.full(SHAPE, 40, np.uint8), TRANSFORMS["whole pixels"], reference=Doubling())
    assert (patch.pixels == 80).all()


@pytest.mark.parametrize(
    ("image", "transform", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), TileTransform((0, 0)), "shape"),
        (np.zeros((4, 4), np.int32), TileTransform((0, 0)), "int32"),
        (np.zeros((4, 4), np.uint8), TileTransform((np.nan, 0)), "not finite"),
        (np.zeros((4, 4), np.uint8), TileTransform((0, 0), ((0.0, 1.0), (1.0, 0.0))), "determinant"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    image: npt.NDArray[np.uint8], transform: TileTransform, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        render_tile(image, transform)


def test_a_field_that_folds_the_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be undone"):
        render_tile(np.zeros(SHAPE, np.uint8), TileTransform((0, 0), field=distortion(200.0)))
    mask = np.ones((3, 3), np.bool_)
    with pytest.raises(ValueError, match="mask"):
        render_tile(np.zeros(SHAPE, np.uint8), TileTransform((0, 0)), mask=mask)


def test_footprint_holds_the_pixels_whose_centres_are_inside() -> None:
    assert footprint(TileTransform((1.5, 0.5)), (2, 4)) == Area(0, 0, 4, 2)
    assert footprint(TileTransform((1.75, 0.5)), (2, 4)) == Area(0, 0, 4, 2)
    assert footprint(TileTransform((2.25, 0.5)), (2, 4)) == Area(1, 0, 5, 2)


@given(st.integers(0, 2**32 - 1), st.sampled_from([np.uint8, np.uint16]))
def test_halving_takes_the_mean_of_pixels_with_data(
    seed: int, dtype: type[np.unsignedinteger[npt.NBitBase]]
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(1, np.iinfo(dtype).max, (12, 22), dtype=dtype, endpoint=True)
    image[rng.random(image.shape) < rng.choice([0, 0.3, 0.9])] = 0
    out = np.full((6, 11), 7, dtype)
    halve(image, out)
    four = image.reshape(6, 2, 11, 2).astype(np.int64)
    count = (four > 0).sum((1, 3))
    np.testing.assert_array_equal(out, (four.sum((1, 3)) + count // 2) // np.maximum(count, 1))


def test_halves_round_sizes_up() -> None:
    assert [one.shape for one in halves(np.ones((5, 9), np.uint8), 3)] == [(5, 9), (3, 5), (2, 3), (1, 2)]
    assert all((one == 1).all() for one in halves(np.ones((5, 9), np.uint8), 3))


def test_sums_hold_65_tiles_of_the_brightest_counts() -> None:
    for dtype in (np.uint8, np.uint16):
        top = np.iinfo(dtype).max
        image, sums = np.zeros((8, 8), dtype), np.zeros((8, 8), np.uint16)
        totals = np.zeros((8, 8), np.uint32)
        pixels, weight = np.full((8, 8), top, dtype), np.full((8, 8), 60000, np.uint16)
        for _ in range(70):
            blend_feather(image, sums, totals, pixels, weight, 1.0, 0.0, 1000)
        assert (sums == 65 * FEATHER_STEPS).all()
        assert (image == top).all()


def test_opencv_draws_a_turned_tile_alike() -> None:
    """The same by another way: OpenCV's own affine warp."""
    transform = TRANSFORMS["turned"]
    image = np.rint(frame_of(transform)).astype(np.uint8)
    patch = render_tile(image, transform)
    matrix = np.array(transform.matrix)
    centre = np.array([(SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2])
    shift = np.array(transform.position_px) - np.array(patch.origin_px) - matrix @ centre
    other = cv2.warpAffine(
        image, np.column_stack([matrix, shift]), patch.weight.shape[::-1], flags=cv2.INTER_CUBIC
    )
    inside = patch.weight > 3 * WEIGHT_STEPS
    difference = np.abs(patch.pixels.astype(int) - other.astype(int))[inside]
    assert difference.max() <= 2
