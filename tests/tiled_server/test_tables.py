"""Tables of events in SQLite while others read and write the same file."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from devices.errors import ConfigurationError
from tests.tiled_server.kept_catalog import QUIETLY, opened
from tiled_server.databases import write_ahead
from tiled_server.operations.stores import Stores

pytestmark = QUIETLY
ROWS = pa.table({"seq_num": [1, 2], "value": [0.5, 1.5]})


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """A table of a catalog that is served in this process, and the folder of the catalog."""
    folder = tmp_path_factory.mktemp("tables")
    with opened(Stores(folder), folder) as client:
        yield client.create_container("run").create_appendable_table(ROWS.schema, key="events"), folder


def test_a_reader_keeps_no_writer_out(table: tuple[Any, Path]) -> None:
    events, folder = table
    with closing(sqlite3.connect(folder / "catalog" / "tables.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
        before = len(events.read())
        events.append_partition(0, ROWS)
        assert len(events.read()) == before + 2


def test_a_writer_waits_for_another(table: tuple[Any, Path]) -> None:
    events, folder = table
    other = sqlite3.connect(folder / "catalog" / "tables.db", isolation_level=None, check_same_thread=False)
    with closing(other):
        other.execute("BEGIN IMMEDIATE")
        before = len(events.read())
        # what it waits for ends by itself; without waiting it would fail at once
        release = threading.Timer(0.3, other.rollback)
        release.start()
        events.append_partition(0, ROWS)
        release.join()
    assert len(events.read()) == before + 2


def test_both_files_are_in_the_mode_for_it(table: tuple[Any, Path], tmp_path: Path) -> None:
    _, folder = table
    for name in ("catalog.db", "tables.db"):
        with closing(sqlite3.connect(folder / "catalog" / name)) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    (tmp_path / "x.db").write_bytes(b"no database" * 100)
    with pytest.raises(ConfigurationError, match=r"x\.db cannot be used"):
        write_ahead(tmp_path / "x.db")
