"""What a montage did, in numbers: tiles, re-acquisitions and why, and where the time of a tile went."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from devices.errors import MontangoError
from devices.tiles import TILE_COLUMNS
from processing.callbacks._tiles import TileSource
from processing.callbacks._worker import QueuedCallback

Column = npt.NDArray[np.float64]
Place = tuple[int, ...]
_WAITS: Final = ("focus", "hold", "recover", "qc_wait")
_COLUMNS: Final = tuple(column.name for column in TILE_COLUMNS)


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """Where the time between the starts of two exposures went, s: median of a tile, and total.

    ``readout`` is what of the readout is left when the stage has moved and settled: both go on at once.
    ``software`` is the cycle less the ideal pipelined sum ``max(move + settle, readout) + exposure``: what
    control costs, and in its total all that the plan waited for (`MontageReport.waits_s`). The parts add up
    to the cycle.
    """

    cycle: tuple[float, float]
    move: tuple[float, float]
    settle: tuple[float, float]
    expose: tuple[float, float]
    readout: tuple[float, float]
    software: tuple[float, float]

    @property
    def ratio(self) -> float:
        """Median cycle over the ideal one; 1 is ideal."""
        ideal = self.cycle[0] - self.software[0]
        return self.cycle[0] / ideal if ideal > 0 else float("nan")


@dataclass(frozen=True, slots=True)
class Reacquired:
    """A tile that was acquired again, and the faults of the attempt before."""

    roi: int
    row: int
    column: int
    attempt: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MontageReport:
    """What one run of a montage did.

    Attributes
    ----------
    frames, tiles
        Frames acquired; places of the grid that they cover.
    failed
        Region, row and column of the places whose newest verdict is still ``fail``.
    verdict, reason
        On the whole run: GOOD, STOP_AT_END or STOP_NOW, and why; "" where the run has none.
    waits_s
        What the plan waited for, s: ``focus``, ``hold``, ``recover`` (failed devices), ``qc_wait``.
    holds
        What the montage was held or interrupted by, in words.
    duration_s
        From the start to the stop document, s.
    times
        Where the time of a tile went; None for fewer than two frames.
    """

    run_uid: str
    montage_id: str
    exit_status: str
    frames: int
    tiles: int
    verdicts: Mapping[str, int]
    reacquired: tuple[Reacquired, ...]
    failed: tuple[Place, ...]
    duration_s: float
    times: TimeSplit | None
    paths: tuple[Path, ...] = ()
    verdict: str = ""
    reason: str = ""
    waits_s: Mapping[str, float] = field(default_factory=dict)
    holds: tuple[str, ...] = ()

    def as_text(self, **places: object) -> str:
        """Return the report as lines of text; ``places`` adds lines, like ``overview=path``."""
        judged = (
            ", ".join(f"{count} {state}" for state, count in sorted(self.verdicts.items())) or "not judged"
        )
        lines = [
            f"run        {self.run_uid} ({self.exit_status})",
            f"montage    {self.montage_id}",
            f"tiles      {self.tiles} in {self.frames} frames, {self.duration_s:.1f} s ({judged})",
        ]
        if self.verdict:
            lines.append(f"{'verdict':<10} {self.verdict}{': ' if self.reason else ''}{self.reason}")
        for again in self.reacquired:
            reasons = ", ".join(again.reasons) or "as asked"
            place = _where(again.roi, again.row, again.column)
            lines.append(f"again      {place}, attempt {again.attempt}: {reasons}")
        lines += [f"failed     {_where(*place)}" for place in self.failed]
        lines += [f"held       {text}" for text in self.holds]
        if self.times is not None:
            lines += _time_lines(self.times)
        if waits := [f"{name} {spent:.1f} s" for name, spent in self.waits_s.items() if spent >= 0.05]:
            lines.append(f"{'waits':<10} {', '.join(waits)}")
        lines += [f"{'file':<10} {path}" for path in self.paths]
        lines += [f"{name:<10} {place}" for name, place in places.items() if place is not None]
        return "\n".join(lines)


def _where(roi: int, row: int, column: int) -> str:
    region = f"roi {roi} " if roi > 0 else ""
    return f"{region}row {row} column {column}"


def _time_lines(times: TimeSplit) -> list[str]:
    parts = {name: getattr(times, name) for name in ("move", "settle", "expose", "readout", "software")}
    split = ", ".join(
        f"{name} {median * 1e3:.2f} ms ({total:.1f} s)" for name, (median, total) in parts.items()
    )
    cycle, total = times.cycle
    return [
        f"{'a tile':<10} {cycle * 1e3:.2f} ms ({total:.1f} s in all), {times.ratio:.3f} x the ideal; "
        f"median (and total) of its parts:",
        f"{'':<10} {split}",
    ]


@dataclass(slots=True)
class _Run:
    start: Mapping[str, Any]
    source: TileSource = field(default_factory=TileSource)
    frames: int = 0
    streams: dict[str, str] = field(default_factory=dict)
    verdicts: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    verdict: Mapping[str, Any] = field(default_factory=dict)
    holds: list[str] = field(default_factory=list)

    def event(self, doc: Mapping[str, Any]) -> None:
        """Take an event of one of the streams that the plan writes."""
        stream, data = self.streams.get(doc["descriptor"]), doc["data"]
        if stream == "qc":
            self.verdicts[int(data["tile_index"])] = data
        elif stream == "verdict":
            self.verdict = data
        elif stream == "incidents" and data["incident_kind"] != "resume":
            self.holds.append(f"{data['incident_kind']}: {data['incident_text']}")


class MontageSummary:
    """Collect what a report needs from the documents of each run, and from its file when it ends.

    It belongs behind a queue (`queued`); drain that before `result`.
    """

    def __init__(self) -> None:
        self._run: _Run | None = None
        self._report: MontageReport | None = None

    def queued(self, max_documents: int = 100_000) -> QueuedCallback:
        """Return this callback behind a queue and a thread of its own."""
        return QueuedCallback(self, name="summary", max_documents=max_documents)

    def result(self) -> MontageReport:
        """Return the report of the montage that ended last.

        Raises
        ------
        MontangoError
            None has.
        """
        if self._report is None:
            raise MontangoError("no montage has ended yet; run one first")
        return self._report

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document."""
        if name == "start":
            self._run = _Run(doc)
        run = self._run
        if run is None or name == "start":
            return
        if name == "stop":
            try:
                if run.frames:
                    self._report = _report(run, doc)
            finally:
                run.source.close()
                self._run = None
        elif name == "event":
            run.event(doc)
        else:
            if name == "descriptor":
                run.streams[doc["uid"]] = str(doc.get("name"))
            run.frames = max(run.frames, run.source(name, doc).stop)


def _report(run: _Run, stop: Mapping[str, Any]) -> MontageReport:
    columns = run.source.columns(*_COLUMNS, indices=range(run.frames))
    numbers = zip(*(columns[name].tolist() for name in ("roi", "row", "column")), strict=True)
    places = [tuple(-1 if math.isnan(number) else round(number) for number in place) for place in numbers]
    newest = {place: index for index, place in enumerate(places)}
    states = {index: str(verdict["qc_state"]) for index, verdict in run.verdicts.items()}
    failed = [place for place, index in newest.items() if states.get(index) == "fail"]
    return MontageReport(
        run_uid=str(run.start["uid"]),
        montage_id=str(run.start.get("montage_id", "")),
        exit_status=str(stop["exit_status"]),
        frames=run.frames,
        tiles=len(newest),
        verdicts=dict(Counter(states.values())),
        reacquired=tuple(_reacquired(columns, places, run.verdicts)),
        failed=tuple(failed),
        duration_s=float(stop["time"]) - float(run.start["time"]),
        times=split_times(columns),
        paths=(run.source.path,) if run.source.path else (),
        verdict=str(run.verdict.get("montage_verdict", "")),
        reason=str(run.verdict.get("montage_reason", "")),
        waits_s={name: float(run.verdict.get(f"time_{name}_s", 0.0)) for name in _WAITS},
        holds=tuple(run.holds),
    )


def _reacquired(
    columns: Mapping[str, Column],
    places: Sequence[Place],
    verdicts: Mapping[int, Mapping[str, Any]],
) -> list[Reacquired]:
    again: list[Reacquired] = []
    last: dict[Place, int] = {}
    for index, (place, attempt) in enumerate(zip(places, columns["attempt"], strict=True)):
        if attempt > 0:
            verdict = verdicts.get(last.get(place, -1), {})
            kinds = tuple(fault["kind"] for fault in json.loads(verdict.get("faults", "[]")))
            again.append(Reacquired(place[0], place[1], place[2], round(attempt), kinds))
        last[place] = index
    return again


def split_times(columns: Mapping[str, Column]) -> TimeSplit | None:
    """Return where the time of a tile went, None for fewer than two tiles.

    None, too, where a tile took less time than its exposure: a simulation without delays.

    Parameters
    ----------
    columns
        Columns of `devices.tiles.TILE_COLUMNS`, (tile,) each: ``exposure_start_s``, ``exposure_time_s``,
        ``readout_time_s``, ``move_time_s``, ``settle_time_s``.
    """
    start = columns["exposure_start_s"]
    if len(start) < 2:
        return None
    move, settle = columns["move_time_s"][1:], columns["settle_time_s"][1:]
    expose = columns["exposure_time_s"][:-1]
    cycle = np.diff(start)
    if np.nanmedian(cycle) < np.nanmedian(expose):
        return None
    moved = np.nan_to_num(move + settle)
    readout = np.maximum(np.nan_to_num(columns["readout_time_s"][:-1]) - moved, 0.0)
    ideal = moved + readout + expose

    def both(values: Column) -> tuple[float, float]:
        finite = values[np.isfinite(values)]
        return (float(np.median(finite)), float(np.sum(finite))) if finite.size else (0.0, 0.0)

    return TimeSplit(both(cycle), both(move), both(settle), both(expose), both(readout), both(cycle - ideal))
