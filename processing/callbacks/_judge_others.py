"""The faults that a tile shows beside the run's other tiles: light, dirt, folds, blur."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import numpy as np

from processing.callbacks._judge_blur import BLURS, Blur, textured
from processing.callbacks._judge_evidence import Evidence, ratio
from processing.callbacks._judge_usual import learned_limit
from processing.callbacks.verdicts import QCThresholds
from processing.fault_kinds import FaultKind
from processing.kernels.quality import TileMetrics

_LEAST: Final = 3
"""Tiles under which nothing is compared."""
_LEARNED_KINDS: Final = 5
"""Rules that share the false alarms: light, dirt, fold, the beam's edge, blur."""
_LONG: Final = 5.0
"""Area of what is opaque, in units of its largest circle's, over which it is a fold and no lump."""
_PRIORS: Final = {"light": (0.1, 1.4), "fold": (0.05, 0.7), "opaque": (0.01, 0.2), "shading": (0.1, 1.8)}
"""Spread of clean tiles before any was seen, and from where on a tile is no clean one."""
_TISSUE_RELIEF: Final = 0.003
"""Relief of a contrast of 5 % (rms): a tile that has it shows fine structure, too, unless it is blurred."""
_HALF: Final = math.log(2)
"""Loss of light, natural logarithm, from which a tile may be dark whatever the spread: half of it."""


class Others:
    """What is usual in a run, learned from its tiles without faults, and what is not."""

    def __init__(self, thresholds: QCThresholds) -> None:
        self.thresholds = thresholds
        self._share = thresholds.false_alarms / _LEARNED_KINDS
        self._textured: deque[TileMetrics] = deque(maxlen=thresholds.window_tiles)
        self._seen: deque[TileMetrics] = deque(maxlen=thresholds.window_tiles)
        self._blur = Blur(thresholds, self._share)
        self._limits: dict[str, float] = {}
        self._usual_light = 0.0
        self._stale = True

    @property
    def enough(self) -> bool:
        """Whether enough tiles with texture have been seen to compare with."""
        return len(self._textured) >= self.thresholds.reference_tiles

    def learn(self, metrics: TileMetrics) -> None:
        """Take a tile into what is usual."""
        self._stale = True
        self._seen.append(metrics)
        if textured(metrics, self.thresholds):
            self._textured.append(metrics)

    def evidence(self, metrics: TileMetrics) -> list[Evidence]:
        """Return what the rules say; nothing while fewer than 3 tiles are known."""
        if len(self._seen) < _LEAST:
            return []
        self._relearn()
        found = [self._dark(metrics)]
        if len(self._textured) < _LEAST:
            return found
        found += [self._fold(metrics), self._opaque(metrics), self._shaded(metrics)]
        if metrics.texture < self.thresholds.min_texture:
            found.append(self._without_texture(metrics))
        return found + self._blur.evidence(metrics)

    def unjudged(self, metrics: TileMetrics) -> tuple[FaultKind, ...]:
        """Return the kinds of which a tile shows too little, or of which too little is known yet."""
        self._relearn()
        seen = self._blur.judged(metrics) or any(one.score > 1 for one in self._blur.evidence(metrics))
        return () if seen else BLURS

    def _relearn(self) -> None:
        if not self._stale or len(self._seen) < _LEAST:
            return
        self._stale = False
        seen = self._seen
        light = [math.log(other.bright_counts) for other in seen if other.bright_counts > 0]
        numbers = {
            "light": [-value for value in light],
            "fold": [other.fold_contrast for other in seen],
            "opaque": [other.opaque_radius for other in seen],
            "shading": [-math.log(max(other.shading, 1e-6)) for other in seen],
        }
        self._limits = {
            name: learned_limit(values, self._share, *_PRIORS[name]) if values else math.inf
            for name, values in numbers.items()
        }
        self._usual_light = float(np.median(light)) if light else 0.0
        if len(self._textured) >= _LEAST:
            self._blur.relearn(self._textured)

    def _dark(self, metrics: TileMetrics) -> Evidence:
        """Return whether light is lost: of the whole tile, or of its bright parts, which vary less."""
        usual = float(np.median([other.mean_counts for other in self._seen]))
        share = metrics.mean_counts / usual if usual > 0 else 1.0
        score = ratio(self.thresholds.min_relative_mean, share)
        numbers = {"mean_counts": metrics.mean_counts, "usual": usual}
        if metrics.bright_counts > 0 and math.isfinite(self._limits["light"]):
            middle = self._usual_light
            lost = middle - math.log(metrics.bright_counts)
            limit = max(_HALF, middle + self._limits["light"])
            numbers |= {"bright_counts": metrics.bright_counts, "bright_limit": math.exp(middle - limit)}
            score = max(score, lost / limit)
            share = min(share, math.exp(-lost))
        return Evidence("dark", score, 1 - share, 0.8, numbers)

    def _opaque(self, metrics: TileMetrics) -> Evidence:
        """Return dirt, or the beam's edge: more and thicker than other tiles have."""
        limits, radius = self.thresholds, metrics.opaque_radius
        limit = max(limits.max_opaque_radius, self._limits["opaque"])
        numbers = {"opaque_radius": radius, "opaque_fraction": metrics.opaque_fraction, "limit": limit}
        long = metrics.opaque_fraction > _LONG * math.pi * radius**2
        kind: FaultKind = "fold" if long else "vignetted" if metrics.beam_edge else "debris"
        return Evidence(kind, ratio(radius, limit), max(metrics.opaque_fraction, 2 * radius), 0.85, numbers)

    def _fold(self, metrics: TileMetrics) -> Evidence:
        limit = max(self.thresholds.max_fold_contrast, self._limits["fold"])
        numbers = {"fold_contrast": metrics.fold_contrast, "limit": limit}
        severity = 1 - math.exp(-metrics.fold_contrast)
        return Evidence("fold", ratio(metrics.fold_contrast, limit), severity, 0.8, numbers)

    def _shaded(self, metrics: TileMetrics) -> Evidence:
        limit = max(-math.log(self.thresholds.min_shading), self._limits["shading"])
        numbers = {"shading": metrics.shading, "limit": math.exp(-limit)}
        score = -math.log(max(metrics.shading, 1e-6)) / limit
        return Evidence("vignetted", score, 1 - metrics.shading, 0.7, numbers)

    def _without_texture(self, metrics: TileMetrics) -> Evidence:
        """Return whether a tile has lost all fine structure, but not the coarse: far out of focus."""
        reliefs = [other.relief for other in self._textured if other.relief >= _TISSUE_RELIEF]
        usual = float(np.median(reliefs or [_TISSUE_RELIEF]))
        limit = max(_TISSUE_RELIEF, self.thresholds.min_relative_relief * usual)
        numbers = {"texture": metrics.texture, "relief": metrics.relief, "usual_relief": usual}
        return Evidence("blurred", ratio(metrics.relief, limit), 1.0, 0.8, numbers)
