"""What became of a list of samples: a table for a person, JSON for programs, up to date at any moment."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

RoiStatus = Literal["pending", "good", "accounted", "incomplete", "failed", "skipped"]
STATUS_WORDS: dict[RoiStatus, str] = {
    "pending": "not reached",
    "good": "every tile is good",
    "accounted": "every tile is acquired; some are bad, and it says which and why",
    "incomplete": "tiles are missing, and it says which and why",
    "failed": "not acquired at all",
    "skipped": "left out, as the policy or the operator said",
}


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
    """What became of a ROI; times in s, offsets in um; ``aborted``: the operator ended it."""

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
        if self.offset_um is not None:
            words.append(f"realigned by {self.offset_um[0]:+.1f}, {self.offset_um[1]:+.1f} um")
        return "; ".join(words)


@dataclass
class SampleReport:
    """What became of a sample: ``status`` is ``pending``, ``loaded``, ``done``, ``failed`` or ``skipped``."""

    slot: int
    name: str
    barcode: str = ""
    status: str = "pending"
    load_attempts: int = 0
    rois: list[RoiReport] = field(default_factory=list)
    incidents: list[str] = field(default_factory=list)
    duration_s: float = 0.0
    reason: str = ""


@dataclass
class ListReport:
    """What became of a list of samples.

    Attributes
    ----------
    ended
        ``""`` while it runs, ``complete`` when every sample has had its turn, else ``stopped``.
    reason
        Why it was stopped.
    path
        Where it is kept, without suffix; None: nowhere.
    """

    name: str
    samples: list[SampleReport] = field(default_factory=list)
    started_s: float = field(default_factory=time.time)
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
        return "\n".join(self._lines())

    def write(self) -> None:
        """Write ``PATH.json`` and ``PATH.txt`` anew, whole or not at all."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for suffix, text in (
            (".json", json.dumps(self.as_dict(), indent=1)),
            (".txt", self.as_text() + "\n"),
        ):
            target = self.path.with_name(self.path.name + suffix)
            fresh = target.with_name(f".{target.name}.{os.getpid()}")
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(target)

    def _lines(self) -> Iterator[str]:
        end_s = self.ended_s or time.time()
        state = self.ended or "running"
        yield f"sample list {self.name}: {state} after {_hours(end_s - self.started_s)}"
        if self.reason:
            yield f"  {self.reason}"
        yield ""
        yield (
            f"{'slot':>4} {'sample':<14}{'ROI':<14}{'state':<11}{'tiles':>6}{'good':>6}{'again':>6}{'bad':>5}"
            f"{'time':>9}  remarks"
        )
        for sample in self.samples:
            yield from _sample_lines(sample)
        yield ""
        yield from self._sums()

    def _sums(self) -> Iterator[str]:
        rois = self.rois
        states = Counter(roi.status for roi in rois)
        yield (
            f"{len(self.samples)} samples, {len(rois)} ROIs: "
            + (", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none")
        )
        tiles, good = sum(roi.tiles for roi in rois), sum(roi.good for roi in rois)
        bad = Counter(one.state for roi in rois for one in roi.bad)
        words = ", ".join(f"{count} {state}" for state, count in sorted(bad.items()))
        yield (
            f"{tiles} tiles: {good} good ({sum(roi.reimaged for roi in rois)} exposures repeated)"
            + (f", {words}" if words else "")
            + (", all accounted for" if self.accounted_for else ", NOT all accounted for")
        )
        faults: Counter[str] = Counter()
        for roi in rois:
            faults.update(roi.faults)
        incidents = sum(len(sample.incidents) for sample in self.samples)
        if faults or incidents:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(faults.items())) or "none"
            resumed = sum(roi.resumes for roi in rois)
            yield f"faults of tiles: {kinds}; {incidents} incidents besides; {resumed} montages resumed"
        for state, meaning in STATUS_WORDS.items():
            if states[state] and state != "good":
                yield f"  {state}: {meaning}"


def _sample_lines(sample: SampleReport) -> Iterator[str]:
    if not sample.rois:
        words = f"{sample.slot:>4} {sample.name[:13]:<14}{'-':<14}{sample.status:<11}"
        yield f"{words}{'':>23}{_hours(sample.duration_s):>9}  {sample.reason}"
    for roi in sample.rois:
        yield (
            f"{sample.slot:>4} {sample.name[:13]:<14}{roi.name[:13]:<14}{roi.status:<11}"
            f"{roi.tiles:>6}{roi.good:>6}{roi.reimaged:>6}{len(roi.bad):>5}{_hours(roi.duration_s):>9}"
            f"  {roi.line}"
        ).rstrip()
        for tile in roi.bad[:10]:
            yield (
                f"{'':>33}{tile.state}: tile row {tile.row} column {tile.column}, "
                f"{tile.attempts} attempts: {tile.reason}"
            )
        if len(roi.bad) > 10:
            yield f"{'':>33}and {len(roi.bad) - 10} more; see the JSON"
    for incident in sample.incidents:
        yield f"{'':>5}{'! ' + incident}"


def _hours(seconds: float) -> str:
    """Return a time as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
