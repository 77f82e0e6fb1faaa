"""Montages of other programs through a real catalog: the same client, index, exports and stitching."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiled.adapters.utils import ShapeMismatchError
from tiled.ndslice import NDSlice
from tiled.structures.array import ArrayStructure

from montango.montage_catalog import read_catalog
from montango.montage_tiles import read_montage
from processing.callbacks._catalog_run import TiledStore
from tests.tiled_server import foreign_montages as foreign
from tests.tiled_server.conftest import Server
from tests.tiled_server.montages import COLUMNS, PITCH, ROWS, until
from tiled_server.client import Montage, montage
from tiled_server.exports.export import export
from tiled_server.exports.journal import from_journal
from tiled_server.exports.options import ExportOptions, Format
from tiled_server.ingest.adapter import FrameListAdapter
from tiled_server.ingest.ingest import Ingested, Target, complete, ingest
from tiled_server.ingest.sources import SourceOptions, find_sources

pytestmark = pytest.mark.system

Take = Callable[..., Ingested]


@pytest.fixture
def folder(server: Server, tmp_path: Path) -> Path:
    """Return a folder that the catalog may read."""
    made = server.data / tmp_path.name
    made.mkdir(parents=True)
    return made


@pytest.fixture
def target(server: Server, tmp_path: Path) -> Target:
    return Target(tmp_path / "journal", server.data, (server.data,), (TiledStore(server.uri, server.key),))


@pytest.fixture
def take(target: Target) -> Take:
    """Return a function that takes the one montage of a path into journal and catalog."""

    def do(path: Path, facts: dict[str, Any] | None = None, **options: Any) -> Ingested:
        ((_, read),) = find_sources(path, SourceOptions(**options))
        found = ingest(read(), target, facts)
        assert complete(target, [found.montage_id]) == []
        return found

    return do


def seen(server: Server, found: Ingested) -> Montage:
    """Return a montage as the catalog has it, once the index has come to it."""
    client = server.client()
    until(lambda: "tiles" in client[found.uid] and client[found.uid].metadata.get("stop") is not None)
    return montage(client, found.montage_id)


def test_serialem_montage_is_one_of_ours(
    server: Server, folder: Path, target: Target, take: Take, tmp_path: Path
) -> None:
    found = take(foreign.serialem(folder), {"sample": "mouse 9", "proposal": "p-9"})
    assert (found.added, found.known, found.left_out) == (9, 0, ())
    mine = seen(server, found)
    assert mine.counts["acquired"] == mine.counts["asked"] == ROWS * COLUMNS
    tiles = mine.tiles
    assert list(zip(tiles["row"], tiles["column"], strict=True)) == foreign.PLACES
    np.testing.assert_allclose(tiles["defocus_um"], [-1 - n / 10 for n in range(9)])
    # stage and image agree: SerialEM's y with the other sign
    stage = np.array([foreign.stage_of(*place) for place in foreign.PLACES]) * [1, -1]
    np.testing.assert_allclose(tiles[["x_um", "y_um"]], stage, rtol=1e-7)
    np.testing.assert_allclose(tiles[["centre_x_um", "centre_y_um"]], stage, atol=1e-6)
    assert tiles["time"].iloc[0].year == 2020
    np.testing.assert_array_equal(np.asarray(mine.stack()), foreign.expected())
    part = np.asarray(mine.runs[0]["tiles"]["image"][4, 0, 190:20:-7, 30:90])
    np.testing.assert_array_equal(part, foreign.expected()[4, 190:20:-7, 30:90])
    source = mine.runs[0]["source"].read()
    keys = json.loads(str(source["source_keys"].to_numpy()[3]))
    assert keys["MagIndex"] == "10"
    assert keys["Defocus"] == "-1.3"
    assert mine.metadata["instrument"] == "TU Delft JEM-1400/HC w. F416"
    assert mine.metadata["calibration"]["pixel_size_nm"] == pytest.approx(10)
    # stitching sees the same tiles in files, journal and catalog
    (stitched, journalled) = (
        read_catalog(f"{server.uri}/{found.montage_id}", api_key=server.key),
        read_montage(target.journal_dir, found.montage_id),
    )
    for one in (stitched, journalled):
        at = np.array([tile.tile.nominal_px for tile in one.tiles])
        np.testing.assert_allclose(at - at[0], [[PITCH * c, PITCH * r] for r, c in foreign.PLACES], atol=1e-3)
        np.testing.assert_array_equal(one.tiles[5].frame.read(), foreign.expected()[5])
    # and out again, as SerialEM had it
    made = export(
        from_journal(target.journal_dir, found.montage_id), Format.MRC, tmp_path / "out.mrc", ExportOptions()
    )
    text = next(path for path in made.paths if path.suffix == ".mdoc").read_text()
    for line in ("Voltage = 120", "SpotSize = 3", f"RotationAngle = {foreign.TURN}", "Magnification = 2250"):
        assert line in text, line


def test_what_comes_later_joins_and_what_changed_is_not_served(
    server: Server, folder: Path, take: Take
) -> None:
    tiles = foreign.listed(folder / "tiles")
    whole = (tiles / "004.tif").read_bytes()
    (tiles / "004.tif").write_bytes(whole[: len(whole) // 2])
    first = take(tiles, pixel_size_nm=10.0)
    assert first.added == 8
    mine = seen(server, first)
    assert (mine.counts["asked"], mine.counts["acquired"]) == (9, 8)
    (tiles / "004.tif").write_bytes(whole)
    second = take(tiles, pixel_size_nm=10.0)
    assert (second.added, second.known, second.montage_id) == (1, 8, first.montage_id)
    mine = seen(server, second)
    until(lambda: _refreshed(mine) == 9)
    np.testing.assert_array_equal(mine.image(1, 1), foreign.expected()[4])
    assert [len(run["tiles"]["image"]) for run in mine.runs] == [8, 1]
    (tiles / "003.tif").write_bytes((tiles / "003.tif").read_bytes() + b"x")
    image = mine.runs[0]["tiles"]["image"]
    np.testing.assert_array_equal(np.asarray(image[2, 0]), foreign.expected()[2])
    with pytest.raises(Exception, match=r"003\.tif has \d+ bytes and had"):
        image[3, 0]


def _refreshed(mine: Montage) -> int | None:
    mine.refresh()
    return mine.counts["acquired"]


def test_a_list_opens_no_other_files(folder: Path) -> None:
    """What the catalog was not told of is not read, whatever a list names."""
    path = foreign.pictures(folder / "tiles")
    target = Target(folder / "journal", folder, (folder,))
    ((_, read),) = find_sources(path, SourceOptions(pixel_size_nm=10.0))
    found = ingest(read(), target)
    listing = folder / "ingested" / f"{found.uid}.h5"
    structure = ArrayStructure.from_array(foreign.expected()[:, None])
    files = sorted(path.iterdir())
    adapter = FrameListAdapter(structure, listing, frozenset(files[1:]), metadata={}, specs=[])
    np.testing.assert_array_equal(adapter.read(NDSlice(1, 0)), foreign.expected()[1])
    with pytest.raises(ShapeMismatchError, match="is not among the files"):
        adapter.read(NDSlice(0, 0))
