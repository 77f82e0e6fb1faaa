"""The faults that a tile shows beside the run's other tiles: light, dirt, folds, blur."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import numpy.typing as npt

from processing.callbacks._judge_evidence import Evidence, Level, ratio
from processing.callbacks.verdicts import QCThresholds
from processing.fault_kinds import FaultKind
from processing.kernels.quality import TileMetrics
from processing.kernels.quality_spectrum import DIRECTIONS

_LEAST = 3
"""Tiles under which nothing is compared."""
_LONG = 5.0
"""Area of what is opaque, in units of its largest circle's, over which it is a fold and no lump."""
_DIRECTED_DB, _STRETCHED_DB = 2.0, 6.0
"""How far smear and anisotropy of a blurred tile lie over the usual where one direction has lost more."""
_DRIFTED = 0.5
"""Fourth harmonic over second under which a loss has one direction."""
_LEFT_DB = 5.0
"""Astigmatism about focus leaves some directions with a smaller loss than this."""
_SMEARED_LOSS = 0.7
"""Least loss of sharpness, all directions together, of a smeared tile, natural logarithm."""
_FULL = 0.9
"""Quantile of the relief over the tiles that stands for tissue."""
_LEAST_RELIEF = 0.003
"""Relief of a contrast of 5 % (rms): resin has less, whatever the run's tiles have."""
_FADED = 0.15
"""What a blur may leave of the relief; with less a tile is resin."""
_RARE, _OVER_RARE = 0.97, 1.5
"""Quantile of what few tiles have, and how far over it a tile has to be: dark structures of the sample."""
_USUAL = 0.9
"""Quantile over the tiles that counts as what tiles of the run have."""


class Others:
    """What is usual in a run, learned from its tiles without faults, and what is not."""

    def __init__(self, thresholds: QCThresholds) -> None:
        self.thresholds = thresholds
        self._textured: deque[TileMetrics] = deque(maxlen=thresholds.window_tiles)
        self._seen: deque[TileMetrics] = deque(maxlen=thresholds.window_tiles)

    @property
    def enough(self) -> bool:
        """Whether enough tiles with texture have been seen to compare with."""
        return len(self._textured) >= self.thresholds.reference_tiles

    def learn(self, metrics: TileMetrics) -> None:
        """Take a tile into what is usual."""
        self._seen.append(metrics)
        if metrics.texture >= self.thresholds.min_texture and metrics.sharpness > 0:
            self._textured.append(metrics)

    def evidence(self, metrics: TileMetrics) -> list[Evidence]:
        """Return what the rules say; nothing while fewer than 3 tiles are known."""
        found: list[Evidence] = []
        if len(self._seen) >= _LEAST:
            found.append(self._dark(metrics))
        if len(self._textured) < _LEAST:
            return found
        found += self._covered(metrics)
        if metrics.texture < self.thresholds.min_texture:
            found.append(self._without_texture(metrics))
        else:
            found += [self._blurred(metrics), self._smeared(metrics)]
        return found

    def _dark(self, metrics: TileMetrics) -> Evidence:
        usual = float(np.median([other.mean_counts for other in self._seen]))
        share = metrics.mean_counts / usual if usual > 0 else 1.0
        numbers = {"mean_counts": metrics.mean_counts, "usual": usual}
        return Evidence("dark", ratio(self.thresholds.min_relative_mean, share), 1 - share, 0.8, numbers)

    def _covered(self, metrics: TileMetrics) -> list[Evidence]:
        """Return dirt, the beam's edge, folds."""
        limits, found = self.thresholds, []
        usual = _high([other.opaque_radius for other in self._seen], _USUAL)
        limit = limits.max_opaque_radius + limits.relative_opaque_radius * usual
        numbers = {
            "opaque_radius": metrics.opaque_radius,
            "opaque_fraction": metrics.opaque_fraction,
            "limit": limit,
        }
        long = metrics.opaque_fraction > _LONG * math.pi * metrics.opaque_radius**2
        kind: FaultKind = "fold" if long else "vignetted" if metrics.beam_edge else "debris"
        severity = max(metrics.opaque_fraction, 2 * metrics.opaque_radius)
        found.append(Evidence(kind, ratio(metrics.opaque_radius, limit), severity, 0.85, numbers))
        usual = _high([other.fold_contrast for other in self._seen], _RARE)
        limit = max(limits.max_fold_contrast, _OVER_RARE * usual)
        numbers = {"fold_contrast": metrics.fold_contrast, "limit": limit}
        severity = 1 - math.exp(-metrics.fold_contrast)
        found.insert(0, Evidence("fold", ratio(metrics.fold_contrast, limit), severity, 0.8, numbers))
        usual = -_high([-other.shading for other in self._seen], _RARE)
        limit = min(limits.min_shading, usual / _OVER_RARE)
        numbers = {"shading": metrics.shading, "limit": limit}
        severity = 1 - metrics.shading
        score = 1 + limit - metrics.shading
        found.append(Evidence("vignetted", score, severity, 0.7, numbers))
        return found

    def _alike(self) -> list[TileMetrics]:
        """Return tiles with as much structure as most: a tile of little but resin is no measure of tissue."""
        reliefs = [other.relief for other in self._textured]
        least = self.thresholds.min_relative_relief * float(np.quantile(reliefs, _FULL))
        return [other for other in self._textured if other.relief >= least]

    def _blurred(self, metrics: TileMetrics) -> Evidence:
        limits, others = self.thresholds, self._alike()
        sharpness = Level.of(math.log(other.sharpness) for other in others)
        focus = Level.of(other.focus_score for other in others)
        own = math.log(max(metrics.sharpness, 1e-3))
        # the noise of the tile's own measurement counts like the spread of the others
        spread = math.hypot(sharpness.sigma, 1 / (metrics.texture * max(metrics.sharpness, 0.06)))
        least = -math.log(limits.min_relative_sharpness)
        sharpness_drop = max(least, limits.deviations * spread)
        focus_drop = max(limits.min_focus_drop_db, limits.deviations * focus.sigma)
        lost, lost_db = sharpness.median - own, focus.median - metrics.focus_score
        numbers = {
            "sharpness": metrics.sharpness,
            "sharpness_limit": math.exp(sharpness.median - sharpness_drop),
            "focus_score": metrics.focus_score,
            "focus_score_limit": focus.median - focus_drop,
        }
        excess = min(lost - sharpness_drop, (lost_db - focus_drop) / 10)
        confidence = 0.7 + 0.29 * (1 - math.exp(-3 * max(0.0, excess)))
        score = min(lost / sharpness_drop, lost_db / focus_drop)
        if metrics.relief < _FADED * min(other.relief for other in others):
            score = 0.0
        return Evidence(self._name_of_blur(metrics, others), score, 1 - math.exp(-lost), confidence, numbers)

    def _name_of_blur(self, metrics: TileMetrics, others: list[TileMetrics]) -> FaultKind:
        """Return what blurred a tile: a loss in all directions alike is defocus."""
        smear_db = float(np.median([other.smear_db for other in others])) + _DIRECTED_DB
        anisotropy_db = float(np.median([other.anisotropy_db for other in others])) + _STRETCHED_DB
        if metrics.anisotropy_db > anisotropy_db:
            return "smeared"
        return _directed(_loss(metrics, others)) if metrics.smear_db > smear_db else "blurred"

    def _smeared(self, metrics: TileMetrics) -> Evidence:
        """Return whether fine detail is lost along one direction, or two at right angles.

        Tiles with less structure than most are left alone: there the direction of a few edges decides.
        """
        limits, others = self.thresholds, self._alike()
        usual = Level.of(other.smear_db for other in others)
        limit = max(limits.min_smear_db, usual.median + limits.deviations * usual.sigma)
        loss = _loss(metrics, others)
        lost_db = float(np.nanmax(loss)) if np.isfinite(loss).any() else 0.0
        sharpness = Level.of(math.log(other.sharpness) for other in others)
        lost = sharpness.median - math.log(max(metrics.sharpness, 1e-3))
        score = min(
            ratio(metrics.smear_db, limit),
            ratio(max(0.0, lost_db), limits.min_focus_drop_db),
            ratio(max(0.0, lost), _SMEARED_LOSS),
        )
        if metrics.relief < min(other.relief for other in others):
            score = 0.0
        numbers = {
            "smear_db": metrics.smear_db,
            "limit": limit,
            "direction_deg": metrics.smear_deg,
            "lost_db": lost_db,
        }
        kind: FaultKind = _directed(loss)
        return Evidence(kind, score, 1 - 10 ** (-lost_db / 20), 0.8, numbers)

    def _without_texture(self, metrics: TileMetrics) -> Evidence:
        usual = float(np.median([other.relief for other in self._alike()]))
        limit = max(_LEAST_RELIEF, self.thresholds.min_relative_relief * usual)
        numbers = {"texture": metrics.texture, "relief": metrics.relief, "usual_relief": usual}
        return Evidence("blurred", ratio(metrics.relief, limit), 1.0, 0.8, numbers)


def _high(values: list[float], quantile: float) -> float:
    """Return a high quantile of all values but the largest: the tile that is judged is one of them."""
    return float(np.quantile(np.sort(values)[:-1], quantile))


def _loss(metrics: TileMetrics, others: list[TileMetrics]) -> npt.NDArray[np.float64]:
    """Return what each direction has lost of its fine detail against other tiles, dB."""
    clear = [other.directions_db for other in others if other.directions_db]
    if not clear or not metrics.directions_db:
        return np.zeros(1)
    usual = np.median(np.nan_to_num(np.array(clear), nan=float(np.nanmedian(clear))), axis=0)
    return np.asarray(usual - np.array(metrics.directions_db))


def _directed(loss: npt.NDArray[np.float64]) -> FaultKind:
    """Return what took detail differently from directions.

    Drift takes it along one: the second harmonic of the loss. Astigmatism about focus takes it along two at
    right angles and leaves it between them: the fourth. Else it is a blur.
    """
    if len(loss) < DIRECTIONS or not np.isfinite(loss).any():
        return "smeared"
    known = np.where(np.isfinite(loss), loss, float(np.nanmedian(loss)))
    turns = np.abs(np.fft.rfft(known))
    if turns[2] < _DRIFTED * turns[1]:
        return "smeared"
    left = float(np.partition(known, 2)[2]) < _LEFT_DB
    return "astigmatic" if turns[2] > turns[1] and left else "blurred"
