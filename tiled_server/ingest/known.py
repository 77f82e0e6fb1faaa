"""What was ingested before: the frames of every such run in the journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from devices.errors import ConfigurationError, MontangoError
from devices.tiles import TILE_GROUP
from processing.callbacks._frame_file import read_parts
from processing.callbacks.journal import JournalledRun, find_runs
from processing.frame_list import FrameList, ListedFile, read_frame_list
from processing.stitching.solution import Key
from tiled_server.ingest.documents import RECIPE

_COLUMNS = ("roi", "row", "column", "attempt")


class FrameMark(NamedTuple):
    """What tells a frame from all others: which tile it is of, its file's checksum, its page there."""

    key: Key
    blake3: str
    page: int


@dataclass(frozen=True)
class KnownRun:
    """A run that ingested frames: its montage, file in the journal, list, and the attempt of each frame."""

    uid: str
    montage_id: str
    journal: Path
    listing: FrameList
    frames: Mapping[FrameMark, int]


def known_runs(journal_dir: Path) -> list[KnownRun]:
    """Return the runs that ingested frames, oldest first.

    One without its end, of a journal that was damaged, does not count: its frames are added anew.

    Raises
    ------
    MontangoError
        The list of one is gone.
    """
    return [
        _known(run) for run in find_runs(journal_dir) if run.start.get("plan_name") == RECIPE and run.complete
    ]


def acquired(journal_dir: Path, montage_id: str) -> bool:
    """Return whether a montage of this id was acquired by the lab itself."""
    runs = find_runs(journal_dir)
    return any(
        run.start.get("montage_id") == montage_id and run.start.get("plan_name") != RECIPE for run in runs
        if run.start.get("purpose") != "processing"
    )  # fmt: skip


def _known(run: JournalledRun) -> KnownRun:
    path = Path(str(run.start["ingest"]["list"]))
    try:
        listing = read_frame_list(path)
        parts = read_parts(path, [f"{TILE_GROUP}/{name}" for name in _COLUMNS], slice(None))
    except (OSError, KeyError, ValueError) as error:
        raise MontangoError(
            f"the list {path} of ingested run {run.uid} cannot be read ({error}); bring it back from a backup"
        ) from error
    frames = {}
    for index, (roi, row, column, attempt) in enumerate(zip(*parts, strict=True)):
        key = int(roi), int(row), int(column)
        mark = FrameMark(key, listing.files[listing.file[index]].blake3, int(listing.page[index]))
        frames[mark] = int(attempt)
    return KnownRun(run.uid, str(run.start["montage_id"]), run.path, listing, frames)


def files_of(runs: Iterable[KnownRun]) -> dict[Path, ListedFile]:
    """Return every file that runs have frames in."""
    return {one.path: one for run in runs for one in run.listing.files}


def montage_with(runs: Sequence[KnownRun], marks: Iterable[FrameMark]) -> str | None:
    """Return the montage that has most of some frames already, wherever they lay; None without one."""
    wanted = set(marks)
    shared = Counter({run.montage_id: 0 for run in runs})
    for run in runs:
        shared[run.montage_id] += len(wanted & run.frames.keys())
    best = shared.most_common(1)
    return best[0][0] if best and 2 * best[0][1] > len(wanted) else None


def next_attempts(runs: Iterable[KnownRun], keys: Iterable[Key]) -> dict[Key, int]:
    """Return which attempt a new frame of each tile is."""
    found = dict.fromkeys(keys, 0)
    for run in runs:
        for mark, attempt in run.frames.items():
            if mark.key in found:
                found[mark.key] = max(found[mark.key], attempt + 1)
    return found


def check_id(journal_dir: Path, montage_id: str) -> None:
    """See that a montage may have this id.

    Raises
    ------
    ConfigurationError
        It is empty or too long, has a slash, or is that of a montage that was acquired.
    """
    if not 0 < len(montage_id) <= 200 or "/" in montage_id or not montage_id.isprintable():
        raise ConfigurationError(f"--montage-id {montage_id!r} must be 1 to 200 characters without a slash")
    if acquired(journal_dir, montage_id):
        raise ConfigurationError(
            f"--montage-id {montage_id} is a montage that was acquired here; give another id"
        )
