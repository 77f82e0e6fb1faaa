"""The rules of tile QC: from numbers to faults. No documents, no frames, no threads."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from processing.callbacks._neighbours import Neighbours
from processing.callbacks._tiles import Tile
from processing.callbacks.verdicts import QCThresholds, TileFault
from processing.fault_kinds import FaultKind
from processing.kernels.quality import TileMetrics

_SMALL_PX = 256
_DIRT_SHARE = 0.75
"""Share of the shadow that is opaque where it is dirt; a fold is darkest in its middle only."""
_MAD_TO_SIGMA = 1.4826
_SMEARED_SHARPNESS, _SMEARED_DROP_DB = 0.42, 3.0


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
        self._opaque: deque[float] = deque(maxlen=thresholds.window_tiles)
        self._neighbours = Neighbours(thresholds.persistent_after)
        self._fingerprint = 0

    @property
    def enough(self) -> bool:
        """Whether enough tiles have been seen to compare with."""
        return len(self._textured) >= self.thresholds.reference_tiles

    def learn(self, metrics: TileMetrics) -> None:
        """Take a tile without absolute faults into what is usual."""
        self._means.append(metrics.mean_counts)
        self._opaque.append(metrics.opaque_fraction)
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
        # the bright bands of a charged sample saturate, too
        charged = self._charged(metrics, height_px)
        if metrics.saturated_fraction > limits.max_saturated_fraction and not charged:
            numbers = {
                "saturated_fraction": metrics.saturated_fraction,
                "limit": limits.max_saturated_fraction,
            }
            faults.append(_fault("saturated", metrics.saturated_fraction, 0.99, numbers))
        if faults:
            return faults
        frozen = metrics.fingerprint == self._fingerprint != 0
        self._fingerprint = metrics.fingerprint
        if frozen:
            return [_fault("frozen", 1.0, 0.99, {"fingerprint": float(metrics.fingerprint)})]
        return self._lines(metrics, height_px)

    def _lines(self, metrics: TileMetrics, height_px: int) -> list[TileFault]:
        """Return what shows in the lines: torn ones, or the bands of a charged sample."""
        limits = self.thresholds
        if self._charged(metrics, height_px):
            numbers = {"banding": metrics.banding, "limit": self._banding_limit(height_px)}
            return [_fault("charging", metrics.banding / 0.25, 0.9, numbers)]
        limit = max(limits.max_damaged_fraction, 2.5 / height_px)
        if metrics.damaged_fraction > limit:
            numbers = {"damaged_fraction": metrics.damaged_fraction, "limit": limit}
            return [_fault("damaged", 0.2 + metrics.damaged_fraction, 0.9, numbers)]
        return []

    def _charged(self, metrics: TileMetrics, height_px: int) -> bool:
        """Whether bands show; a charged image is bent, too, which looks like a few torn lines."""
        torn = 10 * max(self.thresholds.max_damaged_fraction, 2.5 / height_px)
        return metrics.banding > self._banding_limit(height_px) and metrics.damaged_fraction <= torn

    def _banding_limit(self, height_px: int) -> float:
        return self.thresholds.max_banding * max(1.0, _SMALL_PX / height_px)

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
        if covered := self._covered(metrics):
            return covered
        if metrics.texture < limits.min_texture:
            return self._without_texture(metrics)
        return self._blurred(metrics)

    def with_scope(self, tile: Tile, faults: list[TileFault]) -> tuple[TileFault, ...]:
        """Say how far faults reach over the tiles beside this one."""
        self._neighbours.note(tile.place, {fault.kind for fault in faults})
        return tuple(replace(fault, scope=self._neighbours.scope(tile.place, fault.kind)) for fault in faults)

    def _covered(self, metrics: TileMetrics) -> list[TileFault]:
        """Return dirt or a fold: blocks far darker than the rest, in a larger share than other tiles have."""
        usual = float(np.quantile(self._opaque, 0.8))
        limit = self.thresholds.max_opaque_fraction + 4 * usual
        if metrics.opaque_fraction <= limit:
            return []
        numbers = {
            "shadow_fraction": metrics.shadow_fraction,
            "opaque_fraction": metrics.opaque_fraction,
            "limit": limit,
        }
        dirt = metrics.opaque_fraction > _DIRT_SHARE * metrics.shadow_fraction
        kind: FaultKind = "debris" if dirt else "fold"
        return [_fault(kind, 2 * metrics.shadow_fraction, 0.8, numbers)]

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
        usual_db = float(np.median([other.anisotropy_db for other in self._textured]))
        directed = metrics.anisotropy_db > usual_db + limits.min_anisotropy_db
        if directed:  # a smear leaves the detail across it: the limits of a blur would let it pass
            sharpness_limit = max(sharpness_limit, sharpness.median + math.log(_SMEARED_SHARPNESS))
            focus_limit = max(focus_limit, focus.median - _SMEARED_DROP_DB)
        if own >= sharpness_limit or metrics.focus_score >= focus_limit:
            return []
        numbers = {
            "anisotropy_db": metrics.anisotropy_db,
            "sharpness": metrics.sharpness,
            "sharpness_limit": math.exp(sharpness_limit),
            "focus_score": metrics.focus_score,
            "focus_score_limit": focus_limit,
        }
        severity = 1 - math.exp(own - sharpness.median)
        excess = min(sharpness_limit - own, (focus_limit - metrics.focus_score) / 10)
        kind: FaultKind = "smeared" if directed else "blurred"
        return [_fault(kind, severity, 0.7 + 0.29 * (1 - math.exp(-3 * excess)), numbers)]

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


_NAN = math.nan
NOTHING_MEASURED = TileMetrics(_NAN, _NAN, _NAN, _NAN, _NAN, _NAN, _NAN, _NAN, _NAN)
"""Metrics of a tile that could not be read."""
