"""The rules of tile QC: from numbers to faults. No documents, no frames, no threads."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from processing.callbacks.verdicts import FaultKind, QCThresholds, Scope, TileFault
from processing.kernels.quality import TileMetrics

_CRITICAL: frozenset[FaultKind] = frozenset({"dark", "saturated", "unreadable"})
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True, slots=True)
class _Level:
    """Median and robust standard deviation of a number over the run's tiles."""

    median: float
    sigma: float

    @classmethod
    def of(cls, values: Iterable[float]) -> _Level:
        array = np.fromiter(values, float)
        median = float(np.median(array))
        return cls(median, _MAD_TO_SIGMA * float(np.median(np.abs(array - median))))


class Judge:
    """Judges the tiles of one run, and learns from each what is usual there."""

    def __init__(self, thresholds: QCThresholds) -> None:
        self.thresholds = thresholds
        self._textured: deque[TileMetrics] = deque(maxlen=thresholds.window_tiles)
        self._means: deque[float] = deque(maxlen=thresholds.window_tiles)
        self._streak: dict[FaultKind, int] = {}

    @property
    def enough(self) -> bool:
        """Whether enough tiles have been seen to compare with."""
        return len(self._textured) >= self.thresholds.reference_tiles

    def learn(self, metrics: TileMetrics) -> None:
        """Take a tile without absolute faults into what is usual."""
        self._means.append(metrics.mean_counts)
        if metrics.texture >= self.thresholds.min_texture and metrics.sharpness > 0:
            self._textured.append(metrics)

    def absolute(self, metrics: TileMetrics, height_px: int) -> list[TileFault]:
        """Return the faults that show without other tiles."""
        limits, faults = self.thresholds, []
        if metrics.dark_fraction > limits.max_dark_fraction:
            numbers = {"dark_fraction": metrics.dark_fraction, "limit": limits.max_dark_fraction}
            faults.append(_fault("dark", metrics.dark_fraction, 0.99, numbers))
        elif metrics.std_counts < limits.min_std_counts:
            numbers = {"std_counts": metrics.std_counts, "limit": limits.min_std_counts}
            faults.append(
                _fault("low_contrast", 1 - metrics.std_counts / limits.min_std_counts, 0.95, numbers)
            )
        if metrics.saturated_fraction > limits.max_saturated_fraction:
            numbers = {
                "saturated_fraction": metrics.saturated_fraction,
                "limit": limits.max_saturated_fraction,
            }
            faults.append(_fault("saturated", metrics.saturated_fraction, 0.99, numbers))
        limit = max(limits.max_damaged_fraction, 2.5 / height_px)
        if metrics.damaged_fraction > limit and not faults:
            numbers = {"damaged_fraction": metrics.damaged_fraction, "limit": limit}
            faults.append(_fault("damaged", 0.2 + metrics.damaged_fraction, 0.9, numbers))
        return faults

    def relative(self, metrics: TileMetrics) -> list[TileFault]:
        """Return the faults that show beside the run's other tiles; none while fewer than 3 are known."""
        limits = self.thresholds
        if len(self._means) >= 3:
            usual = float(np.median(self._means))
            if metrics.mean_counts < limits.min_relative_mean * usual:
                numbers = {"mean_counts": metrics.mean_counts, "usual": usual}
                return [_fault("dark", 1 - metrics.mean_counts / usual, 0.8, numbers)]
        if len(self._textured) < 3:
            return []
        if metrics.texture < limits.min_texture:
            return self._without_texture(metrics)
        return self._blurred(metrics)

    def with_scope(self, faults: list[TileFault]) -> tuple[TileFault, ...]:
        """Count faults of one kind in a row, and say how far they reach."""
        kinds = {fault.kind for fault in faults}
        self._streak = {kind: self._streak.get(kind, 0) + 1 for kind in kinds}
        return tuple(
            TileFault(fault.kind, fault.severity, fault.confidence, self._scope(fault.kind), fault.metrics)
            for fault in faults
        )

    def _scope(self, kind: FaultKind) -> Scope:
        if self._streak[kind] < self.thresholds.persistent_after:
            return "transient"
        return "critical" if kind in _CRITICAL else "persistent"

    def _blurred(self, metrics: TileMetrics) -> list[TileFault]:
        limits = self.thresholds
        sharpness = _Level.of(math.log(other.sharpness) for other in self._textured)
        focus = _Level.of(other.focus_score for other in self._textured)
        own = math.log(max(metrics.sharpness, 1e-3))
        # the noise of the tile's own measurement counts like the spread of the others
        spread = math.hypot(sharpness.sigma, 1 / (metrics.texture * max(metrics.sharpness, 0.06)))
        sharpness_limit = sharpness.median - max(
            -math.log(limits.min_relative_sharpness), limits.deviations * spread
        )
        focus_limit = focus.median - max(limits.min_focus_drop_db, limits.deviations * focus.sigma)
        if own >= sharpness_limit or metrics.focus_score >= focus_limit:
            return []
        numbers = {
            "sharpness": metrics.sharpness,
            "sharpness_limit": math.exp(sharpness_limit),
            "focus_score": metrics.focus_score,
            "focus_score_limit": focus_limit,
        }
        severity = 1 - math.exp(own - sharpness.median)
        excess = min(sharpness_limit - own, (focus_limit - metrics.focus_score) / 10)
        return [_fault("blurred", severity, 0.7 + 0.29 * (1 - math.exp(-3 * excess)), numbers)]

    def _without_texture(self, metrics: TileMetrics) -> list[TileFault]:
        usual = float(np.median([other.relief for other in self._textured]))
        limit = self.thresholds.min_relative_relief * usual
        if metrics.relief <= limit or limit <= 0:
            return []
        numbers = {"texture": metrics.texture, "relief": metrics.relief, "usual_relief": usual}
        return [_fault("blurred", 1.0, 0.8, numbers)]


def _fault(kind: FaultKind, severity: float, confidence: float, metrics: dict[str, float]) -> TileFault:
    return TileFault(kind, min(1.0, max(0.0, severity)), confidence, "transient", metrics)


def unreadable() -> TileFault:
    """Return the fault of a tile whose frame neither ring nor file has."""
    return TileFault("unreadable", 1.0, 1.0, "transient", {})


NOTHING_MEASURED = TileMetrics(*[math.nan] * 9)
"""Metrics of a tile that could not be read."""
