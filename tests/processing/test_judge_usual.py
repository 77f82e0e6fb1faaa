"""Limits that are learned: their rate of false alarms, few tiles, long tails, and faults among the tiles."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from processing.callbacks._judge_usual import Usual, learned_limit


@pytest.mark.parametrize("share", [1e-2, 2e-4])
@pytest.mark.parametrize("count", [3, 5, 8, 12, 30, 150])
def test_a_clean_tile_exceeds_a_limit_as_rarely_as_asked_for(count: int, share: float) -> None:
    rng = np.random.default_rng(count)
    limits = [learned_limit(rng.normal(5, 2, count), share, prior=2.0, gross=20) for _ in range(1000)]
    rates = np.asarray(norm.sf(limits, 5, 2))  # of each limit: what drawing tiles would only tell with noise
    assert rates.mean() <= share + 3 * rates.std() / np.sqrt(len(rates))
    assert np.median(limits) < 5 + 2 * 2 * norm.isf(share)  # and not by being out of reach


def test_few_tiles_and_long_tails_widen_a_limit() -> None:
    rng = np.random.default_rng(0)
    normal, heavy = rng.normal(0, 1, 200), rng.exponential(1.2, 200)
    few, many, tailed = (learned_limit(x, 1e-3, 1.0, 30) for x in (normal[:3], normal, heavy))
    assert many < 6
    assert few > many
    assert tailed > many


@pytest.mark.parametrize("faulty", [1, 4])
def test_faults_among_the_tiles_do_not_hide_themselves(faulty: int) -> None:
    values = np.concatenate([np.random.default_rng(1).normal(0, 1, 10 - faulty), np.full(faulty, 25.0)])
    assert learned_limit(values, 1e-3, 2.0, 10) < 15


def test_a_tile_is_compared_with_tiles_of_like_contrast() -> None:
    contrast = np.linspace(-6, -2, 80)
    levels = -20 - 3 * contrast[:, None]  # sparse tiles have less detail, or more
    usual = Usual(contrast, levels)
    for at in (-5.0, -3.0):
        assert usual.at(at)[0] == pytest.approx(-20 - 3 * at, abs=0.3)
    assert np.abs(usual.losses[11:-11]).max() < 0.3
    # beyond what was seen, a quarter of the difference of contrast is borne
    assert usual.at(-9.0)[0] < usual.at(-6.0)[0] - 3


def test_what_a_tile_has_not_is_no_loss() -> None:
    levels = np.array([[-10.0, np.nan], [-11.0, -12.0], [-10.5, -12.5]])
    usual = Usual(np.array([-4.0, -4.1, -3.9]), levels)
    assert usual.losses[0, 1] == -np.inf
    assert np.isfinite(usual.at(-4.0)).all()
