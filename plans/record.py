"""What there is of a montage already: read from the journal and the files, the truth after a crash.

The journal names the runs of a montage, their specification and the verdicts; the files say which frames are
really there. A tile that the journal announces and the file cannot give counts as missing; a frame that
the file has and the journal does not know yet counts as acquired.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, cast, get_args
from urllib.parse import unquote, urlparse

from devices.errors import ConfigurationError, MontangoError
from devices.tiles import IMAGE_KEY
from plans.judgements import PLAN_NAME, RUN_KEY
from plans.specs.grid import Grid, Tile
from plans.specs.montage import MontageSpec
from plans.verdicts import Verdict
from processing.callbacks._documents import Document
from processing.callbacks._tiles import TILES_STREAM
from processing.callbacks.journal import JournalledRun, find_runs, read_journal
from processing.stored_frames import StoredFrame, stored_frames

_log = logging.getLogger(__name__)

QCState = Literal["pass", "fail", "needs_review", "pending"]
PURPOSES = ("montage", "survey")
_SHORT_UID = 8
"""Of runs that acquire the tiles of a montage."""


class TileKey(NamedTuple):
    """Which tile of a montage: region of interest, row, column, each from 0."""

    roi: int
    row: int
    column: int


@dataclass(frozen=True, slots=True)
class TileRecord:
    """One acquisition of a tile.

    Attributes
    ----------
    attempt
        0 for the first, then 1, 2, ...
    run_uid, frame_index, path
        The run, and where its frame is.
    qc_state
        Its last verdict; "pending" where there is none.
    readable
        Whether the frame and its numbers are in the file.
    """

    attempt: int
    run_uid: str
    frame_index: int
    path: Path
    qc_state: QCState
    readable: bool

    @property
    def good(self) -> bool:
        """Whether the tile need not be acquired again."""
        return self.readable and self.qc_state not in ("fail", "pending")


@dataclass(frozen=True)
class RunRecord:
    """One run of a montage.

    Attributes
    ----------
    uid, start, journal
        Its uid, start document and file in the journal.
    path
        Its file of frames; None where the journal does not name one.
    ended, live
        Whether its stop document is there, and whether a process writes its journal now.
    frames
        What its file holds.
    verdicts
        Last verdict of a frame by its index.
    """

    uid: str
    start: dict[str, Any]
    journal: Path
    path: Path | None
    ended: bool
    live: bool
    frames: tuple[StoredFrame, ...] = ()
    verdicts: dict[int, QCState] = field(default_factory=dict)

    @property
    def pending(self) -> list[int]:
        """Indices of the frames that are there and have no verdict."""
        return [frame.index for frame in self.frames if frame.readable and frame.index not in self.verdicts]

    @classmethod
    def read(cls, run: JournalledRun) -> Self:
        """Read a run from its journal and its file.

        Raises
        ------
        MontangoError
            The journal is damaged before its last line.
        """
        path, verdicts = _from_documents(read_journal(run.path))
        frames = tuple(stored_frames(path)) if path is not None and path.exists() else ()
        if path is not None and not path.exists():
            _log.warning("run %s: its file %s is gone; its tiles count as missing", run.uid, path)
        return cls(run.uid, run.start, run.path, path, run.complete, run.live, frames, verdicts)


def frames_path(name: str, doc: dict[str, Any]) -> Path | None:
    """Return the file of frames that a document names: a stream resource, or the camera's configuration."""
    if name == "stream_resource" and doc["data_key"] == IMAGE_KEY:
        return Path(unquote(urlparse(doc["uri"]).path))
    if name == "descriptor" and doc.get("name") == TILES_STREAM:
        for device in doc.get("configuration", {}).values():
            for key, value in device["data"].items():
                if key.endswith("-file_path") and value:
                    return Path(value)
    return None


def _from_documents(documents: Iterable[Document]) -> tuple[Path | None, dict[int, QCState]]:
    path: Path | None = None
    verdicts: dict[int, QCState] = {}
    for name, doc in documents:
        path = frames_path(name, doc) or path
        data = doc.get("data", {}) if name == "event" else {}
        if "qc_state" in data and "tile_index" in data:
            verdicts[int(data["tile_index"])] = _state(data["qc_state"])
    return path, verdicts


def _add_judgements(runs: Sequence[RunRecord], documents: Iterable[Document]) -> None:
    """Give runs the verdicts that a run of `plans.judgements` has on their frames."""
    verdicts = {run.uid: run.verdicts for run in runs}
    for name, doc in documents:
        if name == "event" and doc["data"].get(RUN_KEY) in verdicts:
            data = doc["data"]
            verdicts[data[RUN_KEY]].setdefault(int(data["tile_index"]), _state(data["qc_state"]))


def _state(word: str) -> QCState:
    """Return a verdict's state; one that is not known here is no failure."""
    return cast("QCState", word if word in get_args(QCState) else "pass")


def read_runs(
    journal_dir: Path | str, montage_id: str, *, runs: Sequence[JournalledRun] | None = None
) -> list[RunRecord]:
    """Return the runs of a montage, with the verdicts that were given afterwards.

    Parameters and errors are those of `MontageRecord.read`; the specification is not asked for.
    """
    found = find_runs(journal_dir) if runs is None else runs
    montages = [run for run in found if run.start.get("purpose") in PURPOSES]
    records = [RunRecord.read(run) for run in montages if run.start.get("montage_id") == montage_id]
    for run in found:
        if run.start.get("plan_name") == PLAN_NAME and run.start.get("montage_id") == montage_id:
            _add_judgements(records, read_journal(run.path))
    if not records:
        known = [str(run.start["montage_id"]) for run in montages if "montage_id" in run.start]
        raise _unknown(journal_dir, montage_id, known)
    return records


def montage_named(runs: Sequence[JournalledRun], journal_dir: Path | str, name: str) -> str:
    """Return the id of a montage among runs of a journal.

    Parameters
    ----------
    runs
        What `find_runs` found.
    journal_dir
        Where, for the message.
    name
        The id, or the uid of one of its runs, or the first eight or more characters of that.

    Raises
    ------
    ConfigurationError
        There is none; the message names the nearest, or else the newest.
    """
    starts = [run.start for run in runs if run.start.get("purpose") in PURPOSES]
    known = [str(start["montage_id"]) for start in starts if "montage_id" in start]
    if name not in known and len(name) >= _SHORT_UID:
        named = {str(one.get("montage_id")) for one in starts if str(one["uid"]).startswith(name)}
        if len(named) == 1:
            return named.pop()
    if name not in known:
        raise _unknown(journal_dir, name, known)
    return name


@dataclass(frozen=True)
class MontageRecord:
    """A montage as it was acquired so far, over all its runs.

    Attributes
    ----------
    montage_id
        The montage.
    spec
        What was asked for, by its first run.
    runs
        Its runs by the time of their start.
    tiles
        The acquisitions of each tile by attempt.
    """

    montage_id: str
    spec: MontageSpec
    runs: tuple[RunRecord, ...]
    tiles: dict[TileKey, list[TileRecord]]

    @classmethod
    def read(
        cls, journal_dir: Path | str, montage_id: str, *, runs: Sequence[JournalledRun] | None = None
    ) -> Self:
        """Read what there is of a montage, or of the montage of a survey.

        Parameters
        ----------
        journal_dir
            The journal.
        montage_id
            The montage, as its runs name it.
        runs
            What `find_runs` returned of the journal; None lists them now.

        Raises
        ------
        ConfigurationError
            The journal has no run of this montage, or its specification cannot be read.
        MontangoError
            A journal is damaged before its last line.
        """
        records = read_runs(journal_dir, montage_id, runs=runs)
        try:
            spec = MontageSpec.model_validate(records[0].start.get("montage_spec"))
        except ValueError as error:
            raise ConfigurationError(
                f"the specification of montage {montage_id} cannot be read: {error}; it was acquired by "
                f"another version of Montango ({records[0].start.get('software')})"
            ) from error
        return cls(montage_id, spec, tuple(records), tiles_of(records))

    def with_verdicts(self, verdicts: Mapping[str, Sequence[Verdict]]) -> Self:
        """Return this record with more verdicts, by the uid of the run that their frames belong to."""
        runs = [
            replace(
                run,
                verdicts={
                    **{one.tile_index: _state(one.qc_state) for one in verdicts.get(run.uid, ())},
                    **run.verdicts,
                },
            )
            for run in self.runs
        ]
        return replace(self, runs=tuple(runs), tiles=tiles_of(runs))

    @property
    def run_uids(self) -> tuple[str, ...]:
        """Uids of its runs by the time of their start; a new run ``resumes`` them."""
        return tuple(run.uid for run in self.runs)

    @property
    def start(self) -> dict[str, Any]:
        """Start document of the first run: its view, centre and calibration are those of the grid."""
        return self.runs[0].start

    @property
    def exposures(self) -> int:
        """Number of frames that can be read, of every attempt."""
        return sum(record.readable for records in self.tiles.values() for record in records)

    @property
    def good(self) -> int:
        """Number of tiles that need not be acquired again."""
        return sum(any(record.good for record in records) for records in self.tiles.values())

    def done(self, tile: Tile) -> bool:
        """Whether a good frame of a tile is there."""
        return any(record.good for record in self.tiles.get(_key(tile), ()))

    def todo(self, grid: Grid) -> list[tuple[Tile, int]]:
        """Return the tiles that are missing or failed, each with the attempt to come, in the grid's order."""
        return [(tile, self.next_attempt(tile)) for tile in grid.tiles if not self.done(tile)]

    def next_attempt(self, tile: Tile) -> int:
        """Return the attempt that a tile's next acquisition is."""
        return 1 + max((record.attempt for record in self.tiles.get(_key(tile), ())), default=-1)

    def fence(self) -> None:
        """Refuse to go on while another process writes a run of this montage.

        Raises
        ------
        ConfigurationError
            One does.
        """
        live = [run.uid for run in self.runs if run.live]
        if live:
            raise ConfigurationError(
                f"montage {self.montage_id} is being acquired now (run {live[-1]}); wait for its end, or end "
                f"it with `montango control abort`"
            )

    def check_spec(self, spec: MontageSpec, *, accept_changes: bool = False) -> MontageSpec:
        """Return the specification to go on with.

        Raises
        ------
        ConfigurationError
            It differs from what the montage was begun with, and ``accept_changes`` is not set; naming each
            field that differs.
        """
        changes = changed_fields(self.spec, spec)
        if changes and not accept_changes:
            raise ConfigurationError(
                f"montage {self.montage_id} was begun with another specification: {'; '.join(changes)}; give "
                f"the same, or accept the changes with accept_changes=True (--accept-changes)"
            )
        return spec


def changed_fields(old: MontageSpec, new: MontageSpec) -> list[str]:
    """Return what differs between two specifications, a line a field."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    return [
        f"{name} was {before.get(name)!r} and is {after.get(name)!r}"
        for name in after
        if before.get(name) != after.get(name)
    ]


def montages(journal_dir: Path | str) -> dict[str, list[JournalledRun]]:
    """Return the runs of every montage in a journal by its id, the newest montage last."""
    found: dict[str, list[JournalledRun]] = {}
    for run in find_runs(journal_dir):
        # what was ingested from other programs' files was not acquired, and is not gone on with
        if (
            run.start.get("purpose") == "montage"
            and "montage_id" in run.start
            and run.start.get("recipe") != "ingest"
        ):
            found.setdefault(str(run.start["montage_id"]), []).append(run)
    return found


def tiles_of(runs: Sequence[RunRecord]) -> dict[TileKey, list[TileRecord]]:
    """Return the acquisitions of each tile by attempt, of some runs of a montage."""
    tiles: dict[TileKey, list[TileRecord]] = {}
    for run in runs:
        for frame in run.frames:
            if frame.row >= 0 and frame.column >= 0:
                key = TileKey(max(frame.roi, 0), frame.row, frame.column)
                tiles.setdefault(key, []).append(_tile(run, frame))
    for records in tiles.values():
        records.sort(key=lambda record: record.attempt)
    return tiles


def _key(tile: Tile) -> TileKey:
    return TileKey(tile.roi, tile.row, tile.column)


def _tile(run: RunRecord, frame: StoredFrame) -> TileRecord:
    if run.path is None:
        raise MontangoError(f"run {run.uid} has frames and no file; its journal {run.journal} is damaged")
    state = run.verdicts.get(frame.index, "pending")
    return TileRecord(frame.attempt, run.uid, frame.index, run.path, state, frame.readable)


def _unknown(journal_dir: Path | str, montage_id: str, known: Sequence[str]) -> ConfigurationError:
    near = difflib.get_close_matches(montage_id, known, n=1, cutoff=0.5)
    hint = f"; the nearest is {near[0]!r}" if near else f"; the newest is {known[-1]!r}" if known else ""
    return ConfigurationError(f"the journal {journal_dir} has no montage {montage_id!r}{hint}")
