"""A montage stitched from the catalog, over HTTP: the same as from its files."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from devices.errors import ConfigurationError
from montango.montage_catalog import read_catalog
from montango.montage_tiles import read_montage
from processing.callbacks.catalog import CatalogWriter
from processing.callbacks.journal import Journal
from processing.stitching.frame_files import FrameError
from processing.stitching.offline import OfflineOptions, inputs, stitch_tiles
from processing.stitching.options import StitchOptions
from processing.stitching.tiled_frames import TiledFrame, close_clients
from tests.processing.documents import MontageRun
from tests.processing.tile_folders import HEIGHT, STEP, WIDTH, cut, worst_px
from tests.tiled_server.conftest import KEY, Server

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
PATIENCE_S = 180.0
OPTIONS = OfflineOptions(StitchOptions(first_search_px=30.0, degree=1))


@pytest.fixture(scope="module")
def runs(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A montage of two runs in the catalog, the first with a spoiled tile: its journal, and the uids."""
    counts = [frame.astype(np.uint16) * 100 for frame in cut(2, 2)[0]]
    journal = Journal(tmp_path_factory.mktemp("journal"))
    writer = CatalogWriter(server.uri, server.key, journal.directory)
    uids = []
    server.data.mkdir(exist_ok=True)
    for tiles in (((0, 0, "pass"), (1, 0, "fail"), (2, 0, "pass")), ((1, 1, "pass"), (3, 0, "pass"))):

        def emit(name: str, doc: dict[str, object]) -> None:
            journal(name, doc)
            writer(name, doc)

        spec = {"rows": 2, "columns": 2}
        run = MontageRun(
            server.data,
            (HEIGHT, WIDTH),
            emit,
            montage_id="m-stitch",
            image_rotation_deg=90.0,
            montage_spec=spec,
        )
        for index, (tile, attempt, state) in enumerate(tiles):
            frame = counts[tile] if state == "pass" else np.full_like(counts[tile], 500)
            # a camera turned by 90 deg: its x is the stage's y, its y the stage's -x
            where = (-0.01 * STEP[1] * (tile // 2), 0.01 * STEP[0] * (tile % 2))
            run.tiles([frame], [where], row=tile // 2, column=tile % 2, attempt=attempt)
            run.verdict({"tile_index": index, "qc_state": state})
        run.stop()
        uids.append(run.uid)
    journal.close()
    assert writer.close(PATIENCE_S)
    return journal.directory, uids


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_clients()


def test_tiles_of_a_catalog_are_those_of_the_files(server: Server, runs: tuple[Path, list[str]]) -> None:
    files = read_montage(runs[0], "m-stitch")
    for address in (f"{server.uri}/{runs[1][1]}", f"{server.uri}/ui/browse/m-stitch?api_key={KEY}"):
        tiles = read_catalog(address, api_key="" if "?" in address else KEY)

        assert [one.tile for one in tiles.tiles] == [one.tile for one in files.tiles]
        assert [one.tile.attempt for one in tiles.tiles] == [0, 1, 0, 0]
        assert tiles.size_px == (WIDTH, HEIGHT)
        assert tiles.pixel_size_nm == files.pixel_size_nm
        assert tiles.provenance["input_uids"] == runs[1]
        for one, other in zip(tiles.tiles, files.tiles, strict=True):
            assert np.array_equal(copy.deepcopy(one.frame).read(), other.frame.read())

    done = stitch_tiles(tiles, OPTIONS)
    assert done.solution.matched.all()
    assert worst_px(done.solution.positions_px, cut(2, 2)[1]) < 0.1
    assert KEY not in str(inputs(tiles, OPTIONS))


def test_what_a_catalog_does_not_have_is_named(server: Server, runs: tuple[Path, list[str]]) -> None:
    with pytest.raises(ConfigurationError, match="no run of montage_id = 'm-none'"):
        read_catalog(f"{server.uri}/m-none", api_key=KEY)
    with pytest.raises(ConfigurationError, match="names no montage"):
        read_catalog(server.uri, api_key=KEY)
    tiles = read_catalog(f"{server.uri}/m-stitch", api_key=KEY)
    frame = tiles.tiles[0].frame
    assert isinstance(frame, TiledFrame)
    assert not frame.absent()
    with pytest.raises(FrameError, match=r"image\?slice=99,0 cannot be read"):
        replace(frame, index=99).read()


# Tiled leaves the connection of a refused client open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_wrong_key_is_refused_with_what_to_do(server: Server, runs: tuple[Path, list[str]]) -> None:
    with pytest.raises(ConfigurationError, match=r"does not give m-stitch: .*TILED_API_KEY"):
        read_catalog(f"{server.uri}/m-stitch", api_key="wrongkey")
    gc.collect()
