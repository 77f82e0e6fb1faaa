"""What an analyst finds in the catalog: the same pixels as in the file, tables, overviews, search."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest
from tiled.queries import Key

from devices.errors import ConfigurationError
from processing.callbacks._tiles import Tile
from processing.callbacks.catalog import CatalogWriter
from processing.callbacks.journal import Journal
from processing.callbacks.overview import Overview
from processing.callbacks.verdicts import TileFault, Verdict
from processing.kernels.quality import TileMetrics
from tests.processing.documents import MontageRun
from tests.tiled_server.conftest import Server
from tiled_server.client import find_montage, tile_table

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
PATIENCE_S = 180.0
"""Longest wait for what the server does in a second: the machine may be busy."""
SHAPE = (96, 128)


def verdict(index: int, state: str) -> dict[str, Any]:
    """Return the event of a verdict, as the plan writes it."""
    tile = Tile(index, roi=0, row=index // 10, column=index % 10, attempt=0, x_um=float(index), y_um=0.0)
    metrics = TileMetrics(900.0, 90.0, 0.0, 0.0, 0.0, index / 10, -14.0, 100.0, 0.1)
    fault = TileFault("blurred", 1.0, 0.9, "transient", {"sharpness": 0.1})
    return Verdict(tile, metrics, (fault,) if state == "fail" else ()).as_event()


@pytest.fixture(scope="module")
def run(server: Server, tmp_path_factory: pytest.TempPathFactory) -> MontageRun:
    """A montage of 50 tiles with verdicts and an overview, written live in batches."""
    journal = Journal(tmp_path_factory.mktemp("journal"))
    writer = CatalogWriter(server.uri, server.key, journal.directory)

    def emit(name: str, doc: dict[str, Any]) -> None:
        journal(name, doc)
        writer(name, doc)

    overview = Overview(server.data / "content-overviews", emit, reduction=4)
    run = MontageRun(server.data, SHAPE, emit, montage_id="m-content", sample="mouse 7", operator="grace")
    frames = np.random.default_rng(0).integers(0, 65536, (50, *SHAPE), dtype=np.uint16)
    for start in range(0, 50, 7):
        end = min(50, start + 7)
        run.tiles(frames[start:end], [(float(i), -float(i)) for i in range(start, end)])
        for index in range(start, end):
            run.verdict(verdict(index, "fail" if index == 11 else "pass"))
    run.verdict(verdict(11, "pass"))
    for name, doc in run.documents:
        overview(name, doc)
    run.stop()
    overview(*run.documents[-1])
    assert writer.drain(PATIENCE_S), writer.state
    assert writer.state.behind == ()
    assert writer.close(PATIENCE_S)
    return run


def test_pixels_are_the_same_through_file_and_catalog(server: Server, run: MontageRun) -> None:
    image = server.client()[run.uid]["tiles"]["image"]
    with h5py.File(run.path) as file:
        data = file["/entry/data"][:]
    assert image.shape == (50, 1, *SHAPE)
    assert image.dtype == np.uint16
    assert image.chunks[0] == (1,) * 50
    np.testing.assert_array_equal(image.read()[:, 0], data)
    np.testing.assert_array_equal(image[17, 0, 10:20, 5:50], data[17, 10:20, 5:50])


def test_the_table_has_a_row_a_tile_with_its_newest_verdict(server: Server, run: MontageRun) -> None:
    table = tile_table(server.client()[run.uid])
    assert len(table) == 50
    np.testing.assert_array_equal(table["x_um"], np.arange(50.0))
    assert (table["qc_state"] == "pass").all()
    assert table.loc[11, "sharpness"] == pytest.approx(1.1)
    assert {"exposure_start_s", "move_time_s", "row", "attempt", "focus_score"} <= set(table.columns)
    events = server.client()[run.uid]["qc"].read()
    assert len(events["tile_index"]) == 51
    assert "blurred" in str(events["faults"].values[11])
    assert int(events["tile_row"].values[11]) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [("montage_id", "m-content"), ("sample", "mouse 7"), ("operator", "grace"), ("purpose", "montage")],
)
def test_runs_are_found_by_their_metadata(server: Server, run: MontageRun, key: str, value: str) -> None:
    client = server.client()
    assert run.uid in client.search(Key(f"start.{key}") == value)
    assert len(client.search(Key(f"start.{key}") == "something else")) == 0


def test_a_montage_and_its_overview_are_found_and_readable(server: Server, run: MontageRun) -> None:
    client = server.client()
    (found,) = find_montage(client, "m-content")
    assert found.metadata["start"]["uid"] == run.uid
    assert found.metadata["stop"]["exit_status"] == "success"
    (derived,) = find_montage(client, "m-content", purpose="processing")
    assert derived.metadata["start"]["input_uids"] == [run.uid]
    picture = derived["overview"]["overview"].read()
    with h5py.File(next((server.data / "content-overviews").glob("*.h5"))) as file:
        np.testing.assert_array_equal(picture[0], file["/entry/overview"][:])
    with pytest.raises(ConfigurationError, match="m-none"):
        find_montage(client, "m-none")
    with pytest.raises(ConfigurationError, match="no stream of tiles"):
        tile_table(derived)


def test_tiles_are_readable_while_the_run_goes_on(server: Server, tmp_path: Path) -> None:
    writer = CatalogWriter(server.uri, server.key, tmp_path, batch_size=5, flush_s=0.0)
    run = MontageRun(server.data, SHAPE, writer)
    frames = np.random.default_rng(1).integers(0, 65536, (10, *SHAPE), dtype=np.uint16)
    for index in range(10):
        run.tiles(frames[index : index + 1])
    assert writer.drain(PATIENCE_S)
    image = server.client()[run.uid]["tiles"]["image"]
    assert image.shape[0] >= 5
    np.testing.assert_array_equal(image.read()[:, 0], frames[: image.shape[0]])
    run.stop()
    assert writer.close(PATIENCE_S)
    assert tile_table(server.client()[run.uid])["qc_state"].tolist() == ["pending"] * 10


@pytest.mark.parametrize("path", ["/api/v1/metadata/", "/api/v1/search/"])
def test_nothing_is_told_without_the_key(server: Server, path: str) -> None:
    assert httpx.get(server.uri + path).status_code == 401
    assert httpx.get(server.uri + path, headers={"Authorization": "Apikey wrong"}).status_code == 401


def test_raw_files_are_not_served(server: Server, run: MontageRun) -> None:
    url = f"{server.uri}/api/v1/asset/bytes/{run.uid}/tiles/image?id=1"
    assert httpx.get(url, headers={"Authorization": f"Apikey {server.key}"}).status_code == 403


def test_files_outside_the_readable_folders_are_not_served(server: Server, tmp_path: Path) -> None:
    writer = CatalogWriter(server.uri, server.key, tmp_path / "journal")
    outside = MontageRun(tmp_path, SHAPE, writer)
    outside.tiles([np.zeros(SHAPE, np.uint16)])
    outside.stop()
    assert writer.close(PATIENCE_S)
    url = f"{server.uri}/api/v1/array/full/{outside.uid}/tiles/image?format=application/octet-stream"
    response = httpx.get(url, headers={"Authorization": f"Apikey {server.key}"})
    assert response.is_error
    assert len(response.content) < 1000


def test_the_port_is_bound_to_loopback_only(server: Server) -> None:
    port = int(server.uri.rsplit(":", 1)[1])
    listening = [
        line.split()[1]
        for line in (Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()).splitlines()
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
    ]
    assert listening == [f"0100007F:{port:04X}"]


def test_a_second_server_on_a_state_directory_is_refused(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "tiled_server", "--state-dir", str(server.state_dir)]
    done = subprocess.run(
        command,
        env={"TILED_SINGLE_USER_API_KEY": "abc"},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    assert "runs already" in done.stderr
    assert "Traceback" not in done.stderr
