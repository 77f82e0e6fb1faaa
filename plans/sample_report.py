"""What became of a list of samples: up to date on the disk at any moment, and enough to go on from it.

The account is written whole, under another name, flushed and renamed, after every step: at whatever moment
the process or the machine ends, the last one that was written is there. It never claims more than journal and
files hold, because it is written after them; what was on its way when a process ended is found there.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

from devices.errors import ConfigurationError
from plans.sample_table import table_lines

RoiStatus = Literal["pending", "good", "accounted", "incomplete", "failed", "skipped"]


@dataclass
class BadTile:
    """A tile that is not good: its place, its state (``fail``, ``needs_review``, ``missing``), and why."""

    roi: int
    row: int
    column: int
    state: str
    attempts: int
    reason: str


@dataclass
class RoiReport:
    """What became of a ROI; times in s, offsets in um.

    Attributes
    ----------
    aborted
        The operator ended it.
    not_reached
        The list ended before it had its turn, or in the middle of it.
    retry
        It is to be tried again although it had come to an end.
    place
        Where a section was found, as an entry of a list; None where the list says it.
    earlier_place
        Where it was found before the sample was loaded again.
    earlier_ids
        Montages that were cut off, and lie elsewhere on the stage since the sample was loaded again.
    """

    name: str
    status: RoiStatus = "pending"
    montage_id: str = ""
    run_uids: list[str] = field(default_factory=list)
    tiles: int = 0
    good: int = 0
    reimaged: int = 0
    bad: list[BadTile] = field(default_factory=list)
    exposures: int = 0
    attempts: int = 0
    resumes: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    offset_um: tuple[float, float] | None = None
    residual_um: float | None = None
    confidence: float | None = None
    verdict: str = ""
    aborted: bool = False
    duration_s: float = 0.0
    reason: str = ""
    not_reached: bool = False
    retry: bool = False
    place: dict[str, Any] | None = None
    earlier_place: dict[str, Any] | None = None
    earlier_ids: list[str] = field(default_factory=list)

    @property
    def accounted_for(self) -> bool:
        """Whether every tile that was asked for is good, or listed with a reason."""
        if self.status in ("failed", "skipped"):
            return bool(self.reason)
        return self.tiles > 0 and self.good + len(self.bad) == self.tiles

    @property
    def line(self) -> str:
        """What is to be said of it beside the numbers."""
        words = [self.reason] if self.reason else []
        words += [f"{count} {kind}" for kind, count in sorted(self.faults.items())]
        if self.resumes:
            words.append(f"resumed {self.resumes} x")
        if self.earlier_ids:
            words.append(f"begun anew, {', '.join(self.earlier_ids)} was cut off")
        if self.offset_um is not None:
            words.append(f"realigned by {self.offset_um[0]:+.1f}, {self.offset_um[1]:+.1f} um")
        return "; ".join(words)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return a ROI's account that was read from JSON."""
        if data["status"] not in get_args(RoiStatus):
            raise ValueError(f"status {data['status']!r} of ROI {data['name']!r} is not known")
        offset = data["offset_um"]
        return cls(
            **{
                **data,
                "bad": [BadTile(**tile) for tile in data["bad"]],
                "offset_um": None if offset is None else (float(offset[0]), float(offset[1])),
            }
        )


@dataclass
class SampleReport:
    """What became of a sample: ``status`` is ``pending``, ``loaded``, ``done``, ``failed`` or ``skipped``.

    Attributes
    ----------
    load_number
        The loader's count when it lay in the microscope: with another one it has been loaded again, and lies
        anew. None: it was not loaded.
    survey_id
        Montage id of its survey, from before the first exposure of it.
    not_reached
        The list ended before it had its turn.
    """

    slot: int
    name: str
    barcode: str = ""
    status: str = "pending"
    load_attempts: int = 0
    rois: list[RoiReport] = field(default_factory=list)
    incidents: list[str] = field(default_factory=list)
    duration_s: float = 0.0
    reason: str = ""
    load_number: int | None = None
    survey_id: str = ""
    not_reached: bool = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return a sample's account that was read from JSON."""
        return cls(**{**data, "rois": [RoiReport.from_dict(roi) for roi in data["rois"]]})


@dataclass
class ListReport:
    """What became of a list of samples.

    Attributes
    ----------
    listed
        The list itself, as JSON has it.
    settings
        Settings of column and camera when it began, by device and attribute: what a killed process had
        changed for a while is put back to these.
    continued_s
        When it was gone on with, Unix time, s.
    ended
        ``""`` while it runs, ``complete`` when every sample has had its turn, else ``stopped``.
    reason
        Why it was stopped.
    path
        Where it is kept, without suffix; None: nowhere.
    """

    name: str
    samples: list[SampleReport] = field(default_factory=list)
    listed: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    started_s: float = field(default_factory=time.time)
    continued_s: list[float] = field(default_factory=list)
    ended_s: float = 0.0
    ended: str = ""
    reason: str = ""
    path: Path | None = None

    @property
    def rois(self) -> list[RoiReport]:
        """Every ROI of every sample."""
        return [roi for sample in self.samples for roi in sample.rois]

    @property
    def accounted_for(self) -> bool:
        """Whether every tile that was asked for is good, or it is said why not."""
        return all(roi.accounted_for for roi in self.rois) and all(
            sample.rois or sample.reason for sample in self.samples
        )

    def as_dict(self) -> dict[str, Any]:
        """Return everything, as JSON takes it."""
        data = asdict(self)
        data["path"] = None if self.path is None else str(self.path)
        data["accounted_for"] = self.accounted_for
        return data

    def as_text(self) -> str:
        """Return a table: a line a ROI, what went wrong, and the sums."""
        return "\n".join(table_lines(self))

    def write(self) -> None:
        """Write ``PATH.json`` and ``PATH.txt`` anew, whole or not at all; on disk when it returns."""
        if self.path is None:
            return
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / f"{self.path.name}.json", json.dumps(self.as_dict(), indent=1))
        _replace(folder / f"{self.path.name}.txt", self.as_text() + "\n")
        _flush_folder(folder)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read ``PATH.json``, to go on from it.

        Raises
        ------
        ConfigurationError
            It cannot be read, or is not an account of this version.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            del data["accounted_for"]
            samples = [SampleReport.from_dict(sample) for sample in data["samples"]]
            report = cls(**{**data, "samples": samples, "path": path.with_suffix("")})
            if not report.listed:
                raise ValueError("it does not say which list it is of")
        except OSError as error:
            raise ConfigurationError(f"account {path}: cannot be read ({error.strerror})") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigurationError(
                f"account {path}: is not an account that this version can go on from ({error}); run the list "
                f"again without what it says is done"
            ) from None
        return report


def _replace(path: Path, text: str) -> None:
    """Put a text in place of a file's: under another name, flushed, renamed."""
    fresh = path.with_name(f".{path.name}.new")  # one process writes an account at a time
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _flush_folder(folder: Path) -> None:
    """Put the names of a folder's files on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
