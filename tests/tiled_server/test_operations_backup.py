"""Backups of a catalog that is written to, and catalogs that are made of them."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from devices.errors import ConfigurationError, MontangoError
from processing.callbacks._catalog_run import RunWriter, write_run
from processing.callbacks.catalog import CatalogWriter
from processing.callbacks.journal import Journal
from tests.tiled_server.conftest import Server
from tests.tiled_server.kept_catalog import QUIETLY, SmallRun, look, opened
from tests.tiled_server.montages import PATIENCE_S
from tests.tiled_server.postgres import Postgres
from tiled_server.operations import dumps
from tiled_server.operations.addresses import moved_address, new_addresses
from tiled_server.operations.backup import back_up
from tiled_server.operations.check import check
from tiled_server.operations.manifest import CHECKSUMS, FACTS
from tiled_server.operations.restore import restore
from tiled_server.operations.stores import Stores

pytestmark = QUIETLY


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return Stores(tmp_path / "state")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_a_catalog_is_restored_elsewhere_and_replay_adds_what_came_later(
    stores: Stores, data: Path, tmp_path: Path
) -> None:
    journal = Journal(stores.journal)
    with opened(stores, data) as client:
        write = RunWriter(client)

        def emit(name: str, doc: dict[str, Any]) -> None:
            journal(name, doc)
            write(name, doc)

        first = SmallRun(emit, data, shift=True)
        behind = SmallRun(journal, data)
        made = back_up(stores, tmp_path / "backup")
    assert (made.runs, made.ended, made.behind) == (1, 1, (behind.uid,))
    facts = json.loads((made.folder / FACTS).read_text())
    assert (facts["journal"]["runs"], facts["journal"]["newest"]) == (2, behind.uid)

    later = SmallRun(journal, data, shift=True)
    there = Stores(tmp_path / "elsewhere")
    there.state_dir.mkdir()
    stores.journal.rename(there.journal)
    stores.folder.rename(tmp_path / "gone")
    done = restore(made.folder, there)
    assert (done.runs, done.moved, set(done.replay)) == (1, 2, {behind.uid, later.uid})
    with opened(there, data) as client:
        look(client, first)
        again = RunWriter(client)  # numbers of data sets go on behind those that are there
        for name, doc in later.documents:
            again(name, doc)
        look(client, later)
        look(client, first)
    with pytest.raises(ConfigurationError, match="nothing is overwritten"):
        restore(made.folder, there)
    assert not list(there.state_dir.glob(".*")), "nothing half-made is left"


def both(*sinks: Any) -> Any:
    def emit(name: str, doc: dict[str, Any]) -> None:
        for sink in sinks:
            sink(name, doc)

    return emit


@pytest.mark.system
def test_a_backup_is_made_while_writers_go_on(server: Server, tmp_path: Path) -> None:
    """Whatever moment it is of, it and the journal have all of every run."""
    live = Stores(server.state_dir)
    journal = Journal(tmp_path / "journal")
    writer = CatalogWriter(server.uri, server.key, journal.directory, batch_size=2, flush_s=0.0)
    folders, runs = [], []
    server.data.mkdir(exist_ok=True)
    for number in range(2):
        runs.append(SmallRun(both(journal, writer), server.data, end=False))
        folders.append(back_up(live, tmp_path / f"backup-{number}").folder)
        runs[-1].stop()
    assert writer.close(PATIENCE_S), writer.state
    journal.close()
    for number, folder in enumerate(folders):
        there = Stores(tmp_path / f"state-{number}")
        there.state_dir.mkdir()
        restore(folder, there)
        # the runs of other tests in this catalog are in other journals
        assert not [
            one for one in _of(there, tmp_path, runs) if one.kind not in ("run missing", "run in part")
        ]
    with opened(there, server.data) as client:
        again = [write_run(client, run.documents) for run in runs]
        assert again[-1] != "present"
    assert not _of(there, tmp_path, runs)


def _of(stores: Stores, folder: Path, runs: list[Any]) -> list[Any]:
    """Return what a check finds of some runs."""
    found = check(stores, journal=folder / "journal", settled_after_s=0.0).findings
    return [one for one in found if one.run in {run.uid for run in runs}]


def test_a_backup_that_is_damaged_or_no_backup_is_refused(stores: Stores, data: Path, tmp_path: Path) -> None:
    with opened(stores, data) as client:
        SmallRun(RunWriter(client), data)
    made = back_up(stores, tmp_path / "backup", with_journal=True)
    with pytest.raises(ConfigurationError, match="nothing is overwritten"):
        back_up(stores, tmp_path / "backup")
    with pytest.raises(ConfigurationError, match="no catalog in"):
        back_up(Stores(tmp_path / "none"), tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert (made.folder.stat().st_mode & 0o077) == 0, "others cannot read it"

    there = Stores(tmp_path / "there")
    with pytest.raises(ConfigurationError, match="not a backup"):
        restore(tmp_path, there)
    tables = made.folder / "tables.db"
    whole = tables.read_bytes()
    tables.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(MontangoError, match=r"tables\.db is not as it was written"):
        restore(made.folder, there)
    tables.unlink()
    with pytest.raises(MontangoError, match=r"tables\.db is missing"):
        restore(made.folder, there)
    assert not list(there.folder.glob("*"))
    tables.write_bytes(whole)
    facts = json.loads((made.folder / FACTS).read_text())
    (made.folder / FACTS).write_text(json.dumps(facts | {"format": 99}))
    with pytest.raises(ConfigurationError, match="format 99"):
        restore(made.folder, there)
    (made.folder / FACTS).write_text(json.dumps(facts | {"runs": 2}))
    with pytest.raises(MontangoError, match="is not as it was written"):
        restore(made.folder, there)


def test_a_damaged_catalog_is_not_backed_up(stores: Stores, tmp_path: Path) -> None:
    stores.folder.mkdir(parents=True)
    connection = sqlite3.connect(stores.folder / "catalog.db")
    connection.execute("CREATE TABLE nodes (id INTEGER PRIMARY KEY, parent, key TEXT, metadata TEXT)")
    connection.executemany("INSERT INTO nodes VALUES (?, 0, ?, '{}')", [(n, "x" * 400) for n in range(2000)])
    connection.execute("CREATE INDEX by_key ON nodes (key)")
    connection.commit()
    connection.close()
    with (stores.folder / "catalog.db").open("r+b") as file:
        file.seek(4096 * 40)
        file.write(b"\xff" * 4096)
    with pytest.raises(MontangoError, match=r"catalog\.db is damaged|cannot be copied"):
        back_up(stores, tmp_path / "backup")
    assert not list(tmp_path.glob("*backup*"))


def test_addresses_go_with_folders_and_databases(tmp_path: Path) -> None:
    pairs = new_addresses(Path("/old"), Path("/new"), None, {Path("/data/a b"): Path("/disk")})
    moved = {uri: moved_address(uri, pairs) for uri in (
        "sqlite://localhost//old/catalog/tables.db",
        "file://localhost/old/catalog/arrays/r/x",
        "file://localhost/data/a%20b/1.h5",
        "file://localhost/data/abc/1.h5",
    )}  # fmt: skip
    assert list(moved.values()) == [
        "sqlite://localhost//new/catalog/tables.db",
        "file://localhost/new/catalog/arrays/r/x",
        "file://localhost/disk/1.h5",
        "file://localhost/data/abc/1.h5",
    ]
    pairs = new_addresses(Path("/old"), Path("/old"), "postgresql://ada:secret@h:5/new", {})
    assert moved_address("postgresql://g:1/old", pairs) == "postgresql://h:5/new"


@pytest.mark.system
def test_postgresql_is_dumped_as_it_was_at_one_moment(postgres: Postgres, data: Path, tmp_path: Path) -> None:
    uri = postgres.database("kept")
    stores = Stores(tmp_path / "state", uri, uri)
    stores.run_folder.mkdir(parents=True)
    journal = Journal(stores.journal)
    with opened(stores, data) as client:
        first = SmallRun(both(journal, RunWriter(client)), data, shift=True)
        made = back_up(stores, tmp_path / "backup")
        SmallRun(both(journal, RunWriter(client)), data)
    assert sorted(path.name for path in made.folder.iterdir()) == [
        "arrays.tar", "catalog.dump", CHECKSUMS, FACTS,
    ]  # fmt: skip
    words = "".join(path.read_text(errors="replace") for path in made.folder.iterdir())
    assert postgres.password not in words
    with pytest.raises(ConfigurationError, match="is not empty") as refused:
        restore(made.folder, Stores(tmp_path / "there", uri, uri))
    assert postgres.password not in str(refused.value)
    with pytest.raises(ConfigurationError, match="was in PostgreSQL"):
        restore(made.folder, Stores(tmp_path / "there"))

    new = postgres.database("kept_again")
    there = Stores(tmp_path / "there", new, new)
    done = restore(made.folder, there)
    assert (done.runs, done.moved) == (1, 2), "the database, and the array in another folder"
    stores.journal.rename(there.journal)
    (finding,) = check(there, readable=[data], settled_after_s=0.0).findings
    assert finding.kind == "run missing"
    with opened(there, data) as client:
        look(client, first)
    with pytest.raises(MontangoError, match="cannot be read") as refused_too:
        back_up(Stores(tmp_path / "x", postgres.uri("kept", "sesame")), tmp_path / "wrong")
    assert "sesame" not in str(refused_too.value)


def test_programs_of_postgresql_are_of_the_newest_version(tmp_path: Path, monkeypatch: Any) -> None:
    for version in ("9.6", "15", "16"):
        program = tmp_path / version / "bin" / "pg_dump"
        program.parent.mkdir(parents=True)
        program.write_text("")
    assert dumps.find_program("pg_dump", tmp_path).parts[-3] == "16"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="postgresql-client"):
        dumps.find_program("pg_restore", tmp_path)
