"""The journal: whole lines on disk, readable after any death of the process that wrote them."""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import event_model
import numpy as np
import pytest

from devices.errors import MontangoError
from processing.callbacks._documents import Document
from processing.callbacks.journal import Journal, find_runs, read_journal
from tests.processing.documents import MontageRun


def a_run(events: int = 3, **metadata: Any) -> list[Document]:
    run = event_model.compose_run(metadata=metadata)
    stream = run.compose_descriptor(
        name="primary", data_keys={"x": {"source": "s", "dtype": "number", "shape": []}}
    )
    documents: list[Document] = [("start", run.start_doc), ("descriptor", stream.descriptor_doc)]
    for i in range(events):
        documents.append(("event", stream.compose_event(data={"x": i}, timestamps={"x": 0.0})))
    documents.append(("stop", run.compose_stop()))
    return documents


def as_json(documents: list[Document]) -> list[Document]:
    return [(name, json.loads(json.dumps(doc))) for name, doc in documents]


def test_a_montage_comes_back_as_it_was_emitted(tmp_path: Path) -> None:
    queued = Journal(tmp_path / "journal").queued()
    run = MontageRun(tmp_path, emit=queued)
    run.tiles(np.zeros((3, 64, 64), np.uint16))
    run.verdict({"tile_index": 0, "qc_state": "pass"})
    run.stop()
    assert queued.close()
    (found,) = find_runs(tmp_path / "journal")
    assert (found.uid, found.complete, found.live) == (run.uid, True, False)
    day = datetime.fromtimestamp(found.start["time"]).strftime("%Y-%m-%d")  # the lab's own day
    assert found.path == tmp_path / "journal" / day / f"{run.uid}.jsonl"
    assert list(read_journal(found.path)) == as_json(run.documents)


def test_numpy_and_odd_values_are_written(tmp_path: Path) -> None:
    odd = {
        "int": np.int64(3),
        "float": np.float32(0.5),
        "array": np.arange(3),
        "nan": math.nan,
        "path": Path("/a"),
        "set": {"b", "a"},
        "bytes": b"x",
        "tuple": (1, 2),
        "keys": {np.int64(1): np.bool_(True)},
    }
    (_, start), *rest = a_run(0)
    Journal(tmp_path).batch([("start", start | {"odd": odd}), *rest])
    (found,) = find_runs(tmp_path)
    back = found.start["odd"]
    assert math.isnan(back.pop("nan"))
    assert back == {
        "int": 3,
        "float": 0.5,
        "array": [0, 1, 2],
        "path": "/a",
        "set": ["a", "b"],
        "bytes": "x",
        "tuple": [1, 2],
        "keys": {"1": True},
    }


def test_two_runs_at_once_go_to_two_files(tmp_path: Path) -> None:
    first, second = a_run(2), a_run(3)
    journal = Journal(tmp_path)
    for pair in zip(first, second, strict=False):
        for name, doc in pair:
            journal(name, doc)
    journal(*second[-1])
    runs = {run.uid: run for run in find_runs(tmp_path)}
    assert [name for name, _ in read_journal(runs[second[0][1]["uid"]].path)] == [name for name, _ in second]
    assert len(list(read_journal(runs[first[0][1]["uid"]].path))) == len(first)


def test_a_run_is_live_while_it_is_written_and_incomplete_after(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.batch(a_run()[:-1])
    (found,) = find_runs(tmp_path)
    assert (found.complete, found.live) == (False, True)
    journal.close()
    (found,) = find_runs(tmp_path)
    assert (found.complete, found.live) == (False, False)


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    documents = a_run()
    journal = Journal(tmp_path)
    journal.batch(documents)
    (found,) = find_runs(tmp_path)
    whole = found.path.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    for cut in range(1, last + 1):
        found.path.write_bytes(whole[:-cut])
        assert list(read_journal(found.path)) == as_json(documents[:-1])
        assert not find_runs(tmp_path)[0].complete


def test_damage_before_the_last_line_is_an_error_and_spoils_no_listing(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.batch(a_run())
    (good,) = find_runs(tmp_path)
    lines = good.path.read_bytes().splitlines(keepends=True)
    bad = good.path.with_name("bad.jsonl")
    bad.write_bytes(b"rubbish\n" + b"".join(lines[1:]))
    with pytest.raises(MontangoError, match="line 1"):
        list(read_journal(bad))
    (good.path.with_name("empty.jsonl")).touch()
    assert [run.uid for run in find_runs(tmp_path)] == [good.uid]


def test_documents_without_a_start_are_reported(tmp_path: Path) -> None:
    start, descriptor, *_ = a_run()
    journal = Journal(tmp_path)
    with pytest.raises(MontangoError, match="descriptor"):
        journal.batch([descriptor, start])
    assert len(find_runs(tmp_path)) == 1
    journal.close()


def test_what_a_full_disk_refused_is_written_when_there_is_room_again(tmp_path: Path) -> None:
    documents = a_run(50)
    journal = Journal(tmp_path)
    journal.batch(documents[:2])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    (path,) = tmp_path.glob("*/*.jsonl")
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, hard))  # Python ignores SIGXFSZ
    try:
        with pytest.raises(OSError, match="too large"):
            journal.batch(documents[2:10])
        assert len(list(read_journal(path))) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.batch(documents[10:])
    assert [n for n, _ in read_journal(path)] == [n for n, _ in documents]
    assert find_runs(tmp_path)[0].complete


WRITER = """
import sys
import event_model
from processing.callbacks.journal import Journal
journal = Journal(sys.argv[1])
run = event_model.compose_run()
journal("start", run.start_doc)
key = {"source": "s", "dtype": "number", "shape": []}
stream = run.compose_descriptor(name="primary", data_keys={"x": key})
journal("descriptor", stream.descriptor_doc)
i = 0
while True:
    journal("event", stream.compose_event(data={"x": i}, timestamps={"x": 0.0}))
    print(i, flush=True)
    i += 1
"""


def test_every_acknowledged_event_survives_kill_9(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        acknowledged = max(int(process.stdout.readline()) for _ in range(40))
        assert find_runs(tmp_path)[0].live
        process.kill()
    (found,) = find_runs(tmp_path)
    assert (found.complete, found.live) == (False, False)
    values = [doc["data"]["x"] for name, doc in read_journal(found.path) if name == "event"]
    assert values == list(range(len(values)))
    assert len(values) > acknowledged
