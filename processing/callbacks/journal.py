"""The journal: every document as a line of JSON on disk, the truth after a crash.

``<directory>/<YYYY-MM-DD>/<run uid>.jsonl``, one line ``{"name": ..., "doc": ...}`` a document, in order. The
file of a run that is being written is locked (``flock``). Numbers that JSON does not know are written as
Python's ``json`` does (``NaN``, ``Infinity``).
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from devices.errors import MontangoError
from processing.callbacks._documents import Document, RunIndex
from processing.callbacks._worker import QueuedCallback

_log = logging.getLogger(__name__)
_TAIL_BYTES: Final = 1 << 16


class Journal:
    """Write documents to the journal; each call returns when they are on disk.

    Behind the RunEngine use `queued`: it writes all documents that wait with one ``fsync`` a file.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._files: dict[str, _RunFile] = {}
        self._runs = RunIndex()

    def queued(self, max_documents: int = 100_000) -> QueuedCallback:
        """Return this journal behind a queue and a thread of its own."""
        return QueuedCallback(
            self, name="journal", batch=self.batch, tick=self.sync, tick_s=2.0, max_documents=max_documents
        )

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Write one document."""
        self.batch([(name, doc)])

    def batch(self, documents: Sequence[Document]) -> None:
        """Write documents, those of a run in one go.

        Raises
        ------
        MontangoError
            A document of a run whose start never came: the others are written.
        OSError
            The disk is full or fails: what could not be written is tried again with the next documents.
        """
        strays = []
        for name, doc in documents:
            run = self._runs.run_of(name, doc)
            if name == "start":
                self._files[str(run)] = _RunFile(self._path(doc))
            file = self._files.get(str(run))
            if file is None:
                strays.append(name)
                continue
            file.add(name, doc)
        self.sync()
        if strays:
            raise MontangoError(f"documents of unknown runs are not in the journal: {', '.join(strays)}")

    def sync(self) -> None:
        """Put on disk what waits.

        Raises
        ------
        OSError
            The disk is full or fails; it stays waiting.
        """
        failure = None
        for run, file in list(self._files.items()):
            try:
                file.write()
            except OSError as error:
                failure = error
                continue
            if file.ended:
                self._files.pop(run).close()
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Close the files of runs that never stopped; they count as incomplete."""
        while self._files:
            self._files.popitem()[1].close()

    def _path(self, start: dict[str, Any]) -> Path:
        day = time.strftime("%Y-%m-%d", time.localtime(start["time"]))
        return self.directory / day / f"{start['uid']}.jsonl"


class _RunFile:
    """The open file of one run: ``_size`` bytes of whole lines, and what waits to be written."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._size = os.fstat(self._file.fileno()).st_size
        self._waiting = bytearray()
        self.ended = False
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def add(self, name: str, doc: dict[str, Any]) -> None:
        self._waiting += encode(name, doc)
        self.ended = self.ended or name == "stop"

    def write(self) -> None:
        if not self._waiting:
            return
        descriptor = self._file.fileno()
        try:
            view = memoryview(bytes(self._waiting))
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, self._size)  # no half line in the middle of a journal
            raise
        self._size += len(self._waiting)
        self._waiting.clear()

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class JournalledRun:
    """A run in the journal.

    ``complete``: its stop document is there. ``live``: a process has it open and is writing it.
    """

    uid: str
    path: Path
    start: dict[str, Any]
    complete: bool
    live: bool


def encode(name: str, doc: dict[str, Any]) -> bytes:
    """Return the line of a document, numpy numbers and arrays as plain ones."""
    line = {"name": name, "doc": doc}
    try:
        text = json.dumps(line, default=_plain, separators=(",", ":"))
    except TypeError:  # keys that are not strings, like numpy integers
        text = json.dumps(_plain_keys(line), default=_plain, separators=(",", ":"))
    return text.encode() + b"\n"


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)


def _plain_keys(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain_keys(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_keys(item) for item in value]
    return value


def read_journal(path: str | Path) -> Iterator[Document]:
    """Yield the documents of a run in order; a last line that was cut off by a crash is left out.

    Raises
    ------
    MontangoError
        A line before the last is damaged.
    """
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                entry = json.loads(line)
                document = entry["name"], entry["doc"]
            except (ValueError, KeyError, TypeError) as error:
                if file.read(1):
                    raise MontangoError(
                        f"{path}, line {number}: not a document ({error}); restore the file from a copy, or "
                        f"move it out of the journal"
                    ) from error
                return
            if not line.endswith(b"\n"):
                return  # whole by chance: what writes it has not acknowledged it
            yield document


def find_runs(directory: str | Path) -> list[JournalledRun]:
    """List the runs of a journal by the time of their start; files without a start are left out."""
    runs = []
    for path in Path(directory).glob("*/*.jsonl"):
        try:
            first = next(read_journal(path), None)
        except MontangoError:
            _log.exception("a damaged journal is left out")
            continue
        if first is not None and first[0] == "start":
            runs.append(JournalledRun(first[1]["uid"], path, first[1], has_stop(path), _is_locked(path)))
    return sorted(runs, key=lambda run: float(run.start["time"]))


def has_stop(path: Path) -> bool:
    """Return whether the last document of a run's journal is its stop."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        tail = file.read()
    if not tail.endswith(b"\n"):
        return False
    try:
        return bool(json.loads(tail.splitlines()[-1])["name"] == "stop")
    except (ValueError, KeyError, TypeError):
        return False


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
