"""What is said of lost detail: how much, and what took it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from processing.callbacks._judge_blur import Blur
from processing.callbacks.verdicts import QCThresholds
from processing.kernels.quality import TileMetrics

CLEAN = TileMetrics(
    9000, 900, 0, 0, 0, 0.5, -8, 500, 0.02, anisotropy_db=3, detail_db=-10, detail_floor_db=-40
)


def tile(seed: int, lost_db: list[float] | float = 0.0, softer: float = 1.0) -> TileMetrics:
    """Return a tile that has lost some detail, dB of each direction, and some sharpness."""
    levels = -10 + np.random.default_rng(seed).normal(0, 0.7, 12) - np.array(lost_db)
    power = float(np.mean(10 ** (levels / 10)))
    return replace(
        CLEAN,
        detail_db=10 * math.log10(power),
        directions_db=tuple(levels.tolist()),
        directions_floor_db=(-35.0,) * 12,
        sharpness=CLEAN.sharpness * softer,
    )


@pytest.fixture
def blur() -> Blur:
    learned = Blur(QCThresholds(), 2e-4)
    learned.relearn([tile(seed) for seed in range(40)])
    return learned


ALL = [9.0] * 12
DRIFT = [12, 12, 12, 12, 12, 12, 12, 12, 12, 9, 0, 3]  # all but a fan across it
ASTIGMATISM = [10, 10, 8, 2, 2, 8, 10, 10, 8, 2, 2, 8]


@pytest.mark.parametrize(
    ("lost", "kind"), [(ALL, "blurred"), (DRIFT, "smeared"), (ASTIGMATISM, "astigmatic")]
)
@pytest.mark.parametrize("turn", range(0, 12, 5))
def test_what_took_the_detail_has_a_name(blur: Blur, lost: list[float], kind: str, turn: int) -> None:
    (one,) = blur.evidence(tile(99, np.roll(lost, turn).tolist(), 0.5))
    assert one.score > 1
    assert one.kind == kind


def test_one_direction_is_a_membrane_and_no_blur(blur: Blur) -> None:
    (one,) = blur.evidence(tile(99, [20.0, 20.0] + [0.0] * 10, 0.5))
    assert one.score < 0.5


def test_detail_without_sharpness_is_not_believed(blur: Blur) -> None:
    (one,) = blur.evidence(tile(99, ALL, softer=1.0))
    assert one.score == 1  # worth a note
    (one,) = blur.evidence(tile(99, ALL, softer=0.75))
    assert one.score > 1.3


def test_a_loss_that_noise_would_hide_is_not_judged(blur: Blur) -> None:
    noisy = replace(tile(99, ALL, 0.5), detail_floor_db=-14, directions_floor_db=(-13.0,) * 12)
    assert not blur.judged(noisy)
    assert blur.evidence(noisy) == []


def test_a_tile_of_which_a_blur_would_leave_nothing_is_not_judged(blur: Blur) -> None:
    assert blur.judged(tile(99))
    for clean in (replace(tile(99), relief=0.0005), replace(tile(99), texture=30.0)):
        assert not blur.judged(clean)
        assert blur.evidence(clean)  # what it shows is looked at all the same


def test_few_directions_are_judged_together(blur: Blur) -> None:
    faint = tile(99, ALL, 0.5)
    faint = replace(faint, directions_db=(math.nan,) * 9 + faint.directions_db[9:])
    (one,) = blur.evidence(faint)
    assert one.kind == "blurred"
    assert one.metrics["lost_db"] == pytest.approx(9, abs=1.5)
