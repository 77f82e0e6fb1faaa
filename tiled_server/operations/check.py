"""A catalog against the journal and the files.

It reads the catalog's own tables: no server need run, and one that runs is not asked. Runs that are being
written are left alone, and counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from devices.errors import ConfigurationError, MontangoError
from devices.tiles import IMAGE_KEY
from tiled_server.databases import shown
from tiled_server.mimetypes import SQL_TABLE, ZARR
from tiled_server.operations.contents import (
    CatalogRun,
    Part,
    Tables,
    catalog_runs,
    folder_of,
)
from tiled_server.operations.expected import ExpectedRun, damaged, journalled, same_documents
from tiled_server.operations.file_records import FileRecords
from tiled_server.operations.files import Files, FileUse, add_use
from tiled_server.operations.findings import Report
from tiled_server.operations.stores import Stores, asking

Say = Callable[[str], object]


def check(
    stores: Stores,
    *,
    readable: Sequence[Path] = (),
    deep: bool = False,
    record: bool = False,
    accept: bool = False,
    settled_after_s: float = 30.0,
    journal: Path | None = None,
    say: Say = lambda _: None,
) -> Report:
    """Compare a catalog with its journal and the files that it points to.

    Parameters
    ----------
    stores
        The catalog.
    readable
        Folders that its server may read; empty: not checked.
    deep
        Read every chunk of every file, and compare checksums.
    record, accept
        Take down size, time and (with ``deep``) checksum of files that were not; of files that changed.
    settled_after_s
        A run whose journal is younger, s, may be on its way to the catalog, and is left alone.
    journal
        The journal; None for that of the state directory.
    say
        Told what is done, line by line.

    Raises
    ------
    ConfigurationError
        There is no catalog.
    MontangoError
        It cannot be read.
    """
    if stores.database is None and not Path(stores.catalog_address).is_file():
        raise ConfigurationError(
            f"there is no catalog in {stores.folder}; name the lab's state directory with --state"
        )
    started = time.monotonic()
    checked = _Check(stores, journal or stores.journal, settled_after_s)
    try:
        asyncio.run(checked.compare(say))
    except DBAPIError as error:
        name = shown(stores.database) if stores.database else str(stores.catalog_address)
        raise MontangoError(f"the catalog {name} cannot be read ({error.orig})") from None
    report = checked.report
    if deep:
        say(f"reading {len(checked.uses)} files")
    with FileRecords(stores.folder) as records:
        folders = [*readable, stores.arrays] if readable else ()
        files = Files(report, records, folders, deep=deep, record=record, accept=accept)
        for path, use in sorted(checked.uses.items()):
            files.look(path, use)
    report.took_s = time.monotonic() - started
    return report


class _Check:
    """What is known so far."""

    def __init__(self, stores: Stores, journal: Path, settled_after_s: float) -> None:
        self.report = Report()
        self.uses: dict[Path, FileUse] = {}
        self._stores, self._journal = stores, journal
        self._settled_after_s = settled_after_s
        self._tables = Tables()

    async def compare(self, say: Say) -> None:
        """Compare all runs; what a run began after the journal was listed is no surplus."""
        expected = journalled(self._journal)
        for path in damaged(self._journal, expected):
            self.report.add("journal damaged", path.stem, str(path), "no document can be read")
        say(f"{len(expected)} runs in the journal")
        extra: list[str] = []
        seen: set[str] = set()
        async with asking(self._stores.catalog_address, moment=True) as connection:
            # the catalog's moment first: a run that has ended then has all its rows in the tables later
            await connection.exec_driver_sql("SELECT 1 FROM nodes LIMIT 1")
            if self._stores.tables or Path(self._stores.tables_address).is_file():
                async with asking(self._stores.tables_address) as tables:
                    await self._tables.read(tables)
            async for run in catalog_runs(connection):
                seen.add(run.uid)
                if not self._one(run, expected.get(run.uid)):
                    extra.append(run.uid)
        again = journalled(self._journal) if extra else {}
        for uid in extra:
            if uid not in again:
                self.report.add("run extra", uid, "", "the journal does not have it")
        self._missing([run for uid, run in expected.items() if uid not in seen])
        for name, rows in self._tables.unused().items():
            if rows:
                self.report.add("rows unused", "", name, f"{rows} rows belong to no run")

    def _missing(self, runs: Sequence[ExpectedRun]) -> None:
        for run in runs:
            if not run.ended or self._young(run):
                self.report.under_way += 1
                continue
            self.report.runs += 1
            self.report.add("run missing", run.uid, _named(run.start), "not in the catalog")

    def _young(self, run: ExpectedRun) -> bool:
        return run.live or time.time() - run.written_s < self._settled_after_s

    def _one(self, run: CatalogRun, expected: ExpectedRun | None) -> bool:
        """Compare a run; return whether the journal has it."""
        if expected is None:
            self.report.runs += 1
            self._use(run)
            return False
        if not expected.ended or (not run.stop and self._young(expected)):
            self.report.under_way += 1
            for parts in run.streams.values():
                self._count(parts)  # its rows are not unused
            return True
        self.report.runs += 1
        self._use(run)
        expected.read()
        if expected.error:
            self.report.add("journal damaged", run.uid, str(expected.path), expected.error)
        elif not run.stop:
            self.report.add("run in part", run.uid, _named(run.start), "its stop document is missing")
        else:
            self._compare(run, expected)
        expected.counts, expected.stop = {}, {}
        return True

    def _compare(self, run: CatalogRun, expected: ExpectedRun) -> None:
        for name, ours, kept in (
            ("start", expected.start, run.start),
            ("stop", expected.stop, run.stop),
        ):
            if not same_documents(ours, kept):
                fields = sorted(
                    key for key in {*ours, *kept} if not same_documents(_only(ours, key), _only(kept, key))
                )
                self.report.add("document changed", run.uid, name, f"differs in {', '.join(fields)}")
        exact = "montage_id" in expected.start
        for stream, count in expected.counts.items():
            parts = run.streams.get(stream, [])
            lengths = self._count(parts)
            fewest, most = min(lengths, default=0), max(lengths, default=0)
            self.report.events += min(fewest, count)
            if fewest < count:
                self._differs("rows missing", run.uid, stream, fewest, count)
            elif most > count and (exact or any(one.mimetype == SQL_TABLE for one in parts)):
                self._differs("rows extra", run.uid, stream, most, count)
            for part in parts:
                if part.rows is not None and (found := self._tables.count(part)).different < found.rows:
                    twice = found.rows - found.different
                    self.report.add("rows twice", run.uid, stream, f"{twice} of {found.rows}")
        for stream in run.streams.keys() - expected.counts.keys():
            if most := max(self._count(run.streams[stream]), default=0):
                self._differs("rows extra", run.uid, stream, most, 0)

    def _differs(self, kind: str, run: str, stream: str, found: int, count: int) -> None:
        self.report.add(kind, run, stream, f"{found} in the catalog, {count} in the journal")

    def _count(self, parts: Sequence[Part]) -> list[int]:
        """Return how many events each part of a stream has."""
        found = []
        for part in parts:
            if part.rows is not None:
                found.append(self._tables.count(part).different)
            elif self._is_whole(part):
                found.append(1)
            elif part.length is not None:
                found.append(part.length)
        return found

    def _is_whole(self, part: Part) -> bool:
        """Return whether a part is one array of one event, like a level of a mosaic."""
        if part.mimetype != ZARR or part.name == IMAGE_KEY or not part.files:
            return False
        path = folder_of(part.files[0])
        return path is not None and not path.is_relative_to(self._stores.arrays)

    def _use(self, run: CatalogRun) -> None:
        for parts in run.streams.values():
            for part in parts:
                add_use(self.uses, run.uid, part)
                if part.rows is not None:
                    self._tables.count(part)


def _only(document: Mapping[str, object], key: str) -> dict[str, object]:
    return {key: document[key]} if key in document else {}


def _named(start: Mapping[str, object]) -> str:
    """Return what people call a run by."""
    words = [str(start[key]) for key in ("plan_name", "montage_id") if start.get(key)]
    return " ".join(words)
