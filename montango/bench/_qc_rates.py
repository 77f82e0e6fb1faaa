"""How clean and spoiled tiles are judged, and what a receiver operating characteristic makes of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from montango.bench._qc_frames import Counts, Frames, has_tissue, is_darker
from processing.callbacks._judge import Judge
from processing.callbacks.verdicts import QCThresholds, TileFault
from processing.fault_kinds import FaultKind
from processing.kernels.quality import TileMetrics, measure_tile

MONTAGE: Final = 100
"""Tiles of a montage: each has a judge of its own."""
BLOCK: Final = 10
"""Tiles that are judged together, as a row is."""
DARK_COUNTS: Final = 300.0
_BLUR: Final[tuple[FaultKind, ...]] = ("blurred", "smeared", "astigmatic")
_LINES: Final[tuple[FaultKind, ...]] = ("damaged", "incomplete")
KINDS: Final[dict[str, tuple[FaultKind, ...]]] = {
    "corrupted_frame": _LINES,
    "dropout": _LINES,
    "incomplete": _LINES,
    "beam_loss": ("dark",),
    "gain": ("dark",),
    "drift_burst": _BLUR,
    "focus_jump": _BLUR,
    "astigmatism": _BLUR,
    "defocus": _BLUR,
    "blur": _BLUR,
    "charging": ("charging", "damaged"),
    "debris": ("debris", "vignetted"),
    "fold": ("fold", "debris"),
    "beam_edge": ("vignetted", "debris", "dark"),
    "frozen_frame": ("frozen",),
}
"""Kinds of faults by which a spoiled tile counts as found: a remedy of any of them is right."""

Scores = dict[FaultKind, float]


@dataclass
class Judged:
    """What came of the tiles of one source.

    Attributes
    ----------
    clean
        Scores of every clean tile.
    alarms
        Clean tiles with a fault, by kind.
    spoiled
        Scores of spoiled tiles by (fault, severity).
    judgeable
        Whether each clean tile shows enough for a blur to be told; empty where all do.
    noted
        Clean tiles with a note, which nothing acts on.
    named
        What those were called, by fault: kinds, "" for none.
    """

    name: str
    clean: list[Scores] = field(default_factory=list)
    alarms: Counter[str] = field(default_factory=Counter)
    spoiled: dict[tuple[str, float], list[Scores]] = field(default_factory=dict)
    judgeable: list[bool] = field(default_factory=list)
    noted: int = 0
    named: dict[tuple[str, float], Counter[str]] = field(default_factory=dict)

    @property
    def false_alarm_rate(self) -> float:
        """Share of the clean tiles with a fault."""
        return sum(self.alarms.values()) / max(1, len(self.clean))

    def statistic(self, fault: str, severity: float | None = None) -> npt.NDArray[np.float64]:
        """Return the score by which a fault shows, of clean tiles or (with a severity) of spoiled ones."""
        scores = self._clean(fault) if severity is None else self.spoiled[fault, severity]
        return np.array([max(one.get(kind, 0.0) for kind in KINDS[fault]) for one in scores])

    def _clean(self, fault: str) -> list[Scores]:
        """Return the scores of the clean tiles of which the judge says anything."""
        if KINDS[fault] != _BLUR or not self.judgeable:
            return self.clean
        return [scores for scores, judged in zip(self.clean, self.judgeable, strict=True) if judged]

    @property
    def judged_share(self) -> float:
        """Share of the clean tiles of which the judge says whether they are blurred."""
        return sum(self.judgeable) / max(1, len(self.judgeable)) if self.judgeable else 1.0

    def area(self, fault: str, severity: float) -> float:
        """Return the area under the curve: how often a spoiled tile scores over a clean one, 0 to 1."""
        clean, spoiled = self.statistic(fault), self.statistic(fault, severity)
        over = (spoiled[:, None] > clean[None]).mean()
        return float(over + 0.5 * (spoiled[:, None] == clean[None]).mean())

    def found(self, fault: str, severity: float) -> float:
        """Return the share of the spoiled tiles that have a fault at the thresholds."""
        named = self.named[fault, severity]
        return 1 - named[""] / max(1, sum(named.values()))


def judge_source(
    frames: Frames, severities: tuple[float, ...], clean: int, spoiled: int, thresholds: QCThresholds
) -> Judged:
    """Judge clean montages of a source, and spoiled tiles against what was learned from each.

    Parameters
    ----------
    frames
        Where tiles come from.
    severities
        Of the faults, 0 to 1.
    clean, spoiled
        How many clean tiles, and how many spoiled ones of each fault and severity.
    thresholds
        Of the judge.
    """
    result = Judged(frames.name)
    montages = max(1, round(clean / MONTAGE))
    for montage in range(montages):
        judge = Judge(thresholds)
        before = _judge_montage(judge, frames, montage, clean // montages, result)
        share = len(range(montage, spoiled, montages))
        places = {fault: _places(frames, judge, montage, share, fault) for fault in frames.faults}
        for fault in frames.faults:
            for severity in severities:
                for seed in places[fault]:
                    frame = before if fault == "frozen_frame" else frames.spoiled(seed, fault, severity)
                    _judge_spoiled(judge, before, frame, (fault, severity), result)
    return result


def _judge_montage(judge: Judge, frames: Frames, seed: int, tiles: int, result: Judged) -> Counts:
    """Judge the clean tiles as tile QC does, row by row; return the last frame."""
    pending: list[tuple[TileMetrics, Scores]] = []
    frame: Counts | None = None
    for number, frame in enumerate(frames.montage(seed, tiles), 1):
        metrics = _measured(frame)
        scores = judge.scores(metrics, len(frame))
        faults = judge.absolute(metrics, len(frame))
        if faults:
            _take(judge, metrics, scores, faults, result)
        else:
            judge.learn(metrics)
            pending.append((metrics, scores))
        if (number % BLOCK == 0 and judge.enough) or number == tiles:
            for waiting, own in pending:
                late = judge.scores(waiting, len(frame)) | _of_readout(own)
                _take(judge, waiting, late, judge.relative(waiting), result)
            pending = []
    assert frame is not None
    return frame


def _take(
    judge: Judge, metrics: TileMetrics, scores: Scores, faults: list[TileFault], result: Judged
) -> None:
    """Note what is said of a clean tile."""
    result.alarms.update([faults[0].kind] if faults else [])
    result.noted += not faults and bool(judge.notes(metrics))
    result.clean.append(scores)
    result.judgeable.append(not judge.unjudged(metrics))


def _of_readout(scores: Scores) -> Scores:
    """Return what compares a tile with the frame before: true when it came, and not later."""
    return {kind: score for kind, score in scores.items() if kind in ("frozen", "incomplete")}


def _judge_spoiled(
    judge: Judge, before: Counts, frame: Counts, what: tuple[str, float], result: Judged
) -> None:
    judge.absolute(_measured(before), len(before))
    metrics = _measured(frame)
    result.spoiled.setdefault(what, []).append(judge.scores(metrics, len(frame)))
    faults = judge.absolute(metrics, len(frame)) or judge.relative(metrics)
    result.named.setdefault(what, Counter())[faults[0].kind if faults else ""] += 1


def _places(frames: Frames, judge: Judge, montage: int, count: int, fault: str) -> list[int]:
    """Return seeds of places with tissue where a fault can be told.

    On bare resin neither a blur nor a fold is to be seen. For a blur it is the clean tile there that decides:
    a spoiled one of which the judge then says nothing counts as missed. A fold has to lie over tissue for
    most of its way.
    """
    found: list[int] = []
    for seed in range(1000 * montage, 1000 * montage + MONTAGE * 5):
        if len(found) >= count:
            break
        frame = frames.spoiled(seed, "", 0.0)
        if not has_tissue(frame):
            continue
        if KINDS[fault] == _BLUR and judge.unjudged(_measured(frame)):
            continue
        if fault == "fold" and not is_darker(frame, frames.spoiled(seed, fault, 1.0)):
            continue
        found.append(seed)
    return found


def _measured(frame: Counts) -> TileMetrics:
    return measure_tile(frame, 65535, DARK_COUNTS)
