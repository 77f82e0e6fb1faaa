"""One rule's say on a tile, and what is usual in a run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from processing.callbacks.verdicts import TileFault
from processing.fault_kinds import FaultKind

_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True, slots=True)
class Evidence:
    """How far a number lies beyond its limit.

    Attributes
    ----------
    kind
        What is wrong where it does.
    score
        1 at the limit, over 1 beyond it: what a receiver operating characteristic is drawn of.
    severity, confidence
        0 to 1, of the fault; numbers outside are cut.
    metrics
        The numbers it rests on, and their limits.
    """

    kind: FaultKind
    score: float
    severity: float
    confidence: float
    metrics: dict[str, float]

    @property
    def fault(self) -> TileFault:
        """The fault it is where the score is over 1."""
        severity, confidence = (min(1.0, max(0.0, value)) for value in (self.severity, self.confidence))
        return TileFault(self.kind, severity, confidence, "transient", self.metrics)


@dataclass(frozen=True, slots=True)
class Level:
    """Median and robust standard deviation of a number over the run's tiles."""

    median: float
    sigma: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Level:
        """Return those of some values, one at least."""
        array = np.fromiter(values, float)
        median = float(np.median(array))
        return cls(median, _MAD_TO_SIGMA * float(np.median(np.abs(array - median))))


def ratio(value: float, limit: float) -> float:
    """Return a value in units of its limit, at most 1e6."""
    return min(1e6, value / limit) if limit > 0 else 1e6 if value > 0 else 0.0


def worst(evidence: Iterable[Evidence]) -> dict[FaultKind, float]:
    """Return the highest score of each kind."""
    scores: dict[FaultKind, float] = {}
    for one in evidence:
        scores[one.kind] = max(one.score, scores.get(one.kind, -math.inf))
    return scores
