"""The index of a real server, on SQLite and on PostgreSQL: it follows the catalog, whatever happens."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import event_model
import httpx
import numpy as np
import psutil
import pyarrow as pa
import pytest

from devices.errors import ConfigurationError, DeviceLost
from montango.cli.catalog import _answer as ask_index
from processing.callbacks._tiles import Tile
from processing.callbacks.catalog import CatalogWriter
from processing.callbacks.journal import Journal
from processing.callbacks.verdicts import TileFault, Verdict
from processing.kernels.quality import TileMetrics
from tests.processing.documents import MontageRun
from tests.tiled_server.conftest import Server
from tests.tiled_server.postgres import Postgres
from tiled_server.configuration import DATABASE_VARIABLE, TABLES_VARIABLE
from tiled_server.index.schema import TILE_COLUMNS

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
PATIENCE_S = 120.0
"""Longest wait for what the server does in two seconds: the machine may be busy."""
SHAPE = (48, 64)
ON_SQLITE = pytest.mark.parametrize("catalog", ["sqlite"], indirect=True, scope="module")
ON_POSTGRESQL = pytest.mark.parametrize("catalog", ["postgresql"], indirect=True, scope="module")
Found = TypeVar("Found")


class Catalog:
    """A server, and a client of its own routes."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._client = httpx.Client(headers={"Authorization": f"Apikey {server.key}"}, timeout=60)

    def get(self, path: str, **given: Any) -> httpx.Response:
        return self._client.get(f"{self.server.uri}/custom{path}", params=given)

    def montage(self, montage_id: str) -> dict[str, Any]:
        return dict(self.get(f"/montages/{montage_id}").json())

    def tiles(self, montage_id: str) -> list[dict[str, Any]]:
        return list(self.get(f"/montages/{montage_id}/tiles").json())

    def reindex(self) -> httpx.Response:
        return self._client.post(f"{self.server.uri}/custom/index")

    def wait(self, what: Callable[[], Found]) -> Found:
        """Return what is asked for as soon as it is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := what()):
            assert time.monotonic() < deadline, self.get("/index").text
            time.sleep(0.1)
        return found

    def close(self) -> None:
        self._client.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def catalog(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    if request.param == "sqlite":
        made = Catalog(request.getfixturevalue("server"))
        yield made
        made.close()
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    uri = postgres.database("catalog")
    server = Server(tmp_path_factory.mktemp("postgresql"), {DATABASE_VARIABLE: uri, TABLES_VARIABLE: uri})
    server.log = server.state_dir / "server.log"
    server.start()
    made = Catalog(server)
    yield made
    made.close()
    server.close()


@pytest.fixture
def writer(catalog: Catalog, tmp_path: Path) -> Iterator[CatalogWriter]:
    made = CatalogWriter(
        catalog.server.uri, catalog.server.key, tmp_path / "journal", batch_size=5, flush_s=0.0
    )
    yield made
    assert made.close(PATIENCE_S)


def verdict(index: int, *, faulty: bool = False) -> dict[str, Any]:
    tile = Tile(index, roi=0, row=0, column=index, attempt=0, x_um=float(index), y_um=0.0)
    fault = TileFault("blurred", index / 10, 0.9, "transient", {})
    metrics = TileMetrics(900.0, 90.0, 0.0, 0.0, 0.0, 0.5, -14.0 - index, 100.0, 0.1)
    return Verdict(tile, metrics, (fault,) if faulty else ()).as_event()


def result(
    writer: CatalogWriter, montage_id: str, recipe: str, stream: str, events: list[dict[str, Any]]
) -> str:
    """Write a run of a result with a stream of events; return its uid."""
    run = event_model.compose_run(
        metadata={"plan_name": recipe, "purpose": "processing", "montage_id": montage_id}
    )
    writer("start", run.start_doc)
    kinds = {int: "integer", float: "number", str: "string"}
    keys: Mapping[str, Any] = {
        name: {"source": "x", "dtype": kinds[type(value)], "shape": []} for name, value in events[0].items()
    }
    stream_bundle = run.compose_descriptor(name=stream, data_keys=dict(keys))
    writer("descriptor", stream_bundle.descriptor_doc)
    for data in events:
        writer("event", stream_bundle.compose_event(data=data, timestamps=dict.fromkeys(data, 1.0)))
    writer("stop", run.compose_stop())
    return str(run.start_doc["uid"])


def acquire(
    catalog: Catalog, writer: CatalogWriter, montage_id: str, count: int = 4, **start: Any
) -> MontageRun:
    """Write a run with tiles in a row; the last of them is not judged, the second fails."""
    run = MontageRun(catalog.server.data, SHAPE, writer, montage_id=montage_id, num_points=count, **start)
    frames = np.zeros((count, *SHAPE), np.uint16)
    run.tiles(frames, [(float(i), -1.0) for i in range(count)], dose_e_per_a2=2.5)
    for index in range(count - 1):
        run.verdict(verdict(index, faulty=index == 1))
    return run


def test_the_index_follows_a_run(catalog: Catalog, writer: CatalogWriter) -> None:
    run = acquire(catalog, writer, "m-live", sample="mouse 8", data_session="s-live")
    assert writer.drain(PATIENCE_S)
    catalog.wait(lambda: catalog.montage("m-live").get("status") == "running")
    run.tiles(np.zeros((6, *SHAPE), np.uint16), dose_e_per_a2=2.5)
    assert writer.drain(PATIENCE_S)
    catalog.wait(lambda: catalog.montage("m-live").get("acquired", 0) >= 5)
    run.stop()
    assert writer.drain(PATIENCE_S)
    catalog.wait(lambda: catalog.montage("m-live").get("status") == "complete")
    row = catalog.montage("m-live")
    assert (row["sample"], row["asked"], row["acquired"], row["exposures"]) == ("mouse 8", 4, 10, 10)
    assert (row["passed"], row["failed"], row["pending"], row["runs"]) == (2, 1, 7, [run.uid])
    assert row["ended"] > row["started"]
    answer = catalog.get("/montages", sample="mouse*", session="s-live", qc="fail").json()
    assert (answer["count"], answer["complete"]) == (1, True)
    assert answer["montages"] == [row]


@ON_POSTGRESQL
def test_tiles_are_the_same_as_json_and_as_arrow(catalog: Catalog, writer: CatalogWriter) -> None:
    acquire(catalog, writer, "m-table").stop()
    catalog.wait(lambda: catalog.montage("m-table").get("acquired") == 4)
    rows = catalog.tiles("m-table")
    assert [tuple(row) for row in rows] == [TILE_COLUMNS] * 4
    assert [row["qc_state"] for row in rows] == ["pass", "fail", "pass", "pending"]
    assert (rows[1]["faults"], rows[1]["severity"], rows[1]["focus_score"]) == ("blurred", 0.1, -15.0)
    assert (rows[2]["centre_x_um"], rows[2]["dose_e_per_A2"], rows[3]["sharpness"]) == (2.0, 2.5, None)
    arrow = catalog.get("/montages/m-table/tiles", format="arrow")
    assert arrow.headers["content-type"] == "application/vnd.apache.arrow.stream"
    assert pa.ipc.open_stream(arrow.content).read_all().to_pylist() == rows
    heatmap = catalog.get("/montages/m-table/heatmap", metric="focus_score").json()
    values = [[-14.0, -15.0, -16.0, None]]
    assert heatmap == {
        "metric": "focus_score", "unit": "dB",
        "regions": [{"roi": 0, "row0": 0, "column0": 0, "values": values}],
    }  # fmt: skip
    worst = catalog.get("/worst", montage="m-table", by="focus_score", n=2).json()["tiles"]
    assert [(row["tile_index"], row["value"]) for row in worst] == [(2, -16.0), (1, -15.0)]
    found = catalog.get("/statistics", montage="m-table", metric="focus_score").json()
    assert (found["count"], found["median"], found["faults"]) == (3, -15.0, {"blurred": 1})
    assert found["states"] == {"pass": 2, "fail": 1, "pending": 1}


@ON_POSTGRESQL
def test_results_say_more_of_the_tiles_until_they_are_deleted(
    catalog: Catalog, writer: CatalogWriter
) -> None:
    run = acquire(catalog, writer, "m-results")
    run.stop()
    place = {"tile_run": run.uid, "tile_index": 2, "residual_px": 0.25}
    place |= {"position_x_um": 7.5, "position_y_um": -8.5}
    judged = [{**verdict(index), "qc_state": "needs_review", "tile_run": run.uid} for index in (1, 3)]
    mosaic = result(writer, "m-results", "live_mosaic", "alignment", [place, {**place, "tile_run": "other"}])
    late = result(writer, "m-results", "judge_frames", "qc", judged)
    catalog.wait(lambda: catalog.montage("m-results").get("needs_review") == 1)
    rows = catalog.wait(lambda: (tiles := catalog.tiles("m-results"))[2]["solved_x_um"] and tiles)
    assert (rows[2]["solved_x_um"], rows[2]["solved_y_um"], rows[2]["residual_px"]) == (7.5, -8.5, 0.25)
    assert rows[1]["solved_x_um"] is None
    # what the run itself says of a frame stands
    assert [row["qc_state"] for row in rows] == ["pass", "fail", "pass", "needs_review"]
    assert catalog.montage("m-results")["results"] == {"live_mosaic": [mosaic], "judge_frames": [late]}
    client = catalog.server.client()
    for uid in (mosaic, late):
        client[uid].delete(recursive=True, external_only=False)
    catalog.wait(lambda: catalog.montage("m-results")["results"] == {})
    catalog.wait(lambda: catalog.tiles("m-results")[2]["solved_x_um"] is None)
    catalog.wait(lambda: catalog.montage("m-results")["pending"] == 1)
    client[run.uid].delete(recursive=True, external_only=False)
    catalog.wait(lambda: catalog.get("/montages/m-results").status_code == 404)
    assert catalog.get("/montages/m-results/tiles").status_code == 404


@ON_SQLITE
def test_notes_that_are_added_later_are_found(catalog: Catalog, writer: CatalogWriter) -> None:
    run = acquire(catalog, writer, "m-notes")
    run.stop()
    assert writer.drain(PATIENCE_S)
    client = catalog.server.client()
    client[run.uid].update_metadata({"annotations": ["look at the Golgi"]})
    catalog.wait(lambda: catalog.get("/montages", text="golgi").json()["count"] == 1)


@ON_SQLITE
def test_a_run_that_cannot_be_read_is_tried_again(catalog: Catalog, writer: CatalogWriter) -> None:
    run = acquire(catalog, writer, "m-damaged")
    run.stop()
    catalog.wait(lambda: catalog.montage("m-damaged").get("acquired") == 4)
    whole = run.path.read_bytes()
    run.path.write_bytes(b"no HDF5 at all")
    assert catalog.reindex().json()["complete"] is False
    error = catalog.wait(lambda: catalog.get("/index").json()["failed"].get(run.uid))
    assert error.startswith("OSError")
    assert len(catalog.tiles("m-damaged")) == 4  # as it was
    run.path.unlink()
    catalog.reindex()
    catalog.wait(lambda: run.uid not in catalog.get("/index").json()["failed"])
    # of a file that is gone, the verdicts are left
    catalog.wait(lambda: [row["x_um"] for row in catalog.tiles("m-damaged")] == [None] * 4)
    assert [row["column"] for row in catalog.tiles("m-damaged")] == [0, 1, 2, None]
    run.path.write_bytes(whole)
    catalog.reindex()
    catalog.wait(lambda: [row["x_um"] for row in catalog.tiles("m-damaged")] == [0.0, 1.0, 2.0, 3.0])


@ON_SQLITE
@pytest.mark.parametrize(
    ("path", "given", "status", "words"),
    [
        ("/montages", {"limit": 1001}, 422, "limit = '1001': a whole number from 0 to 1000"),
        ("/montages", {"simple": "a"}, 422, "simple = 'a'"),
        ("/montages", {"sort": "colour"}, 422, "-started"),
        ("/montages", {"qc": "fine"}, 422, "needs_review"),
        ("/montages/none", {}, 404, "none"),
        ("/montages/none/tiles", {"format": "csv"}, 422, "arrow, json"),
        ("/montages/none/heatmap", {"metric": "taste"}, 422, "focus_score"),
        ("/worst", {"by": "smear_deg"}, 422, "severity"),
        ("/statistics", {"montage": "a", "session": "b"}, 422, "only one"),
    ],
)
def test_what_is_wrong_is_answered_in_words(
    catalog: Catalog, path: str, given: dict[str, Any], status: int, words: str
) -> None:
    answer = catalog.get(path, **given)
    assert answer.status_code == status
    assert words in answer.json()["detail"]


@ON_SQLITE
@pytest.mark.parametrize(
    "path",
    [
        "/montages",
        "/montages/m",
        "/montages/m/tiles",
        "/montages/m/heatmap",
        "/worst",
        "/statistics",
        "/index",
    ],
)
def test_nothing_is_told_without_the_key(catalog: Catalog, path: str) -> None:
    for prefix in ("/custom", "/api/v1"):
        for headers in ({}, {"Authorization": "Apikey wrong"}):
            assert httpx.get(catalog.server.uri + prefix + path, headers=headers).status_code == 401
    assert httpx.post(f"{catalog.server.uri}/custom/index").status_code == 401


@ON_SQLITE
def test_the_command_line_asks_the_server(catalog: Catalog) -> None:
    address = f"{catalog.server.uri}/custom/index"
    with httpx.Client(headers={"Authorization": f"Apikey {catalog.server.key}"}) as client:
        assert ask_index(client, "POST", address)["ready"]
        assert set(ask_index(client, "GET", address)) == {"ready", "complete", "waiting", "failed", "runs"}
        with pytest.raises(ConfigurationError, match="has no index"):
            ask_index(client, "GET", f"{catalog.server.uri}/custom/nothing")
        with pytest.raises(DeviceLost, match="no catalog answers"):
            ask_index(client, "GET", "http://127.0.0.1:9/custom/index")
    with httpx.Client() as client, pytest.raises(ConfigurationError, match="refuses"):
        ask_index(client, "POST", address)


@ON_POSTGRESQL
def test_an_index_that_is_lost_is_made_anew_at_the_start(catalog: Catalog, writer: CatalogWriter) -> None:
    acquire(catalog, writer, "m-kept").stop()
    gone = acquire(catalog, writer, "m-gone")
    gone.stop()
    assert writer.drain(PATIENCE_S)
    catalog.wait(lambda: catalog.montage("m-gone").get("status") == "complete")
    before = catalog.tiles("m-kept"), catalog.montage("m-kept")
    catalog.server.kill()
    _without_the_index(catalog.server, gone.uid)
    catalog.server.start()
    catalog.wait(lambda: catalog.get("/montages").json().get("complete"))
    assert (catalog.tiles("m-kept"), catalog.montage("m-kept")) == before
    assert catalog.get("/montages/m-gone").status_code == 404


def _without_the_index(server: Server, gone: str) -> None:
    """Lose the rows of all runs but one, and take that one out of the catalog behind the index's back."""
    import asyncio

    import asyncpg

    async def lose() -> None:
        connection = await asyncpg.connect(server.environment[DATABASE_VARIABLE])
        try:
            for table in ("runs", "tiles"):
                column = "uid" if table == "runs" else "run_uid"
                await connection.execute(f"delete from montango.{table} where {column} != $1", gone)
            await connection.execute("delete from montango.montages where montage_id != 'm-gone'")
            await connection.execute("delete from nodes where key = $1", gone)
        finally:
            await connection.close()

    asyncio.run(lose())


@ON_POSTGRESQL
def test_the_password_is_in_no_log_and_no_list_of_processes(catalog: Catalog, postgres: Postgres) -> None:
    process = catalog.server.process
    assert process is not None
    assert catalog.server.log is not None
    words = json.dumps(
        [one.cmdline() for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children()]]
    )
    assert "tiled_server" in words
    assert postgres.password not in words
    assert postgres.password not in catalog.server.log.read_text()
    for path in catalog.server.state_dir.rglob("*"):
        if path.is_file():
            assert postgres.password.encode() not in path.read_bytes(), path
    assert os.environ.get(DATABASE_VARIABLE) is None


@ON_POSTGRESQL
def test_a_database_that_goes_away_is_waited_for(
    catalog: Catalog, postgres: Postgres, tmp_path: Path
) -> None:
    assert catalog.get("/montages").status_code == 200
    postgres.stop()
    catalog.wait(lambda: catalog.get("/montages").status_code == 503)
    journal = Journal(tmp_path)
    writer = CatalogWriter(catalog.server.uri, catalog.server.key, tmp_path, retry_s=(0.5, 2.0))

    def emit(name: str, doc: dict[str, Any]) -> None:
        journal(name, doc)
        writer(name, doc)

    run = MontageRun(catalog.server.data, SHAPE, emit, montage_id="m-away")
    run.tiles(np.zeros((3, *SHAPE), np.uint16))
    run.stop()
    postgres.start()
    assert writer.close(PATIENCE_S), writer.state
    journal.close()
    catalog.wait(lambda: catalog.montage("m-away").get("acquired") == 3)
    assert catalog.montage("m-away")["exposures"] == 3
