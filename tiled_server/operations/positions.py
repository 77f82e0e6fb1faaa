"""Where the journal stands, so that a restored catalog can be completed from there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from processing.callbacks.journal import find_runs


@dataclass(frozen=True, slots=True)
class Position:
    """What a journal had at a moment.

    Attributes
    ----------
    directory
        The journal.
    runs, ended
        How many runs, and how many of them with a stop document.
    newest, newest_time
        Uid and time, Unix s, of the run that began last; empty and None without any.
    open
        Uids of runs that had not ended.
    """

    directory: str
    runs: int
    ended: int
    newest: str
    newest_time: float | None
    open: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def journal_position(directory: Path) -> tuple[Position, frozenset[str]]:
    """Return where a journal stands, and the uids of the runs that have ended; none without a journal."""
    found = find_runs(directory) if directory.is_dir() else []
    newest = found[-1].start if found else {}
    position = Position(
        str(directory),
        len(found),
        sum(run.complete for run in found),
        str(newest.get("uid", "")),
        float(newest["time"]) if newest else None,
        tuple(run.uid for run in found if not run.complete),
    )
    return position, frozenset(run.uid for run in found if run.complete)


def to_replay(directory: Path, ended: Collection[str]) -> tuple[list[str], list[str]]:
    """Return runs that a catalog has not, or not ended: those that have ended in the journal, and the others.

    Parameters
    ----------
    directory
        The journal.
    ended
        Uids of runs that have ended in the catalog.
    """
    if not directory.is_dir():
        return [], []
    known = set(ended)
    found = [run for run in find_runs(directory) if run.uid not in known]
    return [run.uid for run in found if run.complete], [run.uid for run in found if not run.complete]
