"""What the catalog should have of a run, by the journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devices.errors import MontangoError
from processing.callbacks.journal import JournalledRun, find_runs, read_journal
from tiled_server.moving.sums import TAKEN_OUT, plain


@dataclass(slots=True)
class ExpectedRun:
    """A run in the journal.

    Attributes
    ----------
    uid, path
        Its uid and file.
    ended, live, written_s
        Whether it has its stop document, whether it is being written, and when it was written last, Unix s.
    start, stop
        Its documents; stop is empty for one that has not ended.
    counts
        Events and frames by stream.
    error
        Why the journal cannot be read, in words; empty where it can.
    """

    uid: str
    path: Path
    ended: bool
    live: bool
    written_s: float
    start: Mapping[str, Any]
    stop: Mapping[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    error: str = ""

    def read(self) -> None:
        """Read all its documents."""
        streams: dict[str, str] = {}
        try:
            for name, doc in read_journal(self.path):
                if name == "descriptor":
                    streams[doc["uid"]] = str(doc.get("name"))
                elif name == "stop":
                    self.stop = doc
                elif name in ("event", "stream_datum"):
                    stream = streams.get(doc["descriptor"], "?")
                    known = self.counts.get(stream, 0)
                    count = known + 1 if name == "event" else max(known, int(doc["indices"]["stop"]))
                    self.counts[stream] = count
        except (MontangoError, KeyError, TypeError, OSError) as error:
            self.error = str(error)


def journalled(directory: Path) -> dict[str, ExpectedRun]:
    """Return the runs of a journal by uid, their documents not read yet."""
    return {
        run.uid: ExpectedRun(run.uid, run.path, run.complete, run.live, _written(run), run.start)
        for run in (find_runs(directory) if directory.is_dir() else [])
    }


def damaged(directory: Path, known: Mapping[str, ExpectedRun]) -> Iterator[Path]:
    """Yield the files of a journal whose first document cannot be read."""
    for path in sorted(directory.glob("*/*.jsonl")):
        if path.stem not in known and path.stat().st_size:
            try:
                next(read_journal(path), None)
            except MontangoError:
                yield path


def _written(run: JournalledRun) -> float:
    return run.path.stat().st_mtime


def same_documents(journalled: Mapping[str, Any], kept: Mapping[str, Any]) -> bool:
    """Return whether the catalog has a document as the journal has it, but for what Tiled takes out."""
    wanted = {key: value for key, value in journalled.items() if key not in TAKEN_OUT}
    return bool(plain(wanted) == plain({key: value for key, value in kept.items() if key not in TAKEN_OUT}))
