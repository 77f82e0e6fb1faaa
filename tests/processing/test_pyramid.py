"""The pyramid on disk: metadata others understand, regions, growth, and what a killed process leaves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from ome_zarr_models.v05 import Image as NgffImage

from devices.errors import ConfigurationError
from processing.kernels.render import Area
from processing.mosaic.pyramid import PyramidStore

RNG = np.random.default_rng(7)
Pixels = npt.NDArray[Any]


def make_store(folder: Path, **changes: Any) -> PyramidStore:
    settings: dict[str, Any] = {
        "dtype": "uint16",
        "pixel_size_nm": 4.0,
        "shape": (300, 421),
        "chunk_px": 32,
        "shard_px": 128,
    }
    return PyramidStore.create(folder / "mosaic.zarr", **{**settings, **changes})


def picture(shape: tuple[int, int] = (300, 421), dtype: str = "uint16") -> Pixels:
    return RNG.integers(1, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def halved(image: Pixels) -> Pixels:
    """Return the mean of 2 x 2 pixels with data, rounded half up."""
    rows, columns = (-(-size // 2) for size in image.shape)
    padded = np.pad(
        image.astype(np.int64), ((0, 2 * rows - image.shape[0]), (0, 2 * columns - image.shape[1]))
    )
    four = padded.reshape(rows, 2, columns, 2)
    count = (four > 0).sum((1, 3))
    return np.asarray((four.sum((1, 3)) + count // 2) // np.maximum(count, 1), image.dtype)


def whole(store: PyramidStore, level: int = 0) -> Pixels:
    return store.read(level, 0, 0, *store.geometry.level_shape(level))


def validated(path: Path) -> NgffImage:
    """Return the metadata of an image as ome-zarr-models has checked them, with the arrays that they name."""
    return NgffImage.from_zarr(zarr.open_group(path, mode="r"))  # type: ignore[no-untyped-call]


def assert_levels(store: PyramidStore, image: Pixels) -> None:
    for level in range(store.levels):
        np.testing.assert_array_equal(whole(store, level), image)
        image = halved(image)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("compression", ["zstd", "blosc", "none"])
def test_other_readers_see_the_same(tmp_path: Path, dtype: str, compression: str) -> None:
    image = picture(dtype=dtype)
    with make_store(tmp_path, dtype=dtype, compression=compression, origin_px=(-30, 7)) as store:
        store.write_image(image)
        assert store.levels == 5
    group = zarr.open_group(store.path, mode="r")
    for level in range(5):
        array = group[str(level)]
        assert isinstance(array, zarr.Array)
        assert array.chunks == (32, 32)
        assert array.shards == (max(32, 128 >> level),) * 2
        assert array.metadata.dimension_names == ("y", "x")  # type: ignore[union-attr]
        np.testing.assert_array_equal(array[:], image)
        lazy = dask.array.from_zarr(str(store.path), component=str(level))  # type: ignore[no-untyped-call]
        np.testing.assert_array_equal(lazy[3:9, 5:].compute(), image[3:9, 5:])
        image = halved(image)


def test_metadata_are_ngff(tmp_path: Path) -> None:
    metadata = {"input_uids": ["a-b"], "recipe": "stitch", "parameters": {"degree": 5}}
    with make_store(
        tmp_path,
        origin_px=(10, -20),
        translation_um=(100.0, -50.0),
        metadata=metadata,
        name="section 4",
        window=(200, 4000),
    ) as store:
        store.describe({"transforms": [{"tile": [0, 1, 2]}]}, window=(300, 4000))
    image = validated(store.path)
    assert image.ome_attributes.version == "0.5"
    (multiscale,) = image.ome_attributes.multiscales
    assert [(axis.name, axis.type, axis.unit) for axis in multiscale.axes] == [
        ("y", "space", "micrometer"),
        ("x", "space", "micrometer"),
    ]
    for level, dataset in enumerate(multiscale.datasets):
        scale, translation = dataset.model_dump()["coordinateTransformations"]
        assert scale["scale"] == pytest.approx([0.004 * 2**level] * 2)
        # the centre of a level's first pixel is that of the 2^l x 2^l pixels that it is the mean of
        covered = np.arange(2**level).mean()
        expected = [-50 + 0.004 * (-20 + covered), 100 + 0.004 * (10 + covered)]
        assert translation["translation"] == pytest.approx(expected, abs=1e-9)
    group = json.loads((store.path / "zarr.json").read_text())["attributes"]
    (channel,) = group["ome"]["omero"]["channels"]
    assert channel["window"] == {"min": 0, "max": 65535, "start": 300, "end": 4000}
    own = group["montango"]
    assert {key: own[key] for key in metadata} == metadata
    assert own["transforms"] == [{"tile": [0, 1, 2]}]
    assert own["no_data"] == 0
    assert {"montango", "tensorstore"} <= own["software"].keys()
    with PyramidStore.open(store.path) as again:
        assert again.geometry == store.geometry
        assert again.metadata["parameters"] == {"degree": 5}
        assert again.name == "section 4"


def test_a_region_reads_only_its_chunks(tmp_path: Path) -> None:
    image = picture()
    with make_store(tmp_path) as store:
        store.write_image(image)
    # a shard far from the region is spoiled, and so are the chunks beside it in its own
    (store.path / "0" / "c" / "2" / "3").write_bytes(b"no shard")
    shard = store.path / "0" / "c" / "0" / "0"
    spoiled = bytearray(shard.read_bytes())
    index = np.frombuffer(spoiled[-(16 * 16 + 4) : -4], "<u8").reshape(4, 4, 2)
    for row, column in np.ndindex(4, 4):
        if (row, column) != (1, 2):
            offset, size = (int(value) for value in index[row, column])
            spoiled[offset : offset + size] = bytes(size)
    shard.write_bytes(spoiled)
    with PyramidStore.open(store.path) as store:
        np.testing.assert_array_equal(store.read(0, 32, 64, 64, 96), image[32:64, 64:96])
        with pytest.raises(ValueError, match="shard"):
            store.read(0, 256, 384, 300, 421)


def test_blocks_are_written_anywhere(tmp_path: Path) -> None:
    expected = np.zeros((300, 421), np.uint16)
    with make_store(tmp_path) as store:
        for y, x, rows, columns in (
            (0, 0, 128, 128),
            (100, 90, 150, 200),
            (299, 420, 1, 1),
            (37, 300, 5, 121),
        ):
            block = picture((rows, columns))
            store.write(0, y, x, block)
            expected[y : y + rows, x : x + columns] = block
        np.testing.assert_array_equal(whole(store), expected)
        for level, y, x in ((0, 299, 0), (0, -1, 0), (5, 0, 0)):
            with pytest.raises(IndexError, match=r"mosaic\.zarr"):
                store.write(level, y, x, np.ones((2, 2), np.uint16))


def test_it_grows_to_all_sides_and_is_cut(tmp_path: Path) -> None:
    image = picture((256, 256))
    with make_store(tmp_path, shape=(256, 256), origin_px=(5, 6)) as store:
        store.write_image(image)
        assert not store.extend(Area(5, 6, 261, 262))
        assert store.extend(Area(4, 0, 300, 20))
        assert store.area == Area(5 - 128, 6 - 128, 389, 262)
        expected = np.pad(image, ((128, 0), (128, 128)))
        assert_levels(store, expected)
        assert store.extend(Area(-1000, 0, -900, 700))
        x, y = store.geometry.origin_px
        assert (x, y) == (5 - 128 * 8, 6 - 128)
        rows, columns = store.shape
        expected = np.pad(image, ((128, rows - 384), (128 * 8, columns - 256 - 128 * 8)))
        assert_levels(store, expected)
        store.trim(Area(5 + 3, 6 + 4, 250, 240))
        assert store.area == Area(5, 6, 250, 240)
        np.testing.assert_array_equal(whole(store), image[:234, :245])
    assert sorted(one.name for one in store.path.iterdir() if one.is_dir()) == ["0", "1", "2", "3"]
    np.testing.assert_array_equal(zarr.open_array(store.path / "0", mode="r")[:], image[:234, :245])
    validated(store.path)


def test_a_store_of_unknown_extent_begins_at_the_first_area(tmp_path: Path) -> None:
    with make_store(tmp_path, shape=None) as store:
        assert not store.placed
        store.extend(Area(5000, -7000, 5100, -6900))
        assert store.placed
        assert store.area == Area(4984, -7016, 4984 + 128, -7016 + 128)


_KILLED = """
import sys
sys.path[:0] = {path!r}
import numpy as np
from pathlib import Path
from processing.kernels.render import Area
import processing.mosaic.pyramid as pyramid
store = pyramid.PyramidStore.create(
    Path({folder!r}) / "mosaic.zarr", dtype="uint16", pixel_size_nm=1, shape=(128, 128), chunk_px=32,
    shard_px=64,
)
store.write_image(np.full((128, 128), 9, np.uint16))
if {when!r} == "before":
    def stop(*args, **settings):
        print("ready", flush=True)
        sys.stdin.read()
    pyramid.write_json = stop
else:
    def stop(self):
        print("ready", flush=True)
        sys.stdin.read()
    pyramid.PyramidStore._remove_others = stop
store.extend(Area(-1, 0, 128, 128))
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_killed_while_it_grows_leaves_the_old_or_the_new_store(tmp_path: Path, when: str) -> None:
    path = [str(Path(__file__).parents[2])]
    code = _KILLED.format(path=path, folder=str(tmp_path), when=when)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(ConfigurationError, match="open for writing elsewhere"):
            PyramidStore.open(tmp_path / "mosaic.zarr", writable=True)
        process.send_signal(signal.SIGKILL)
    expected = np.full((128, 128), 9, np.uint16)
    if when == "after":
        expected = np.pad(expected, ((0, 0), (64, 0)))
    for writable in (False, True):
        with PyramidStore.open(tmp_path / "mosaic.zarr", writable=writable) as store:
            assert_levels(store, expected)
    folders = [one.name for one in store.path.iterdir() if one.is_dir()]
    assert sorted(folders) == (["0", "1", "2"] if when == "before" else ["0", "1", "2", "3"])


def test_a_store_is_not_overwritten_by_mistake(tmp_path: Path) -> None:
    make_store(tmp_path).close()
    with pytest.raises(ConfigurationError, match="exists already"):
        make_store(tmp_path)
    make_store(tmp_path, overwrite=True, dtype="uint8").close()
    other = tmp_path / "other.zarr"
    other.mkdir()
    (other / "thesis.txt").touch()
    with pytest.raises(ConfigurationError, match="is no mosaic"):
        PyramidStore.create(other, dtype="uint8", pixel_size_nm=1, overwrite=True)
    with pytest.raises(ConfigurationError, match="no mosaic that can be read"):
        PyramidStore.open(other)
    zarr.create_group(tmp_path / "group.zarr", zarr_format=3)
    with pytest.raises(ConfigurationError, match="is no mosaic of Montango"):
        PyramidStore.open(tmp_path / "group.zarr")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float32"}, "dtype of a mosaic is float32"),
        ({"pixel_size_nm": 0}, "pixel_size_nm = 0"),
        ({"shape": (0, 5)}, r"shape = \(0, 5\)"),
        ({"chunk_px": 48}, "chunk_px = 48"),
        ({"chunk_px": 256}, "shard_px = 128"),
        ({"levels": 9}, "levels = 9 must be 1 to 8"),
    ],
)
def test_values_are_checked(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_store(tmp_path, **changes)
    assert not (tmp_path / "mosaic.zarr").exists()


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    with make_store(tmp_path) as store:
        with pytest.raises(ValueError, match="the store uint16"):
            store.write_image(picture(dtype="uint8"))
        with pytest.raises(ValueError, match=r"\(3, 4\)"):
            store.write_image(picture((3, 4)))
