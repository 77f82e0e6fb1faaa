"""Blur: detail that a tile has lost against tiles of like contrast, in all directions or in some.

Losses of directions are put in order: what half of them have lost at least says whether a tile is blurred,
what a third have lost whether some of it is. A smear or astigmatism takes a third at least; a single
direction differs between clean tiles, which have a membrane here and there, and counts for nothing. All
directions together stand over the noise where one by one they do not, and are the third measure.

Two numbers have to agree, the power spectrum's detail and the structure function's sharpness: without the
latter a loss is noted, and no more. Where a loss of the size of the limit could not be seen over the noise,
or there is no contrast, nothing is said: a tile of bare resin is not sharp, it is not judged. Neither is a
tile that shows so little that nothing would be left of it after a blur.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from processing.callbacks._judge_evidence import Evidence
from processing.callbacks._judge_usual import Reals, Usual, learned_limit
from processing.callbacks.verdicts import QCThresholds
from processing.fault_kinds import FaultKind
from processing.kernels.quality import TileMetrics
from processing.kernels.quality_spectrum import DIRECTIONS

BLURS: Final[tuple[FaultKind, ...]] = ("blurred", "smeared", "astigmatic")
LEAST_RELIEF: Final = 0.001
"""Relief of a contrast of 3 % (rms): resin has less, whatever the run's tiles have."""
_FADED: Final = 0.3
"""What even a strong blur leaves of that, and of all coarse structure."""
_PRIOR_DB: Final = 2.0
"""Spread of the detail of clean tiles of like contrast."""
_LEAST_DIRECTIONS: Final = 5
_HALF: Final = 2
_THIRD: Final = 3
"""One in so many directions has lost that much."""
_ONE_GAP: Final = 0.5
"""Second harmonic over fourth from which one direction is left, and not two at right angles: they are as
large as each other for one, and the second is 0 for two."""
_STANDS_DB: Final = 1.0
"""A direction that stands less over the noise is gone."""
_STRETCHED_DB: Final = 9.0
"""How far the anisotropy of a smeared tile lies over the usual: the coarse detail has gone along it, too."""
_LEFT: Final = 1 / 3
"""A blur leaves no direction with less than this share of what a third of them have lost."""


@dataclass(frozen=True, slots=True)
class _Learned:
    """What is usual: detail, that of directions, sharpness (all dB), anisotropy, and the limits of losses."""

    detail: Usual
    directions: Usual
    sharpness: Usual
    anisotropy_db: float
    limit_db: float
    half_limit_db: float
    third_limit_db: float


class Blur:
    """Judges detail; learns from the tiles of a run that have enough of it."""

    def __init__(self, thresholds: QCThresholds, share: float) -> None:
        self.thresholds = thresholds
        self._share = share
        self._learned: _Learned | None = None

    def relearn(self, tiles: Sequence[TileMetrics]) -> None:
        """Take the tiles that say what is usual, three at least, each `textured`."""
        contrast = np.log([tile.relief for tile in tiles])
        detail = Usual(contrast, np.array([[tile.detail_db] for tile in tiles]))
        directions = Usual(contrast, np.array([_paired(tile.directions_db) for tile in tiles]))
        sharpness = Usual(contrast, np.array([[_decibels(tile.sharpness)] for tile in tiles]))
        limits = self.thresholds
        half, third = ([_of(one, share) for one in directions.losses] for share in (_HALF, _THIRD))
        self._learned = _Learned(
            detail,
            directions,
            sharpness,
            float(np.median([tile.anisotropy_db for tile in tiles])),
            _limit(limits.min_focus_drop_db, detail.losses[:, 0], self._share),
            _limit(limits.min_focus_drop_db, half, self._share),
            _limit(limits.min_smear_db, third, self._share),
        )

    def judged(self, metrics: TileMetrics) -> bool:
        """Whether a tile would show a loss of the size of the limit had it been blurred, which takes more."""
        return self._sees(metrics, _FADED)

    def _sees(self, metrics: TileMetrics, left: float) -> bool:
        """Whether a loss would be seen where this share of a tile's coarse structure is left."""
        learned = self._learned
        if learned is None or not textured(metrics, self.thresholds, _FADED / left, 1 / left):
            return False
        contrast, faded_db = math.log(metrics.relief), -10 * math.log10(left)
        seen_db = float(learned.detail.at(contrast)[0]) - metrics.detail_floor_db - faded_db
        floors = _paired(metrics.directions_floor_db) + faded_db
        half_db = _of(learned.directions.at(contrast) - floors, _HALF)
        return seen_db >= learned.limit_db or half_db >= learned.half_limit_db

    def evidence(self, metrics: TileMetrics) -> list[Evidence]:
        """Return what a tile has lost; nothing where that would not be seen."""
        learned = self._learned
        if learned is None or not self._sees(metrics, 1.0):
            return []
        contrast = math.log(metrics.relief)
        lost_db = float(learned.detail.at(contrast)[0]) - metrics.detail_db
        losses = learned.directions.at(contrast) - _paired(metrics.directions_db)
        half_db, third_db = _of(losses, _HALF), _of(losses, _THIRD)
        usual_sharpness = float(learned.sharpness.at(contrast)[0])
        softer = usual_sharpness - _decibels(metrics.sharpness)
        least = -_decibels(self.thresholds.max_relative_sharpness)
        numbers = {
            "lost_db": lost_db,
            "limit": learned.limit_db,
            "lost_by_half_db": half_db,
            "limit_half": learned.half_limit_db,
            "lost_by_third_db": third_db,
            "limit_third": learned.third_limit_db,
            "direction_deg": metrics.smear_deg,
            "sharpness": metrics.sharpness,
            "sharpness_limit": 10 ** ((usual_sharpness - least) / 10),
        }
        score = max(
            lost_db / learned.limit_db,
            half_db / learned.half_limit_db,
            third_db / learned.third_limit_db,
        )
        if softer < least:
            score = min(score, 1.0)
        confidence = 1 - 0.3 * math.exp(-3 * max(0.0, score - 1))
        stretched = metrics.anisotropy_db > learned.anisotropy_db + _STRETCHED_DB
        gone = _paired(metrics.directions_db) < _paired(metrics.directions_floor_db) + _STANDS_DB
        kind = _name(losses, gone, stretched)
        return [Evidence(kind, score, 1 - 10 ** (-max(lost_db, third_db) / 20), confidence, numbers)]


def _of(losses: Reals, share: int) -> float:
    """Return what one in ``share`` directions has lost at least, dB; 0 where few directions are known."""
    known = np.sort(losses[np.isfinite(losses)])
    return float(known[-(len(known) // share)]) if len(known) >= _LEAST_DIRECTIONS else 0.0


def _limit(least_db: float, losses: npt.ArrayLike, share: float) -> float:
    return max(least_db, learned_limit(losses, share, _PRIOR_DB, 2 * least_db))


def _decibels(value: float) -> float:
    return 10 * math.log10(max(value, 1e-3))


def textured(metrics: TileMetrics, limits: QCThresholds, contrast: float = 1.0, texture: float = 1.0) -> bool:
    """Whether a tile shows enough for its detail to be compared: so many times the least it may show."""
    return (
        metrics.texture >= texture * limits.min_texture
        and metrics.sharpness > 0
        and metrics.relief >= contrast * LEAST_RELIEF
        and bool(metrics.directions_db)
    )


def _paired(levels_db: Sequence[float]) -> Reals:
    """Return the levels of directions, each with its neighbour: numbers of less noise."""
    levels = np.array(levels_db)
    return np.asarray(0.5 * (levels + np.roll(levels, -1)))


def _name(losses: Reals, gone: npt.NDArray[np.bool_], stretched: bool) -> FaultKind:
    """Return what took the detail: all directions alike, or all but one, or all but two at right angles.

    A drift leaves the direction across it: the second harmonic of the loss is as large as the fourth.
    Astigmatism about focus leaves two at right angles, where the second harmonic cancels; at one of its line
    foci it is a smear, in the picture as by this name. Of a direction that is ``gone`` in the noise it is not
    known how much was lost: as much as of any other.
    """
    known = np.isfinite(losses)
    if known.sum() < _LEAST_DIRECTIONS or len(losses) < DIRECTIONS or gone[known].all():
        return "blurred"
    if stretched:
        return "smeared"
    lost = np.where(known, losses, float(np.median(losses[known])))
    lost[known & gone] = losses[known].max()
    ordered = np.sort(lost)
    if ordered[0] > _LEFT * ordered[-(len(ordered) // _THIRD)]:
        return "blurred"
    turns = np.abs(np.fft.rfft(lost))
    return "smeared" if turns[1] > _ONE_GAP * turns[2] else "astigmatic"
