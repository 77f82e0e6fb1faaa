"""A montage to be exported, from the journal and the files of a lab's state directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from devices.errors import ConfigurationError
from devices.tiles import IMAGE_KEY, TILE_COLUMNS, TILE_GROUP
from plans.judgements import PLAN_NAME, RUN_KEY
from plans.record import PURPOSES, RunRecord, montage_named
from processing.callbacks._frame_file import read_parts
from processing.callbacks.journal import JournalledRun, find_runs, read_journal
from tiled_server.exports.montage import Montage, Mosaic, Run, make_table

_RECIPE = "live_mosaic"
_BLOCK = 5000


def from_journal(journal_dir: Path, name: str) -> Montage:
    """Return a montage with all its attempts.

    Parameters
    ----------
    journal_dir
        The journal.
    name
        Montage id, or the uid of one of its runs or the first eight or more characters of it.

    Raises
    ------
    ConfigurationError
        The journal does not have it, or the file of one of its runs is gone.
    MontangoError
        A journal is damaged before its last line.
    """
    found = find_runs(journal_dir)
    montage_id = montage_named(found, journal_dir, name)
    own = [run for run in found if run.start.get("montage_id") == montage_id]
    runs, frames, verdicts, missing = [], [], [], []
    for run in own:
        if run.start.get("purpose") in PURPOSES:
            read = _Documents(run)
            record = RunRecord.read(run)
            if record.path is None:
                continue
            runs.append(read.run(record))
            verdicts.append(read.verdicts)
            frames.append(_columns(record))
            missing += _missing(record, read.announced)
        elif run.start.get("plan_name") == PLAN_NAME:
            verdicts.insert(0, _Documents(run).verdicts)
    if not runs:
        raise ConfigurationError(f"montage {montage_id} has no frames: none of its runs began to acquire")
    placed, mosaics = _mosaics(own)
    table = make_table(pd.concat(frames, ignore_index=True), _joined(verdicts), _joined(placed))
    return Montage(montage_id, tuple(runs), table, mosaics, tuple(missing))


class _Rows:
    """Rows of a table to be, some at a time as columns: as dictionaries they take many times the memory."""

    def __init__(self) -> None:
        self._blocks: list[pd.DataFrame] = []
        self._waiting: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        self._waiting.append(row)
        if len(self._waiting) == _BLOCK:
            self._blocks.append(pd.DataFrame(self._waiting))
            self._waiting = []

    def table(self) -> pd.DataFrame | None:
        """Return all rows; None where there are none."""
        return _joined([*self._blocks, pd.DataFrame(self._waiting) if self._waiting else None])


def _joined(parts: Sequence[pd.DataFrame | None]) -> pd.DataFrame | None:
    known = [one for one in parts if one is not None]
    return pd.concat(known, ignore_index=True) if known else None


class _Documents:
    """What the documents of a run say: settings, verdicts, places, number of frames, stop."""

    def __init__(self, run: JournalledRun) -> None:
        self.start, self.stop = run.start, {}  # type: tuple[dict[str, Any], dict[str, Any]]
        self.settings: dict[str, Any] = {}
        self._verdicts, self._places = _Rows(), _Rows()
        self.announced = 0
        self.shape: tuple[int, int] = (0, 0)
        streams: dict[str, str] = {}
        images: set[str] = set()
        for name, doc in read_journal(run.path):
            if name == "descriptor":
                streams[doc["uid"]] = doc["name"]
                self._configuration(doc)
            elif name == "event":
                self._event(streams.get(doc["descriptor"], ""), doc["data"])
            elif name == "stream_resource" and doc["data_key"] == IMAGE_KEY:
                images.add(doc["uid"])
            elif name == "stream_datum" and doc["stream_resource"] in images:
                self.announced = max(self.announced, int(doc["indices"]["stop"]))
            elif name == "stop":
                self.stop = doc

    def _configuration(self, doc: dict[str, Any]) -> None:
        if doc["name"] in ("baseline", "tiles"):
            for device in doc.get("configuration", {}).values():
                self.settings.update(device["data"])
        if doc["name"] == "tiles" and IMAGE_KEY in doc["data_keys"]:
            *_, height, width = doc["data_keys"][IMAGE_KEY]["shape"]
            self.shape = int(width), int(height)

    def _event(self, stream: str, data: dict[str, Any]) -> None:
        if stream == "baseline":
            for name, value in data.items():
                self.settings.setdefault(name, value)
        elif "qc_state" in data:
            self._verdicts.add({"run_uid": data.get(RUN_KEY, self.start["uid"]), **data})
        elif stream == "alignment" and "position_x_px" in data:
            self._places.add(data)

    @property
    def verdicts(self) -> pd.DataFrame | None:
        """Events of ``qc``, each with ``run_uid``, the run that it is on; None: there are none."""
        return self._verdicts.table()

    @property
    def places(self) -> pd.DataFrame | None:
        """Events of ``alignment`` of a mosaic; None: there are none."""
        return self._places.table()

    def run(self, record: RunRecord) -> Run:
        """Return the run."""
        return Run(record.uid, self.start, self.stop, self.settings, self.shape, record.path)


def _columns(record: RunRecord) -> pd.DataFrame:
    """Return what was recorded of the frames of a run that can be read."""
    usable = [frame.index for frame in record.frames if frame.readable]
    columns: dict[str, Any] = {"run_uid": record.uid, "tile_index": np.array(usable, np.int64)}
    assert record.path is not None
    for column in TILE_COLUMNS:
        values = np.full(len(record.frames), np.nan)
        if usable:
            try:
                (read,) = read_parts(
                    record.path, [f"{TILE_GROUP}/{column.name}"], slice(0, len(record.frames))
                )
                values[: len(read)] = read
            # a file from before there was this column, or one cut off in it
            except (OSError, KeyError, ValueError, RuntimeError):
                pass
        columns[column.name] = values[usable]
    return pd.DataFrame(columns)


def _missing(record: RunRecord, announced: int) -> list[str]:
    if record.path is not None and not record.path.exists():
        return [f"run {record.uid}: its file {record.path} is gone ({announced} frames)"] if announced else []
    there = {frame.index for frame in record.frames if frame.readable}
    return [
        f"run {record.uid}: frame {index} is not in {record.path}"
        for index in range(announced)
        if index not in there
    ]


def _mosaics(own: Sequence[JournalledRun]) -> tuple[list[pd.DataFrame | None], tuple[Mosaic, ...]]:
    """Return the alignment of the newest live mosaic of each region, and the mosaics."""
    newest = {int(run.start.get("roi", 0)): run for run in own if run.start.get("plan_name") == _RECIPE}
    placed = [_Documents(run).places for run in newest.values()]
    mosaics = []
    for roi, run in sorted(newest.items()):
        folder, solution = (Path(str(run.start.get(name) or "/none")) for name in ("mosaic", "solution"))
        mosaics.append(
            Mosaic(
                run.uid,
                roi,
                run.start,
                folder if folder.is_dir() else None,
                solution if solution.is_file() else None,
            )
        )
    return placed, tuple(mosaics)
