"""A check of the catalog finds each thing that is wrong, and nothing else."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import pytest
from typer.testing import CliRunner, Result

from devices.errors import ConfigurationError
from montango.cli.app import app
from montango.cli.catalog_operations import described
from processing.callbacks._catalog_run import RunWriter
from processing.callbacks.journal import Journal
from tests.processing.documents import MontageRun
from tests.tiled_server.kept_catalog import QUIETLY, SmallRun, acquire, opened
from tiled_server.operations.check import check
from tiled_server.operations.findings import KINDS, Report
from tiled_server.operations.stores import Stores

pytestmark = QUIETLY
WRONG = (
    "run missing", "run in part", "run extra", "document changed", "journal damaged", "rows missing",
    "rows extra", "rows twice", "file missing", "file short", "file long", "file unreadable", "file changed",
)  # fmt: skip


class Catalog:
    """A catalog with a run for each thing that can be wrong, and one that is right."""

    def __init__(self, folder: Path) -> None:
        self.stores, self.data = Stores(folder / "state"), folder / "data"
        self.data.mkdir(parents=True)
        self.runs: dict[str, MontageRun | SmallRun] = {}
        self.journal = Journal(self.stores.journal)
        with opened(self.stores, self.data) as client:
            for kind in ("right", *WRONG):
                self.runs[kind] = self._write(RunWriter(client), kind)
        acquire(self.journal, self.data, end=False)
        self.journal.close()

    def _write(self, write: RunWriter, kind: str) -> MontageRun | SmallRun:
        def emit(name: str, doc: dict[str, Any]) -> None:
            if kind != "run extra":
                self.journal(name, doc)
            if kind != "run missing" and (kind, name) != ("run in part", "stop"):
                write(name, doc)

        return acquire(emit, self.data) if kind == "right" else SmallRun(emit, self.data)

    def check(self, **options: Any) -> Report:
        """Check it, whatever its age."""
        return check(self.stores, readable=[self.data], settled_after_s=0.0, **options)

    def sql(self, name: str, *statements: str) -> None:
        """Change a database behind the server's back."""
        with closing(sqlite3.connect(self.stores.folder / name)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    def rows(self, kind: str) -> str:
        """Return the condition on the events ``qc`` of a run, and their table."""
        with closing(sqlite3.connect(self.stores.folder / "catalog.db")) as connection:
            (parameters,) = connection.execute(
                "SELECT d.parameters FROM data_sources d JOIN nodes n ON n.id = d.node_id "
                "JOIN nodes s ON s.id = n.parent JOIN nodes r ON r.id = s.parent "
                "WHERE n.key = 'internal' AND s.key = 'qc' AND r.key = ?",
                (self.runs[kind].uid,),
            ).fetchone()
        found = json.loads(parameters)
        return f"{found['table_name']} WHERE _dataset_id = {found['dataset_id']}"

    def damage(self) -> None:
        """Do to each run what it is there for."""
        uid = self.runs["document changed"].uid
        self.sql(
            "catalog.db",
            f"UPDATE nodes SET metadata = json_set(metadata, '$.start.operator', 'eve') WHERE key = '{uid}'",
        )
        self.sql("tables.db", f"DELETE FROM {self.rows('rows missing')} AND seq_num = 2")
        extra = self.rows("rows extra")
        table = extra.split()[0]
        self.sql(
            "tables.db",
            f"CREATE TEMP TABLE more AS SELECT * FROM {extra} AND seq_num = 3",
            "UPDATE more SET seq_num = 4",
            f"INSERT INTO {table} SELECT * FROM more",
        )
        twice = self.rows("rows twice")
        self.sql("tables.db", f"INSERT INTO {table} SELECT * FROM {twice} AND seq_num = 1")
        self.runs["file missing"].path.unlink()
        for kind, length in (("file short", 2), ("file long", 4)):
            with h5py.File(self.runs[kind].path, "r+", libver="latest") as file:
                file["/entry/data"].resize(length, axis=0)
        path = self.runs["file unreadable"].path
        path.write_bytes(b"\0" * 512 + path.read_bytes()[512:])
        path = next(self.stores.journal.glob(f"*/{self.runs['journal damaged'].uid}.jsonl"))
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([*lines[:3], b'{"name": "ev\n', *lines[3:]]))

    def change(self) -> None:
        """Change a pixel and nothing else, not even the time of the file."""
        path = self.runs["file changed"].path
        about = path.stat()
        with h5py.File(path, "r+", libver="latest") as file:
            file["/entry/data"][1, 0, 0] = 9
        assert path.stat().st_size == about.st_size
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return Catalog(tmp_path_factory.mktemp("checked"))


def kinds(report: Report, catalog: Catalog) -> dict[str, set[str]]:
    """Return the kinds of findings by what their run is there for."""
    names = {run.uid: kind for kind, run in catalog.runs.items()}
    found: dict[str, set[str]] = {}
    for one in report.findings:
        found.setdefault(names[one.run], set()).add(one.kind)
    return found


def test_each_thing_that_is_wrong_is_found_and_nothing_else(catalog: Catalog) -> None:
    report = catalog.check(deep=True, record=True)
    unwritten = {"run missing", "run in part", "run extra"}
    assert kinds(report, catalog) == {kind: {kind} for kind in unwritten}
    assert (report.runs, report.under_way) == (len(WRONG) + 1, 1)
    assert report.recorded == report.files == len(WRONG), "two of a run; that missing and that in part: none"
    assert report.bytes_read > 0

    catalog.damage()
    found = kinds(catalog.check(), catalog)
    for kind in WRONG[:-1]:
        assert found.pop(kind) - {"file changed"} == {kind}
    assert not found, "neither the run that is right nor the one whose file is not changed yet"

    catalog.change()
    assert "file changed" not in kinds(catalog.check(), catalog), "size and time tell nothing"
    deep = catalog.check(deep=True)
    assert kinds(deep, catalog)["file changed"] == {"file changed"}
    words = described(deep)
    for one in deep.findings:
        assert one.text in words
        assert KINDS[one.kind].remedy in words
    assert json.loads(json.dumps(deep.facts()))["faults"] == len(deep.faults)

    catalog.check(deep=True, accept=True)
    assert "file changed" not in kinds(catalog.check(deep=True), catalog)


def test_what_is_under_way_is_left_alone_and_a_missing_catalog_is_told(
    catalog: Catalog, tmp_path: Path
) -> None:
    report = check(catalog.stores, settled_after_s=3600.0)
    assert "run missing" not in {one.kind for one in report.findings}
    assert report.under_way == 3, "one has not ended; two may be on their way"
    outside = check(catalog.stores, readable=[tmp_path], settled_after_s=3600.0)
    told = Counter(one.kind for one in outside.findings)
    arrays = 1  # which the catalog keeps itself
    assert told["file outside"] + told["file missing"] + arrays == outside.files
    with pytest.raises(ConfigurationError, match="no catalog in"):
        check(Stores(tmp_path))


def test_the_commands(catalog: Catalog, tmp_path: Path) -> None:
    def run(state: Path, *words: str) -> Result:
        return CliRunner().invoke(app, ["--state", str(state), "catalog", *words])

    done = run(catalog.stores.state_dir, "check", "--settled", "0")
    assert done.exit_code == 1
    assert "run missing: ended in the journal, not in the catalog -> montango journal replay" in done.stdout
    facts = json.loads(run(catalog.stores.state_dir, "check", "--settled", "0", "--json").stdout)
    assert {"run missing", "file outside"} <= {one["kind"] for one in facts["findings"]}
    own = str(catalog.stores.arrays)
    assert not [one for one in facts["findings"] if one["subject"].startswith(own)]

    backup, there = tmp_path / "backup", tmp_path / "there"
    done = run(catalog.stores.state_dir, "backup", "--journal", str(backup))
    assert done.exit_code == 0, done.output
    assert "2 runs of the journal had not reached the catalog" in done.stdout
    moved = f"{catalog.data}={tmp_path / 'data'}"
    done = run(there, "restore", str(backup), "--moved", moved)
    assert done.exit_code == 0, done.output
    assert "2 runs came later: start the lab, then `montango journal replay`" in done.stdout
    catalog.data.rename(tmp_path / "data")
    kinds = {one.kind for one in check(Stores(there), readable=[tmp_path], settled_after_s=0.0).findings}
    assert "file outside" not in kinds, "the catalog points to where the files are now"
    assert not isinstance(run(there, "restore", str(backup)).exception, SystemExit), "it is refused"
