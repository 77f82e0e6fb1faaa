"""What the server reads of a file for a part of an array: that part, and no more."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import event_model
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiled.adapters.utils import DataNotReadyError
from tiled.ndslice import NDBlock, NDSlice
from tiled.structures.array import ArrayStructure
from tiled.structures.data_source import Asset

from processing.callbacks._live_record import _emit_pixels
from processing.callbacks.catalog import CatalogWriter
from processing.mosaic.pyramid import PyramidStore
from tests.processing.documents import MontageRun
from tests.tiled_server.conftest import Server
from tests.tiled_server.montages import PATIENCE_S
from tiled_server.frames import FrameArrayAdapter, FrameFileAdapter, StackedArrayAdapter

FRAME_PX = 2048
STORED = np.arange(5 * 6 * 7, dtype=np.uint16).reshape(5, 6, 7)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of five frames of 6 x 7 pixels, and one picture."""
    path = tmp_path_factory.mktemp("frames") / "small.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("frames", data=STORED, chunks=(1, 6, 7))
        file.create_dataset("picture", data=STORED[0], chunks=(3, 4), compression="lzf")
        file.create_dataset("column", data=np.arange(5.0))
    return path


def adapter(
    path: Path, dataset: str, shape: tuple[int, ...], dtype: Any = np.uint16, **parameters: Any
) -> Any:
    """Return the adapter that the catalog makes for an array of a file."""
    structure = ArrayStructure.from_array(np.empty(shape, dtype), chunks=tuple((one,) for one in shape))
    asset = Asset(data_uri=f"file://localhost{path}", is_directory=False, parameter="data_uris", num=0)
    source = SimpleNamespace(structure=structure, assets=[asset], structure_family="array")
    node = SimpleNamespace(metadata_={}, specs=[])
    return FrameFileAdapter.from_catalog(source, node, dataset=dataset, **parameters)


def part_of(length: int) -> st.SearchStrategy[int | slice]:
    """Return numbers and slices of an axis, as the server reads them from an address."""
    return st.one_of(
        st.integers(-length, length - 1),
        st.slices(length).filter(lambda one: (one.step or 1) > 0),
    )


@pytest.mark.parametrize(
    ("dataset", "shape"),
    [
        ("frames", (5, 1, 6, 7)),
        ("frames", (3, 1, 6, 7)),
        ("frames", (5, 6, 7)),
        ("picture", (1, 6, 7)),
        ("column", (4,)),
    ],
)
@settings(max_examples=60)
@given(data=st.data())
def test_a_part_is_that_of_the_whole(
    small: Path, dataset: str, shape: tuple[int, ...], data: st.DataObject
) -> None:
    with h5py.File(small) as file:
        stored = file[dataset][:]
    known = stored if stored.shape[0] == 6 else stored[: shape[0]]
    whole = known.reshape(shape)
    parts = tuple(data.draw(part_of(length)) for length in shape)
    served = adapter(small, dataset, shape, stored.dtype)
    assert isinstance(served, FrameArrayAdapter)
    found = served.read(NDSlice(*parts))
    assert found.dtype == stored.dtype
    np.testing.assert_array_equal(found, whole[parts])


def test_wholes_blocks_and_reversed_axes(small: Path) -> None:
    served = adapter(small, "frames", (5, 1, 6, 7))
    np.testing.assert_array_equal(served.read(), STORED[:, None])
    np.testing.assert_array_equal(served.read(NDSlice(...)), STORED[:, None])
    np.testing.assert_array_equal(served.read(NDSlice(slice(None, None, -2), 0)), STORED[::-2])
    block = NDBlock(0, 0, 0, 0)
    np.testing.assert_array_equal(served.read_block(block), STORED[:, None])
    np.testing.assert_array_equal(served.read_block(block, NDSlice(2, 0)), STORED[2])
    with pytest.raises(IndexError, match="index 5 is out of bounds"):
        served.read(NDSlice(5))


def test_what_a_file_does_not_have_yet(small: Path) -> None:
    with pytest.raises(DataNotReadyError, match="knows of 9 frames, and the file has 5"):
        adapter(small, "frames", (9, 1, 6, 7)).read(NDSlice(0))


def test_shapes_that_are_not_simply_those_of_the_file_are_left_to_tiled(small: Path) -> None:
    np.testing.assert_array_equal(adapter(small, "frames", (5, 3, 2, 7)).read(), STORED.reshape(5, 3, 2, 7))
    assert isinstance(adapter(small, "frames", (2, 6, 7), slice="1:3"), StackedArrayAdapter)


@pytest.fixture(scope="module")
def large(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Frames of 8 MB, and a mosaic of 16 chunks of noise, in the catalog: uids of their runs."""
    folder = tmp_path_factory.mktemp("large")
    writer = CatalogWriter(server.uri, server.key, folder)
    server.data.mkdir(exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 65536, (FRAME_PX, FRAME_PX), np.uint16)
    run = MontageRun(server.data, noise.shape, writer, montage_id="m-large", ring_slots=2)
    run.tiles([noise, noise[::-1], noise[:, ::-1]])
    run.stop()
    path = server.data / "large.ome.zarr"
    with PyramidStore.create(path, dtype="uint16", pixel_size_nm=4.0, shape=noise.shape) as store:
        store.write_image(noise)
        levels = [store.geometry.level_shape(level) for level in range(store.levels)]
    mosaic = event_model.compose_run(metadata={"plan_name": "live_mosaic", "purpose": "processing"})
    writer("start", mosaic.start_doc)
    made: Any = SimpleNamespace(path=path, levels=levels, dtype=np.dtype("<u2"), chunk_px=512)
    _emit_pixels(writer, mosaic, made)
    writer("stop", mosaic.compose_stop())
    assert writer.close(PATIENCE_S)
    return run.uid, str(mosaic.start_doc["uid"])


def read_by(server: Server) -> int:
    """Return how many bytes the server's process has read so far, from whatever."""
    assert server.process is not None
    text = Path(f"/proc/{server.process.pid}/io").read_text()
    return int(text.split("rchar: ")[1].split()[0])


@pytest.mark.system
@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the kernel does not count what is read")
@pytest.mark.parametrize(
    ("what", "key", "limit"),
    [
        ("frame", (2, 0, slice(100, 200), slice(100, 300)), 40_000),
        ("mosaic", (slice(512, 1024), slice(1024, 1536)), 2 * 512**2),
        ("mosaic", (slice(500, 530), slice(1000, 1030)), 4 * 2 * 512**2),
    ],
)
def test_only_what_is_asked_for_is_read(
    server: Server, large: tuple[str, str], what: str, key: Any, limit: int
) -> None:
    frames, mosaic = large
    client = server.client()
    array = client[frames]["tiles"]["image"] if what == "frame" else client[mosaic]["mosaic"]["level_0"]
    array[0:1] if what == "frame" else array[0:1, 0:1]  # whatever the server loads but once
    before = read_by(server)
    found = array[key]
    used = read_by(server) - before
    # the rest: the heads of files, rows of databases, and what the index looks for meanwhile
    assert used < limit + 300_000, f"{used} bytes were read for {math.prod(found.shape)} pixels"
