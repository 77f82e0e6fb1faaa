"""Montages in a MongoDB over its wire protocol: written live, copied, served, read back equal."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from devices.errors import ConfigurationError, DeviceLost
from devices.tiles import TILE_COLUMNS
from montango.cli.app import app
from montango.config import default_config_path, load_config
from montango.lab.doctor import _mongo
from montango.lab.ports import Ports
from montango.lab.programs import TILED, programs
from montango.lab.state import StateDirectory
from processing.callbacks.journal import Journal
from tests.processing.documents import MontageRun
from tests.tiled_server import mongo
from tests.tiled_server.catalogued import Catalogued
from tests.tiled_server.conftest import KEY
from tests.tiled_server.exported_montage import MONTAGE
from tests.tiled_server.postgres import Postgres
from tiled_server.configuration import API_KEY_VARIABLE, MONGO_VARIABLE, CatalogServer, from_environment
from tiled_server.databases import has_catalog
from tiled_server.moving.copying import copy_runs
from tiled_server.moving.opening import opened
from tiled_server.moving.places import place
from tiled_server.replay import replay

mongo.needs("nx_27017")

from tiled_server.mongo.addresses import check_mongo, connected  # noqa: E402
from tiled_server.mongo.store import MongoStore, mongo_writer  # noqa: E402

pytestmark = [
    pytest.mark.system,
    pytest.mark.filterwarnings("ignore:No path_separator found"),
    # of Tiled, which copies its settings
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings"),
]
PATIENCE_S = 120.0


@contextmanager
def _client_of(uri: str) -> Iterator[Any]:
    from tiled.client import from_uri

    client = from_uri(uri, api_key=KEY)
    try:
        yield client
    finally:
        client.context.close()


@pytest.fixture(scope="module", autouse=True)
def _shims() -> Iterator[None]:
    with mongo.shims():
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mongo.MongoServer]:
    made = mongo.MongoServer(tmp_path_factory.mktemp("mongo"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def database(server: mongo.MongoServer) -> Iterator[Callable[[str], Any]]:
    opened = []

    def connect(name: str) -> Any:
        opened.append(connected(server.uri(name)))
        return opened[-1]

    yield connect
    for one in opened:
        one.client.close()


def test_a_montage_copied_by_mongodb_is_the_same(
    catalogued: Catalogued, server: mongo.MongoServer, postgres: Postgres, tmp_path: Path
) -> None:
    """From SQLite to MongoDB, from there to PostgreSQL, and all three compared."""
    with place("--to", server.uri("runs"), tmp_path, new=True) as middle:
        with place("--from", str(catalogued.state), tmp_path, new=False) as first:
            done = copy_runs(first, middle, every_pixel=True)
            assert (len(done.added), done.equal, done.unended) == (3, True, 0), (done.unequal, done.failed)
            assert (done.events, done.frames) == (16, 9)
        with place("--to", postgres.database("by_mongo"), tmp_path, new=True) as last:
            done = copy_runs(middle, last, every_pixel=True)
            assert (len(done.added), done.equal) == (3, True), (done.unequal, done.failed)


def test_the_runs_are_served_as_databroker_has_them(
    catalogued: Catalogued, server: mongo.MongoServer, tmp_path: Path
) -> None:
    from tiled.queries import Eq, Key

    from tiled_server.databases import make_sqlite
    from tiled_server.service import make_application

    settings = CatalogServer(tmp_path, (catalogued.made.data,), KEY, mongo_uri=server.uri("runs"))
    (settings.folder / "arrays").mkdir(parents=True)
    assert settings.sqlite_path is not None
    make_sqlite(settings.sqlite_path)
    with (
        opened(settings, make_application(settings)) as client,
        _client_of(f"{client.uri.rstrip('/')}/mongo") as runs,
    ):
        assert len(client) == 0  # the catalog's own are not mixed with them
        assert set(catalogued.made.uids) < set(runs)
        assert len(runs.search(Key("montage_id") == MONTAGE)) == 3
        assert len(runs.search(Eq("proposal", "p-2"))) == 0
        for uid in catalogued.made.uids:
            data = runs[uid]["tiles"].read()
            for at, values in enumerate(
                zip(data["roi"], data["row"], data["column"], data["attempt"], strict=True)
            ):
                roi, row, column, attempt = (int(value) for value in values)
                np.testing.assert_array_equal(
                    data["image"].values[at, 0], catalogued.made.frames[roi, row, column, attempt]
                )
            tiles = catalogued.seen.tiles.query("run_uid == @uid").sort_values("tile_index")
            for one in TILE_COLUMNS:
                np.testing.assert_array_equal(data[one.name].values, tiles[one.name], one.name)
            verdicts = runs[uid]["qc"].read()
            np.testing.assert_array_equal(verdicts["qc_state"].values, tiles["qc_state"])
            np.testing.assert_array_equal(verdicts["focus_score"].values, tiles["focus_score"])
            names = [name for name, _ in runs[uid].documents()]
            assert (names[0], names[-1]) == ("start", "stop")
        (mosaic,) = set(runs) - set(catalogued.made.uids)
        np.testing.assert_array_equal(
            runs[mosaic]["mosaic"]["data"]["level_0"].read()[0], catalogued.seen.mosaic
        )
        runs.context.close()
        address = f"{client.uri.rstrip('/')}/mongo/{catalogued.made.uids[0]}"
        assert _get(address, KEY) == 200
        assert _get(address, "no") == 401
        assert _get(f"{client.uri.rstrip('/')}/mongo/nothing", KEY) == 404


def _get(address: str, key: str) -> int:
    return httpx.get(address, headers={"Authorization": f"Apikey {key}"}).status_code


def test_what_differs_is_said(
    catalogued: Catalogued, server: mongo.MongoServer, database: Callable[[str], Any], tmp_path: Path
) -> None:
    runs = database("differs")
    first, second = catalogued.made.uids
    with (
        place("--from", server.uri("runs"), tmp_path, new=False) as here,
        place("--to", server.uri("differs"), tmp_path, new=True) as there,
    ):
        assert copy_runs(here, there).equal
        again = copy_runs(here, there)
        assert (len(again.added), len(again.present), again.equal) == (0, 3, True)
        runs["run_stop"].delete_one({"run_start": first})  # as if it were being written
        again = copy_runs(here, there, settled_after_s=1e9)
        assert (again.completed, len(again.present), again.unended) == ([], 2, 1)
        again = copy_runs(here, there, settled_after_s=0.0)
        assert (again.completed, len(again.present), again.equal) == ([first], 2, True)
        verdict = runs["event"].find_one({"data.focus_score": -15.0})
        runs["event"].update_one({"uid": verdict["uid"]}, {"$set": {"data.focus_score": -15.5}})
        done = copy_runs(here, there)
        (found,) = done.unequal.values()
        assert found == ["qc: event 2 data: focus_score is -15 and -15.5"]
        runs["run_start"].delete_one({"uid": first})
        runs["run_stop"].update_one({"run_start": second}, {"$set": {"exit_status": "abort"}})
        done = copy_runs(here, there, compare_only=True)
        assert done.unequal[first] == [f"it is not in {server.uri('differs')}"]
        assert "stop: exit_status is 'success' and 'abort'" in done.unequal[second]
    words = ["catalog", "copy", "--from", server.uri("runs"), "--to", server.uri("differs")]
    ended = CliRunner().invoke(app, ["--state", str(tmp_path), *words, "--compare-only"])
    assert ended.exit_code == 1
    assert (
        "added 0, completed 0, already there 2, left alone 0 (not ended, or on their way), failed 0"
        in ended.output
    )
    assert f"NOT EQUAL {second}: " in ended.output


def test_a_place_to_copy_from_must_have_a_catalog(postgres: Postgres, tmp_path: Path) -> None:
    uri = postgres.database("empty")
    for address, why in (
        (uri, "has no catalog; name the database of one"),
        (str(tmp_path), "is no state directory with a catalog"),
        ("mongodb://127.0.0.1/", "--from is not the address of a MongoDB database"),
    ):
        with (
            pytest.raises(ConfigurationError, match=why),
            place("--from", address, tmp_path, new=False),
        ):
            pass
    assert not has_catalog(uri)
    with (
        pytest.raises(DeviceLost, match=r"--from http://127.0.0.1:1: no answer; see that the server is up"),
        place("--from", "http://127.0.0.1:1", tmp_path, new=False),
    ):
        pass


def test_other_pixels_are_found(
    catalogued: Catalogued, server: mongo.MongoServer, database: Callable[[str], Any], tmp_path: Path
) -> None:
    import h5py

    from devices.tiles import IMAGE_DATASET

    uid, runs = catalogued.made.uids[1], database("pixels")
    changed = tmp_path / "changed.h5"
    shutil.copy(catalogued.made.files[1], changed)
    with h5py.File(changed, "r+") as file:
        file[IMAGE_DATASET][3, 5, 7] ^= 1
    with (
        place("--from", server.uri("runs"), tmp_path, new=False) as here,
        place("--to", server.uri("pixels"), tmp_path, new=True) as there,
    ):
        there.write(here.documents(uid))
        runs["resource"].update_one(
            {"resource_kwargs.data_key": "image"},
            {"$set": {"resource_kwargs.uri": f"file://localhost{changed}"}},
        )
        done = copy_runs(here, there)
        assert done.unequal == {uid: ["tiles: image has other values"]}
        assert len(done.added) == 2


def test_a_database_that_was_away_is_completed_from_the_journal(
    server: mongo.MongoServer, database: Callable[[str], Any], tmp_path: Path
) -> None:
    journal = Journal(tmp_path / "journal")
    uri, runs = server.uri("live"), database("live")
    writer = mongo_writer(uri, journal.directory, retry_s=(0.05, 0.2), flush_s=0.05)

    def emit(name: str, doc: dict[str, Any]) -> None:
        journal(name, doc)
        writer(name, doc)

    whole = MontageRun(tmp_path, emit=emit)
    whole.tiles([np.full((64, 64), 1, np.uint16)] * 3)
    whole.stop()
    assert writer.drain(PATIENCE_S)
    assert writer.state.written == 1
    cut = MontageRun(tmp_path, emit=emit)
    cut.tiles([np.full((64, 64), 2, np.uint16)] * 2)
    server.stop()
    cut.tiles([np.full((64, 64), 3, np.uint16)] * 2)
    cut.stop()
    with pytest.raises(DeviceLost, match=r"--to mongodb://127.0.0.1:\d+/live: .*see that MongoDB 4.4"):
        check_mongo("--to", uri)
    server.start()
    assert writer.drain(PATIENCE_S), writer.state
    assert writer.close(PATIENCE_S)
    assert sorted(one["run_start"] for one in runs["run_stop"].find()) == sorted([whole.uid, cut.uid])
    assert runs["event"].count_documents({"data.image": {"$exists": True}}) == 3 + 4
    again = replay(journal.directory, "", "", store=MongoStore(uri), settled_after_s=0.0)
    assert sorted(again.present) == sorted([whole.uid, cut.uid])
    journal.close()


def test_a_lab_tells_its_address_to_the_server_and_to_nobody_else(tmp_path: Path) -> None:
    uri = "mongodb://ada:se%40same@host/runs"
    text, before = default_config_path().read_text(), "    database: null"
    assert before in text
    path = tmp_path / "montango.yaml"
    path.write_text(text.replace(before, f'    mongo: "{uri}"\n{before}'))
    config, state = load_config(path), StateDirectory(tmp_path / "state")
    state.prepare()
    (program,) = [
        one for one in programs(config, state, Ports(1, 2, 3, 4, 5, 6), tmp_path, {}) if one.name == TILED
    ]
    assert not any("same" in word for word in program.command)
    settings = from_environment(
        tmp_path / "state", [], environment={API_KEY_VARIABLE: "abc", **(program.environment or {})}
    )
    assert settings.mongo_uri == uri
    with pytest.raises(ConfigurationError, match="MONTANGO_TILED_MONGO is not the address") as refused:
        from_environment(
            tmp_path / "state",
            [],
            environment={API_KEY_VARIABLE: "abc", MONGO_VARIABLE: "mongodb://a:sesame@b"},
        )
    assert "sesame" not in str(refused.value)


def test_the_doctor_asks_the_database(server: mongo.MongoServer) -> None:
    assert _mongo("x", server.uri("runs")).level == "OK"
    missing = _mongo("x", "mongodb://ada:sesame@127.0.0.1:1/runs")
    assert (missing.level, "sesame" in missing.text + missing.remedy) == ("FAIL", False)
    assert "mongodb://ada:***@127.0.0.1:1/runs" in missing.text
