"""The canvas: one mosaic whatever the order of work, consistent levels, growth, and going on after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from devices.errors import ConfigurationError, MontangoError
from processing.kernels.field import FieldModel
from processing.kernels.render import TileTransform
from processing.mosaic import canvas as canvas_module
from processing.mosaic.canvas import Canvas
from processing.mosaic.pyramid import PyramidStore

Frames = dict[Any, npt.NDArray[Any]]
TILE = 60, 72


def make_store(folder: Path, **changes: Any) -> PyramidStore:
    settings: dict[str, Any] = {"dtype": "uint8", "pixel_size_nm": 4.0, "chunk_px": 16, "shard_px": 64}
    return PyramidStore.create(folder / "mosaic.zarr", **{**settings, **changes})


def make_tiles(
    rows: int,
    columns: int,
    *,
    dtype: str = "uint8",
    seed: int = 0,
    first_px: tuple[float, float] = (66.0, 62.0),
) -> tuple[Frames, dict[Any, TileTransform]]:
    """Return frames of noise and where they lie: sub-pixel places, a little turned, some with a field."""
    rng = np.random.default_rng(seed)
    field = FieldModel(
        TILE[1], TILE[0], 3, np.array([[0.4, 0.2, 0, 0.3, 0, 0, 0], [0, 0, 0.3, 0, 0.2, 0, 0.1]])
    )
    frames, places = {}, {}
    for row in range(rows):
        for column in range(columns):
            name = (0, row, column)
            top = np.iinfo(dtype).max
            frames[name] = rng.integers(1, top, TILE, dtype=dtype, endpoint=True)
            x = first_px[0] + column * 58 + rng.normal(0, 2)
            y = first_px[1] + row * 47 + rng.normal(0, 2)
            matrix = ((1.001, 0.002), (-0.002, 0.999))
            places[name] = TileTransform((x, y), matrix, field if column % 2 else None)
    return frames, places


def whole(canvas: Canvas) -> npt.NDArray[Any]:
    return canvas.read(0, 0, 0, *canvas.store.shape)


def assert_consistent(store: PyramidStore) -> None:
    """Each level is the mean of the one below over pixels with data, rounded half up."""
    assert store.levels >= 2
    below = store.read(0, 0, 0, *store.shape).astype(np.int64)
    assert below.any()
    for level in range(1, store.levels):
        rows, columns = store.geometry.level_shape(level)
        image = store.read(level, 0, 0, rows, columns)
        padded = np.pad(below, ((0, 2 * rows - below.shape[0]), (0, 2 * columns - below.shape[1])))
        four = padded.reshape(rows, 2, columns, 2)
        count = (four > 0).sum((1, 3))
        expected = (four.sum((1, 3)) + count // 2) // np.maximum(count, 1)
        np.testing.assert_array_equal(image, expected)
        below = image.astype(np.int64)


def mosaic_of(
    folder: Path, frames: Frames, places: dict[Any, TileTransform], **settings: Any
) -> dict[str, npt.NDArray[Any]]:
    """Return all levels of the mosaic of tiles, from disk, and check that memory has the same."""
    folder.mkdir()
    with make_store(folder, dtype=next(iter(frames.values())).dtype, shape=(256, 256)) as store:
        with Canvas(store, flush_tiles=None, flush_s=None, **settings) as canvas:
            for name, place in places.items():
                canvas.add(name, frames[name], place)
            canvas.flush()
            levels = {}
            for level in range(store.levels):
                shape = store.geometry.level_shape(level)
                levels[str(level)] = store.read(level, 0, 0, *shape)
                np.testing.assert_array_equal(levels[str(level)], canvas.read(level, 0, 0, *shape))
        assert_consistent(store)
    return levels


BLENDINGS: tuple[Literal["flat", "feather"], ...] = ("flat", "feather")


@pytest.mark.parametrize("blending", BLENDINGS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_moving_and_replacing_tiles_gives_the_mosaic_of_their_last_places(
    tmp_path: Path, blending: Literal["flat", "feather"], dtype: str
) -> None:
    frames, places = make_tiles(3, 3, dtype=dtype)
    expected = mosaic_of(tmp_path / "direct", frames, places, blending=blending)
    rng = np.random.default_rng(5)
    wrong = {
        name: TileTransform(tuple(np.array(one.position_px) + rng.normal(0, 6, 2)), one.matrix, one.field)
        for name, one in places.items()
    }
    with make_store(tmp_path, dtype=dtype, shape=(256, 256)) as store:
        canvas = Canvas(store, blending=blending, load=frames.__getitem__, flush_tiles=2, flush_s=None)
        with canvas:
            for name, place in wrong.items():
                spoiled = frames[name] // 2 if name == (0, 1, 1) else frames[name]
                canvas.add(name, spoiled, place)
            canvas.flush()
            assert_consistent(store)
            assert set(canvas.move(places)) == set(places)
            assert canvas.move(places) == []
            canvas.add((0, 1, 1), frames[0, 1, 1], places[0, 1, 1])
            canvas.add("extra", frames[0, 0, 0], TileTransform((100.3, 90.2)))
            canvas.remove(["extra"])
            canvas.flush()
            for level in range(store.levels):
                shape = store.geometry.level_shape(level)
                np.testing.assert_array_equal(store.read(level, 0, 0, *shape), expected[str(level)])
        assert_consistent(store)


@pytest.mark.parametrize("blending", BLENDINGS)
def test_scratch_files_and_memory_give_the_same(tmp_path: Path, blending: Literal["flat", "feather"]) -> None:
    frames, places = make_tiles(3, 3)
    in_memory = mosaic_of(tmp_path / "ram", frames, places, blending=blending)
    # room for one block only
    mapped = mosaic_of(
        tmp_path / "memmap",
        frames,
        places,
        blending=blending,
        memory="memmap",
        limit_mb=0.01,
        scratch=tmp_path,
    )
    for level, image in in_memory.items():
        np.testing.assert_array_equal(image, mapped[level])
    assert not list(tmp_path.glob("mosaic-*"))


def test_a_mosaic_grows_on_all_sides(tmp_path: Path) -> None:
    frames, places = make_tiles(4, 4, seed=3)
    order = sorted(places, key=lambda name: (name[1] - 1.6) ** 2 + (name[2] - 1.7) ** 2)
    places = {name: places[name] for name in order}
    expected = mosaic_of(tmp_path / "fixed", frames, places)["0"]
    with make_store(tmp_path) as store:
        with Canvas(store, flush_tiles=1, flush_s=None) as canvas:
            origins = set()
            for name, place in places.items():
                canvas.add(name, frames[name], place)
                canvas.flush()
                origins.add(store.geometry.origin_px)
                assert_consistent(store)
            assert len(origins) > 2
        extent = canvas.extent
        assert extent is not None
        x, y = store.geometry.origin_px
        rows, columns = store.shape
        assert (x + columns, y + rows) == (extent.x1, extent.y1)
        grown = store.read(0, 0, 0, rows, columns)
        assert 0 <= extent.x0 - x < 64
        assert 0 <= extent.y0 - y < 64
        np.testing.assert_array_equal(
            grown[extent.y0 - y :, extent.x0 - x :],
            expected[extent.y0 : extent.y1, extent.x0 : extent.x1],
        )
        assert_consistent(store)


def test_flat_shows_the_tile_in_which_a_pixel_lies_deepest(tmp_path: Path) -> None:
    first, second = np.full(TILE, 50, np.uint8), np.full(TILE, 150, np.uint8)
    with make_store(tmp_path, shape=(64, 128)) as store, Canvas(store) as canvas:
        canvas.add("a", first, TileTransform((35.5, 29.5)))
        canvas.add("b", second, TileTransform((35.5 + 52, 29.5)))
        row = whole(canvas)[30]
        # columns 52 to 71 are in both
        assert (row[:62] == 50).all()
        assert (row[62:124] == 150).all()
        assert (row[124:] == 0).all()


def test_feather_goes_from_one_tile_to_the_other(tmp_path: Path) -> None:
    first, second = np.full(TILE, 50, np.uint8), np.full(TILE, 150, np.uint8)
    with (
        make_store(tmp_path, shape=(64, 128)) as store,
        Canvas(store, blending="feather", feather_px=20) as canvas,
    ):
        canvas.add("a", first, TileTransform((35.5, 29.5)))
        canvas.add("b", second, TileTransform((35.5 + 52, 29.5)))
        row = whole(canvas)[30].astype(float)
    depth = np.arange(52, 72) - 51.5
    np.testing.assert_allclose(row[52:72], 50 + 100 * depth / 20, atol=1.0)
    assert (row[:52] == 50).all()


def test_gains_match_the_brightness_and_may_come_later(tmp_path: Path) -> None:
    frames, places = make_tiles(1, 2)
    with make_store(tmp_path, shape=(128, 256)) as store, Canvas(store, load=frames.__getitem__) as canvas:
        names = list(places)
        canvas.add(names[0], frames[names[0]], places[names[0]], gain=0.5, offset=3.0)
        canvas.add(names[1], frames[names[1]], places[names[1]])
        direct = whole(canvas)
        canvas.move({}, gains={names[0]: (1.0, 0.0), names[1]: (0.5, 3.0)})
        other = whole(canvas)
        assert (other != direct).mean() > 0.2
        canvas.move({}, gains={names[0]: (0.5, 3.0), names[1]: (1.0, 0.0)})
        np.testing.assert_array_equal(whole(canvas), direct)


def test_nothing_is_drawn_again_without_a_loader(tmp_path: Path) -> None:
    frames, places = make_tiles(2, 2)
    with make_store(tmp_path, shape=(256, 256)) as store, Canvas(store) as canvas:
        for name, place in places.items():
            canvas.add(name, frames[name], place)
        before = whole(canvas)
        with pytest.raises(ConfigurationError, match="loader"):
            canvas.move({(0, 0, 0): TileTransform((60.0, 60.0))})
        np.testing.assert_array_equal(whole(canvas), before)
        assert canvas.tiles[0, 0, 0].transform is places[0, 0, 0]


def test_frames_that_cannot_be_loaded_are_named_and_the_rest_is_drawn(tmp_path: Path) -> None:
    frames, places = make_tiles(1, 2)

    def load(name: Any) -> npt.NDArray[Any]:
        if name == (0, 0, 1):
            raise OSError("the disk is gone")
        return frames[name]

    with make_store(tmp_path, shape=(128, 256)) as store, Canvas(store, load=load) as canvas:
        for name, place in places.items():
            canvas.add(name, frames[name], place)
        far = TileTransform((50.0, 45.0))
        with pytest.raises(MontangoError, match=r"\(0, 0, 1\): the disk is gone"):
            canvas.move({(0, 0, 0): far})
        assert canvas.tiles[0, 0, 0].transform is far
        assert whole(canvas)[45, 50] > 0
        canvas.flush()
        assert_consistent(store)


def test_what_could_not_be_written_is_reported_and_written_later(tmp_path: Path) -> None:
    frames, places = make_tiles(1, 1)
    with (
        make_store(tmp_path, shape=(128, 128)) as store,
        Canvas(store, flush_tiles=None, flush_s=None) as canvas,
    ):
        canvas.add("a", frames[0, 0, 0], places[0, 0, 0])
        shards = store.path / "0" / "c"
        shards.write_text("in the way")
        with pytest.raises((OSError, ValueError)):
            canvas.flush()
        shards.unlink()
        canvas.flush()
        np.testing.assert_array_equal(store.read(0, 0, 0, 128, 128), whole(canvas))


def test_writing_gives_way_to_what_is_ahead_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, places = make_tiles(1, 2)
    written = Queue[Any]()
    with (
        make_store(tmp_path, shape=(128, 192)) as store,
        Canvas(store, flush_tiles=1, flush_s=None, written=written.put) as canvas,
    ):
        monkeypatch.setattr(canvas_module, "_MOST_AHEAD_S", 600.0)
        with canvas.ahead():
            canvas.add("a", frames[0, 0, 0], places[0, 0, 0])
            with pytest.raises(Empty):
                written.get(timeout=0.3)
            assert not store.read(0, 0, 0, 128, 192).any()
        assert written.get(timeout=60) == ["a"]
        monkeypatch.setattr(canvas_module, "_MOST_AHEAD_S", 0.01)
        with canvas.ahead():
            canvas.add("b", frames[0, 0, 1], places[0, 0, 1])
            assert written.get(timeout=60) == ["b"]
        np.testing.assert_array_equal(store.read(0, 0, 0, 128, 192), whole(canvas))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blending": "soft"}, "blending = 'soft'"),
        ({"memory": "tape"}, "memory = 'tape'"),
        ({"feather_px": 0}, "feather_px = 0"),
        ({"limit_mb": 0}, "limit_mb = 0"),
    ],
)
def test_settings_are_checked(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with make_store(tmp_path) as store, pytest.raises(ConfigurationError, match=message):
        Canvas(store, **settings)


_KILLED = """
import sys
from pathlib import Path
import numpy as np
sys.path[:0] = {path!r}
from test_canvas import make_store, make_tiles
from processing.mosaic.canvas import Canvas
frames, places = make_tiles(3, 3)
store = make_store(Path({folder!r}), shape=None)
canvas = Canvas(store, blending={blending!r}, flush_tiles=None, flush_s=None)
for count, (name, place) in enumerate(places.items()):
    canvas.add(name, frames[name], place)
    if count == 5:
        canvas.flush()
        print("flushed", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=BLENDINGS)
def killed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Literal["flat", "feather"]]:
    """Return the store that a killed process left after six of nine tiles, and how it was blended."""
    path = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    code = _KILLED.format(path=path, folder=str(tmp_path), blending=request.param)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "flushed\n"
        process.send_signal(signal.SIGKILL)
    return tmp_path / "mosaic.zarr", request.param


def test_a_killed_mosaic_is_gone_on_with(
    killed: tuple[Path, Literal["flat", "feather"]], tmp_path: Path
) -> None:
    path, blending = killed
    frames, places = make_tiles(3, 3)
    expected = mosaic_of(tmp_path / "whole", frames, places, blending=blending)["0"].astype(int)
    with PyramidStore.open(path) as store:
        assert_consistent(store)
    with PyramidStore.open(path, writable=True) as store:
        with Canvas(store, blending=blending, load=frames.__getitem__) as canvas:
            assert list(canvas.tiles) == list(places)[:6]
            for name, place in list(places.items())[6:]:
                canvas.add(name, frames[name], place)
        assert_consistent(store)
        x, y = store.geometry.origin_px
        found = store.read(0, 0, 0, *store.shape).astype(int)
        extent = canvas.extent
    assert extent is not None
    found = found[extent.y0 - y :, extent.x0 - x :]
    difference = found - expected[extent.y0 : extent.y1, extent.x0 : extent.x1]
    # sums that were rounded to counts on disk
    assert np.abs(difference).max() <= (0 if blending == "flat" else 1)
    with PyramidStore.open(path, writable=True) as store, pytest.raises(ConfigurationError, match="blended"):
        Canvas(store, blending="feather" if blending == "flat" else "flat")


def test_real_tiles_make_a_seamless_picture(test_data: Path, tmp_path: Path) -> None:
    """A recorded mosaic cut into turned tiles at sub-pixel places is put together again."""
    source = cv2.imread(str(test_data / "specimen" / "mussel2_mosaic_u8.jpg"), cv2.IMREAD_GRAYSCALE)
    assert source is not None
    image = np.asarray(cv2.GaussianBlur(source[1000:1700, 1000:1700], (0, 0), 1.0), np.uint8)
    store = make_store(tmp_path, shape=(700, 700), chunk_px=64, shard_px=256)
    with store, Canvas(store, blending="feather", feather_px=40) as canvas:
        for row in range(3):
            for column in range(3):
                centre = np.array([140.3 + column * 209.6, 140.7 + row * 209.2])
                angle = 0.002 * (row - column)
                matrix = ((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle)))
                inverse = np.column_stack([matrix, centre - np.array(matrix) @ [127.5, 127.5]])
                tile = cv2.warpAffine(
                    image, inverse, (256, 256), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
                )
                canvas.add((row, column), tile, TileTransform((centre[0], centre[1]), matrix))
        mosaic = whole(canvas)
    inside = mosaic[30:670, 30:670].astype(float)
    assert (inside > 0).all()
    error = inside - image[30:670, 30:670]
    assert np.sqrt((error**2).mean()) < 1.0
