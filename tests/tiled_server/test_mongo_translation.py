"""Documents of stream resources as MongoDB keeps them, and back: in a MongoDB of this process."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import event_model
import numpy as np
import pytest

from devices.errors import ConfigurationError
from devices.tiles import IMAGE_DATASET, TILE_COLUMNS
from processing.callbacks.journal import find_runs, read_journal
from tests.processing.documents import MontageRun
from tests.tiled_server import mongo
from tests.tiled_server.exported_montage import Made, make_montage
from tests.tiled_server.montages import event

mongo.needs("mongomock_ng")

from tiled_server.mimetypes import HDF5  # noqa: E402
from tiled_server.mongo.addresses import checked_mongo, shown_mongo  # noqa: E402
from tiled_server.mongo.files import rows_of  # noqa: E402
from tiled_server.mongo.handler import FrameHandler, handlers  # noqa: E402
from tiled_server.mongo.queries import with_tags  # noqa: E402
from tiled_server.mongo.reading import run_documents, run_uids  # noqa: E402
from tiled_server.mongo.translation import SPEC, Translator  # noqa: E402
from tiled_server.mongo.writing import MongoRunWriter, make_indexes, remove_run, write_run  # noqa: E402

COLLECTIONS = ("run_start", "event_descriptor", "resource", "datum", "event", "run_stop")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("translated")
    (folder / "data").mkdir()
    return make_montage(folder, folder / "data")


@pytest.fixture
def database() -> Any:
    import mongomock_ng

    found: Any = mongomock_ng.MongoClient()["runs"]
    make_indexes(found)
    return found


def counts(database: Any) -> dict[str, int]:
    return {name: database[name].count_documents({}) for name in COLLECTIONS}


def test_each_frame_is_an_event_and_its_numbers_can_be_searched_for(made: Made, database: Any) -> None:
    for run in find_runs(made.journal):
        assert write_run(database, list(read_journal(run.path))) == "added"
    found = counts(database)
    # 4 + 4 frames, 4 + 4 verdicts, 2 baselines; levels and places of the mosaic
    assert found["run_start"] == found["run_stop"] == 3
    assert found["datum"] == 8 + 4
    assert found["resource"] == 2 * (1 + len(TILE_COLUMNS)) + 4
    tiles = list(database["event"].find({"data.defocus_um": {"$lt": -0.7}, "data.image": {"$exists": True}}))
    assert {round(one["data"]["defocus_um"], 3) for one in tiles} == {-0.75, -0.875}
    descriptor = database["event_descriptor"].find_one({"name": "tiles", "run_start": made.uids[0]})
    assert descriptor["data_keys"]["image"]["external"] == "FILESTORE:"
    assert "external" not in descriptor["data_keys"]["defocus_um"]
    assert descriptor["data_keys"]["defocus_um"]["shape"] == []


def test_what_is_written_are_documents_of_bluesky(made: Made) -> None:
    translate = Translator()
    for name, doc in read_journal(find_runs(made.journal)[0].path):
        for kind, one in translate(name, doc):
            schema = event_model.schema_validators[event_model.DocumentNames[kind]]
            schema.validate(json.loads(json.dumps(one)))


def test_a_run_comes_back_as_it_was_emitted(made: Made, database: Any) -> None:
    for run in find_runs(made.journal):
        documents = list(read_journal(run.path))
        write_run(database, documents)
        back = list(run_documents(database, run.uid))
        assert back[0] == documents[0]
        assert back[-1] == documents[-1]
        for name in ("descriptor", "stream_resource"):
            emitted = {doc["uid"]: _plain(doc) for kind, doc in documents if kind == name}
            assert {doc["uid"]: _plain(doc) for kind, doc in back if kind == name} == emitted
        events = {doc["uid"]: (doc["seq_num"], doc["data"]) for kind, doc in documents if kind == "event"}
        assert {doc["uid"]: (doc["seq_num"], doc["data"]) for kind, doc in back if kind == "event"} == events
        assert _frames(back) == _frames(documents)
    assert run_uids(database) == [run.uid for run in find_runs(made.journal)]


def _plain(doc: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(doc))


def _frames(documents: list[tuple[str, dict[str, Any]]]) -> Counter[tuple[str, int, int]]:
    """Return which frame of which resource belongs to which event."""
    found: Counter[tuple[str, int, int]] = Counter()
    for name, doc in documents:
        if name == "stream_datum":
            span, numbers = doc["indices"], doc["seq_nums"]
            for index, number in zip(
                range(span["start"], span["stop"]), range(numbers["start"], numbers["stop"]), strict=True
            ):
                found[doc["stream_resource"], index, number] += 1
    return found


def test_a_run_is_written_once_and_a_half_one_anew(made: Made, database: Any) -> None:
    run = find_runs(made.journal)[0]
    documents = list(read_journal(run.path))
    writer = MongoRunWriter(database)
    for name, doc in documents[:-3]:
        writer(name, doc)
    writer.flush()
    for name, doc in documents[:-3]:  # a document may come twice
        writer(name, doc)
    writer.flush()
    half = counts(database)
    assert half["run_stop"] == 0
    assert half["event"] > 0
    assert write_run(database, documents) == "completed"
    whole = counts(database)
    assert write_run(database, documents) == "present"
    assert counts(database) == whole
    remove_run(database, run.uid)
    assert sum(counts(database).values()) == 0


def test_the_same_uid_with_other_contents_is_refused(made: Made, database: Any) -> None:
    documents = list(read_journal(find_runs(made.journal)[0].path))
    write_run(database, documents)
    writer = MongoRunWriter(database)
    with pytest.raises(Exception, match=f"start {documents[0][1]['uid']} is in the database with other"):
        writer("start", {**documents[0][1], "sample": "mouse 8"})
    assert database["run_start"].find_one()["sample"] == documents[0][1]["sample"]


def test_numbers_that_are_none_may_come_twice(tmp_path: Path, database: Any) -> None:
    run = MontageRun(tmp_path)
    run.tiles([np.zeros((64, 64), np.uint16)], drift_nm_s=math.nan)
    event(run, "focus", {"focus_offset_um": math.nan})
    run.stop()
    for _ in range(2):
        writer = MongoRunWriter(database)
        for name, doc in run.documents:
            writer(name, doc)
    assert counts(database)["event"] == 2
    assert math.isnan(
        database["event"].find_one({"data.drift_nm_s": {"$exists": True}})["data"]["drift_nm_s"]
    )


def test_without_its_file_a_run_is_written_all_the_same(tmp_path: Path, database: Any) -> None:
    run = MontageRun(tmp_path)
    run.tiles([np.full((64, 64), 7, np.uint16)] * 3, defocus_um=-2.0)
    run.stop()
    away = run.path.rename(tmp_path / "away.h5")
    write_run(database, run.documents)
    found = counts(database)
    assert found["datum"] == 3 * (1 + len(TILE_COLUMNS))
    away.rename(run.path)
    defocus = database["resource"].find_one({"resource_kwargs.data_key": "defocus_um"})
    handler = handlers([tmp_path])[SPEC](f"/{defocus['resource_path']}", **defocus["resource_kwargs"])
    assert handler(index=2) == [-2.0]
    assert _frames(list(run_documents(database, run.uid))) == _frames(run.documents)


def test_events_with_frames_wait_for_them(tmp_path: Path, database: Any) -> None:
    """A step scan: the numbers come in events, the frames in stream datums, in either order."""
    run = event_model.compose_run()
    keys: dict[str, Any] = {
        "motor": {"source": "x", "dtype": "number", "shape": []},
        "frame": {"source": "x", "dtype": "array", "shape": [1, 4, 4], "external": "STREAM:"},
    }
    bundle = run.compose_descriptor(name="primary", data_keys=keys)
    resource = run.compose_stream_resource(
        mimetype="application/x-hdf5", uri=f"file://localhost{tmp_path}/x.h5", data_key="frame",
        parameters={"dataset": "/frame"},
    )  # fmt: skip
    writer = MongoRunWriter(database)
    writer("start", run.start_doc)
    writer("descriptor", bundle.descriptor_doc)
    writer("stream_resource", resource.stream_resource_doc)
    emitted = []
    for number in (1, 2, 3):
        one = bundle.compose_event(data={"motor": number / 2}, timestamps={"motor": 1.0})
        datum = resource.compose_stream_datum(
            indices={"start": number - 1, "stop": number}, seq_nums={"start": number, "stop": number + 1},
            descriptor=bundle.descriptor_doc,
        )  # fmt: skip
        emitted.append(one["uid"])
        pair = [("event", one), ("stream_datum", datum)]
        for name, doc in pair if number == 1 else pair[::-1] if number == 2 else pair[:1]:
            writer(name, doc)
    writer("stop", run.compose_stop())
    events = sorted(database["event"].find(), key=lambda one: one["seq_num"])
    assert [one["uid"] for one in events] == emitted
    assert [one["data"].get("frame", "").partition("/")[2] for one in events] == ["0", "1", ""]
    assert [one["data"]["motor"] for one in events] == [0.5, 1.0, 1.5]  # the last one's frame never came


def test_frames_are_read_from_readable_folders_only(made: Made, tmp_path: Path) -> None:
    parameters = {"dataset": IMAGE_DATASET}
    about: dict[str, Any] = {"mimetype": HDF5, "shape": [1, 288, 320], "parameters": parameters}
    frame = FrameHandler(made.files[0], readable=[made.data], **about)(index=2)
    np.testing.assert_array_equal(frame[0], made.frames[0, 0, 2, 0])
    with pytest.raises(ConfigurationError, match="in no folder that the catalog may read"):
        FrameHandler(made.files[0], readable=[tmp_path], **about)
    link = tmp_path / "link.h5"
    link.symlink_to(made.files[0])
    with pytest.raises(ConfigurationError, match="in no folder"):
        FrameHandler(link, readable=[tmp_path], **about)
    with pytest.raises(ConfigurationError, match="in no folder"):
        FrameHandler(made.data / ".." / ".." / "etc" / "passwd", readable=[made.data], **about)
    with pytest.raises(ValueError, match="has 4 frames, and 5 are asked for"):
        FrameHandler(made.files[0], readable=None, **about)(index=4)


def test_frames_that_follow_each_other_are_read_together() -> None:
    places = [("a", 3), ("a", 4), ("a", 6), ("b", 7), ("b", 8)]
    assert list(rows_of(places)) == [("a", 3, 5), ("a", 6, 7), ("b", 7, 9)]
    assert list(rows_of([])) == []


@pytest.mark.parametrize(
    ("start", "seen"),
    [
        ({"tiled_access_tags": ["p-1", "p-9"]}, True),
        ({"tiled_access_tags": ["p-2"], "proposal": "p-1"}, False),
        ({"tiled_access_tags": [], "proposal": "p-1"}, True),
        ({"proposal": "p-1"}, True),
        ({"proposal": "p-2", "data_session": "p-1"}, False),
        ({"proposal": "", "data_session": "p-1"}, True),
        ({"data_session": "p-1"}, True),
        ({"proposal": {"proposal_id": "p-1"}}, True),
        ({"proposal": {"proposal_id": "p-2", "id": "p-1"}}, False),
        ({"proposal": {"id": "p-1"}}, True),
        ({}, False),
    ],
)
def test_the_query_finds_what_the_tags_say(start: dict[str, Any], seen: bool, database: Any) -> None:
    from tiled_server.access.tags import tags_of

    database["run_start"].insert_one(dict(start))
    assert bool(database["run_start"].count_documents(with_tags({"p-1"}))) == seen
    assert ("p-1" in tags_of({"start": start})) == seen


@pytest.mark.parametrize(
    "uri", ["mongodb://ada:sesame@host", "postgresql://ada:sesame@host/x", "sesame", "mongodb://a:b@c:x/d"]
)
def test_what_is_no_address_of_mongodb_is_refused(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="mongo is not the address of a MongoDB database") as refused:
        checked_mongo("mongo", uri)
    assert "sesame" not in str(refused.value)


def test_an_address_is_shown_without_its_password() -> None:
    uri = "mongodb://ada:se%40same@a:1,b:2/runs?replicaSet=x"
    assert checked_mongo("mongo", uri) == uri
    assert shown_mongo(uri) == "mongodb://ada:***@a:1,b:2/runs?replicaSet=x"
    assert shown_mongo("mongodb://a/runs") == "mongodb://a/runs"
