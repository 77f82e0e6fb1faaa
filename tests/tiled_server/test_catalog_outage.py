"""A catalog that is down, slow, killed or restarted: no run notices, and in the end nothing is missing."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from devices.errors import DeviceLost, MontangoError
from processing.callbacks._catalog_run import RunWriter, connect, disconnect, replay_lock
from processing.callbacks._documents import Document
from processing.callbacks.catalog import CatalogWriter
from processing.callbacks.journal import Journal
from tests.processing.documents import MontageRun
from tests.tiled_server.conftest import Server
from tiled_server.client import tile_table
from tiled_server.replay import replay

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
SHAPE = (64, 64)
PATIENCE_S = 180.0
"""Longest wait for what a server does in seconds: the machine may be busy."""


def fill(run: MontageRun, tiles: int) -> None:
    for _ in range(tiles):
        index = run.count
        run.tiles([np.full(SHAPE, index, np.uint16)], [(float(index), 0.0)])
        run.verdict({"tile_index": index, "qc_state": "pass", "faults": "[]"})


def check(server: Server, run: MontageRun, tiles: int) -> None:
    """Look at all of a run in the catalog."""
    node = server.client()[run.uid]
    assert node.metadata["stop"]["exit_status"] == "success"
    table = tile_table(node)
    assert table["x_um"].tolist() == list(range(tiles))
    assert table["qc_state"].tolist() == ["pass"] * tiles
    assert len(node["qc"].read()["tile_index"]) == tiles
    np.testing.assert_array_equal(node["tiles"]["image"].read()[:, 0, 0, 0], np.arange(tiles))


def both(*sinks: Callable[[str, dict[str, Any]], Any]) -> Callable[[str, dict[str, Any]], None]:
    def emit(name: str, doc: dict[str, Any]) -> None:
        for sink in sinks:
            sink(name, doc)

    return emit


def journalled(server: Server, journal: Path, tiles: int, end: bool = True) -> MontageRun:
    """Return a run that only the journal has."""
    writer = Journal(journal)
    run = MontageRun(server.data, SHAPE, writer)
    fill(run, tiles)
    if end:
        run.stop()
    else:
        run.close()
    writer.close()
    return run


def write_live(server: Server, documents: list[Document]) -> None:
    client = connect(server.uri, server.key)
    writer = RunWriter(client)
    for name, doc in documents:
        writer(name, doc)
    writer.flush()
    disconnect(client)


def test_a_server_that_comes_up_late_and_dies_in_the_middle(
    new_server: Callable[[], Server], tmp_path: Path
) -> None:
    server = new_server()
    server.start(wait=False)  # it writes its port and then takes its time
    uri = server.uri
    assert server.stop() == 0
    journal = Journal(tmp_path / "journal")
    writer = CatalogWriter(uri, server.key, journal.directory, batch_size=5, flush_s=0.1, retry_s=(0.2, 1.0))
    early = MontageRun(server.data, SHAPE, both(journal, writer))
    fill(early, 8)
    early.stop()
    assert not writer.drain(1)
    assert writer.state.behind == (early.uid,)
    server.start()
    assert server.uri == uri
    assert writer.drain(PATIENCE_S), writer.state
    check(server, early, 8)

    late = MontageRun(server.data, SHAPE, both(journal, writer))
    fill(late, 10)
    assert writer._queue.drain(PATIENCE_S)
    server.kill()
    fill(late, 10)
    late.stop()
    server.start()
    assert writer.drain(PATIENCE_S), writer.state
    check(server, late, 20)
    assert writer.close(PATIENCE_S)

    again = replay(journal.directory, uri, server.key)
    assert sorted(again.present) == sorted([early.uid, late.uid])
    assert (again.added, again.completed, again.incomplete, again.failed) == ([], [], [], {})
    assert server.stop() == 0


def test_replay_completes_a_catalog_and_then_adds_nothing(server: Server, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    absent = journalled(server, journal, 5)
    half = journalled(server, journal, 6)
    crashed = journalled(server, journal, 4, end=False)
    write_live(server, half.documents[:-9])
    digest = hashlib.sha256(half.path.read_bytes()).digest()
    # a run that ended a moment ago and is half there may still be on its way
    first = replay(journal, server.uri, server.key)
    assert (first.added, first.incomplete) == ([absent.uid], [half.uid, crashed.uid])
    second = replay(journal, server.uri, server.key, settled_after_s=0)
    assert (second.completed, second.present, second.incomplete) == ([half.uid], [absent.uid], [crashed.uid])
    check(server, absent, 5)
    check(server, half, 6)
    assert hashlib.sha256(half.path.read_bytes()).digest() == digest
    third = replay(journal, server.uri, server.key, settled_after_s=0)
    assert third.present == [absent.uid, half.uid]
    assert (third.added, third.completed, third.failed) == ([], [], {})
    assert str(third).startswith("added 0, completed 0, already complete 2, left alone 1")


def test_replay_says_what_is_in_its_way(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DeviceLost, match="no catalog answers"):
        replay(tmp_path, "http://127.0.0.1:9", "key")
    with replay_lock(tmp_path) as mine:
        assert mine
        with pytest.raises(MontangoError, match="another process"):
            replay(tmp_path, server.uri, server.key)
    bad = journalled(server, tmp_path / "journal", 3)
    good = journalled(server, tmp_path / "journal", 3)
    (path,) = (tmp_path / "journal").glob(f"*/{bad.uid}.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:5], b"rubbish\n", *lines[5:]]))
    summary = replay(tmp_path / "journal", server.uri, server.key)
    assert summary.added == [good.uid]
    assert list(summary.failed) == [bad.uid]
    assert "line 6" in str(summary)


def test_a_frozen_server_and_a_full_queue_never_block_a_run(server: Server, tmp_path: Path) -> None:
    assert server.process is not None
    journal = Journal(tmp_path)
    writer = CatalogWriter(
        server.uri, server.key, tmp_path, batch_size=2, flush_s=0.0, retry_s=(0.2, 1.0), max_documents=50
    )
    run = MontageRun(server.data, SHAPE, journal)
    fill(run, 3)
    for name, doc in run.documents:
        writer(name, doc)
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        fill(run, 40)
        run.stop()
        for name, doc in run.documents[-41 * 20 :]:
            writer(name, doc)
        # hundreds of documents were taken by a writer whose server has not said a word since it was frozen
        assert psutil.Process(server.process.pid).status() == psutil.STATUS_STOPPED
        assert writer.state.behind == (run.uid,)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    assert writer.drain(PATIENCE_S), writer.state
    check(server, run, 43)
    assert writer.close(PATIENCE_S)
