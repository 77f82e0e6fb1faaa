"""Shards drawn one by one, in any order, are the mosaic that the canvas draws."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from processing.kernels.field import FieldModel
from processing.kernels.render import Area, TileTransform, render_tile
from processing.mosaic._tiles import ShownTile
from processing.mosaic.canvas import Canvas
from processing.mosaic.pyramid import PyramidStore
from processing.mosaic.shards import draw_shard, draw_upper, first_upper_level, shard_areas, upper_rows

SHAPE = (90, 120)
BENT = FieldModel(
    120, 90, 3, np.array([[1.5, -1.0, 0.7, 0.4, 0.3, -0.2, 0.5], [0.9, 0.8, -1.2, 0.3, 0.1, 0.4, -0.6]])
)
TILES = {
    (row, column): TileTransform(
        (100.3 * column + 1.7 * row + 60, 72.6 * row - 0.8 * column + 40),
        ((1.002, 0.001), (-0.0015, 0.998)),
        BENT if column % 2 else None,
    )
    for row in range(4)
    for column in range(4)
}  # fmt: skip


@pytest.fixture(scope="module")
def images() -> dict[tuple[int, int], np.ndarray]:
    rng = np.random.default_rng(3)
    return {key: rng.integers(1, 250, SHAPE, np.uint8) for key in TILES}


def create(path: Path) -> PyramidStore:
    return PyramidStore.create(
        path,
        dtype=np.uint8,
        shape=(340, 462),
        origin_px=(-12, -21),
        pixel_size_nm=4.0,
        chunk_px=32,
        shard_px=64,
    )


@pytest.mark.parametrize("blending", ["flat", "feather"])
def test_shards_are_the_canvas(
    tmp_path: Path, images: dict[tuple[int, int], np.ndarray], blending: Literal["flat", "feather"]
) -> None:
    shown = {key: ShownTile(place, SHAPE, 1.01, 2.0) for key, place in TILES.items()}
    with create(tmp_path / "a.zarr") as store, Canvas(store, blending=blending, feather_px=12) as canvas:
        for key, tile in shown.items():
            canvas.add(key, images[key], tile.transform, gain=tile.gain, offset=tile.offset)
        canvas.flush()
        levels = store.levels
        wanted = [canvas.read(k, 0, 0, *store.geometry.level_shape(k)) for k in range(levels)]
    assert levels == 5

    read: list[tuple[int, int]] = []

    def reader(key: tuple[int, int]) -> np.ndarray:
        read.append(key)
        return images[key]

    path = tmp_path / "b.zarr"
    with create(path) as store:
        areas = shard_areas(store)
        for shard in sorted(areas, key=lambda one: (one[1], -one[0])):
            over = [(tile, lambda key=key: reader(key)) for key, tile in shown.items()]
            draw_shard(path, shard, over, feather_px=12 if blending == "feather" else None)
        for level in range(first_upper_level(store), store.levels):
            for row in reversed(upper_rows(store, level)):
                draw_upper(path, level, row)
    with PyramidStore.open(path) as store:
        for level, pixels in enumerate(wanted):
            drawn = store.read(level, 0, 0, *pixels.shape)
            assert ((drawn == 0) == (pixels == 0)).all()
            assert np.abs(drawn.astype(int) - pixels).max() <= 1
            assert (drawn == pixels).mean() > 0.999
    # a tile is read for the shards that it lies over, and for no other
    assert len(read) == sum(bool(tile.area & area) for tile in shown.values() for area in areas.values())


def test_a_frame_that_cannot_be_had_leaves_a_gap(
    tmp_path: Path, images: dict[tuple[int, int], np.ndarray]
) -> None:
    path, place = tmp_path / "c.zarr", TILES[0, 0]
    with create(path):
        draw_shard(path, (0, 0), [(ShownTile(place, SHAPE), lambda: None)], feather_px=None)
        draw_shard(path, (0, 1), [(ShownTile(place, SHAPE), lambda: images[0, 0])], feather_px=None)
    with PyramidStore.open(path) as store:
        assert not store.read(0, 0, 0, 64, 64).any()
        assert store.read(0, 0, 64, 64, 118).any()


@pytest.mark.parametrize("place", [TILES[1, 1], TileTransform((61.4, 47.8))])
def test_a_part_of_a_tile_is_drawn_like_the_whole(
    images: dict[tuple[int, int], np.ndarray], place: TileTransform
) -> None:
    image = images[0, 0].astype(np.float32)
    image[20:30, 40:60] = np.nan
    whole = render_tile(image, place)
    x, y = whole.origin_px
    within = Area(x + 33, y + 21, x + 70, y + 300)

    part = render_tile(image, place, within=within)

    assert part.area & within == whole.area & within
    left, top = part.origin_px[0] - x, part.origin_px[1] - y
    own = slice(top, top + part.weight.shape[0]), slice(left, left + part.weight.shape[1])
    assert np.array_equal(part.weight, whole.weight[own])
    seen = part.weight > 0
    assert np.abs(part.pixels[seen] - whole.pixels[own][seen]).max() < 0.05
    assert part.weight.size < 0.6 * whole.weight.size
    assert not render_tile(image, place, within=Area(x - 50, y, x - 10, y + 40)).weight.size
