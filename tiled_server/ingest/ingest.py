"""Montages of other programs into journal and catalog, each frame once."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import blake3
import numpy as np

from devices.errors import MontangoError
from processing.callbacks._catalog_run import RunStore, replay_lock
from processing.callbacks._documents import Document
from processing.callbacks.journal import Journal
from processing.frame_list import FrameList
from tiled_server.ingest.documents import About, Taken, documents, run_uid
from tiled_server.ingest.files import Report, Usable, check_readable, listed, usable
from tiled_server.ingest.known import (
    FrameMark,
    KnownRun,
    check_id,
    files_of,
    known_runs,
    montage_with,
    next_attempts,
)
from tiled_server.ingest.source import Source, SourceFrame

FOLDER: Final = "ingested"
"""Of the lists of frames, in the folder of the data."""
_ID_CHARACTERS: Final = 60


@dataclass(frozen=True)
class Target:
    """Where montages go.

    Attributes
    ----------
    journal_dir, data_dir
        Of the lab.
    readable
        Folders whose files its catalog serves.
    stores
        The catalog, and what else its runs are written to; none: there is none now.
    """

    journal_dir: Path
    data_dir: Path
    readable: tuple[Path, ...]
    stores: tuple[RunStore, ...] = ()


@dataclass(frozen=True)
class Ingested:
    """What became of a montage.

    Attributes
    ----------
    montage_id
        The montage.
    uid
        The new run; None: there was nothing to add.
    added, known
        Frames that are new, and that were there.
    left_out
        (name, reason) of what was not taken.
    """

    montage_id: str
    uid: str | None
    added: int
    known: int
    left_out: tuple[tuple[str, str], ...]


def quiet(what: str, done: int, of: int) -> None:
    """Take news and say nothing."""
    del what, done, of


def ingest(
    source: Source,
    target: Target,
    facts: Mapping[str, Any] | None = None,
    *,
    montage_id: str | None = None,
    report: Report = quiet,
) -> Ingested:
    """Take the frames of a source that are not there yet into the journal of a lab.

    Frames that another ingest took are told by tile, checksum and page, wherever the files lie. A tile that
    is there with other pixels gets the next attempt. Nothing of the files is copied or changed.

    Parameters
    ----------
    source
        The montage.
    target
        Where it goes. The catalog is not written here: see `complete`.
    facts
        For the start document; see `tiled_server.ingest.documents.About`.
    montage_id
        What it is called; None: that of the montage that has most of these frames already, else a name made
        of the source's.
    report
        Is told how it goes.

    Raises
    ------
    ConfigurationError
        The catalog may not serve the files, none can be read, or the id is taken.
    MontangoError
        The list of an earlier ingest is gone.
    """
    if montage_id is not None:
        check_id(target.journal_dir, montage_id)
    check_readable([one.frame.path for one in source.frames if not one.frame.absent()], target.readable)
    found = usable(source, report)
    with _alone(target.data_dir / FOLDER):
        runs = known_runs(target.journal_dir)
        files = listed([one.frame.path for one in found.frames], files_of(runs), report)
        marks = [
            FrameMark(one.key, files[one.frame.path.resolve()].blake3, one.frame.page) for one in found.frames
        ]
        name = montage_id or montage_with(runs, marks) or _name(source)
        own = [run for run in runs if run.montage_id == name]
        there = {mark for run in own for mark in run.frames}
        fresh = [one for one, mark in zip(found.frames, marks, strict=True) if mark not in there]
        known = len(marks) - len(fresh)
        if not fresh:
            return Ingested(name, None, 0, known, found.left_out)
        attempts = next_attempts(own, [one.key for one in fresh])
        taken = Taken(tuple(fresh), tuple(attempts[one.key] for one in fresh), _listing(fresh, found, files))
        about = About(
            name, dict(facts or {}), [run.uid for run in own], len(found.frames) + len(found.left_out),
            found.left_out,
        )  # fmt: skip
        uid = _write(source, taken, about, target)
    return Ingested(name, uid, len(fresh), known, found.left_out)


def complete(target: Target, montage_ids: Sequence[str]) -> list[str]:
    """Write the ingested runs of montages to the catalog; return what could not be, a line each.

    A run that is there already is left as it is.
    """
    if not target.stores:
        return ["the lab is down"]
    runs = [run for run in known_runs(target.journal_dir) if run.montage_id in montage_ids]
    return [line for store in target.stores for line in _complete(store, target.journal_dir, runs)]


def _complete(store: RunStore, journal_dir: Path, runs: Sequence[KnownRun]) -> list[str]:
    if not store.is_up():
        return [f"{store} does not answer"]
    failed = []
    with replay_lock(journal_dir, store.lock) as mine:
        if not mine:
            return ["the journal is being replayed by another process, which does it"]
        client = store.connect()
        try:
            for run in runs:
                try:
                    store.replay(client, run.journal)
                except Exception as error:  # noqa: BLE001  # one bad run keeps no other out of the catalog
                    failed.append(f"run {run.uid}: {type(error).__name__}: {error}")
        finally:
            store.disconnect(client)
    return failed


def _write(source: Source, taken: Taken, about: About, target: Target) -> str:
    """Write the list of the frames, and then the journal: what is in the journal is whole."""
    uid = run_uid(about.montage_id, taken)
    path = (target.data_dir / FOLDER / f"{uid}.h5").resolve()
    taken.listing.write(path, taken.columns())
    _journal(target.journal_dir, uid, list(documents(source, taken, about, path)))
    return uid


def _journal(directory: Path, uid: str, made: Sequence[Document]) -> None:
    """Put the documents of a run into a journal, all of them or none: it is written beside its place."""
    scratch = directory / f".{uid}.part"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        journal = Journal(scratch)
        try:
            journal.batch(made)
        finally:
            journal.close()
        (written,) = scratch.glob("*/*.jsonl")
        day = directory / written.parent.name
        day.mkdir(exist_ok=True)
        written.rename(day / written.name)
        folder = os.open(day, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _listing(frames: Sequence[SourceFrame], found: Usable, files: Mapping[Path, Any]) -> FrameList:
    paths = [one.frame.path.resolve() for one in frames]
    order = {path: number for number, path in enumerate(dict.fromkeys(paths))}
    return FrameList(
        tuple(files[path] for path in order),
        np.array([order[path] for path in paths], np.int64),
        np.array([one.frame.page for one in frames], np.int64),
        found.shape,
        found.dtype,
    )


def _name(source: Source) -> str:
    """Return an id that the same source gets again."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", source.name).strip("-.")[:_ID_CHARACTERS] or "montage"
    mark = blake3.blake3(f"{source.path.resolve()} {source.name}".encode()).hexdigest()[:8]
    return f"{plain}-{mark}"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one ingest at a time look what is there and add to it.

    Raises
    ------
    MontangoError
        The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a")
    except OSError as error:
        raise MontangoError(f"{folder} cannot be written: {error.strerror}") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
