"""Gains from overlaps: what was lost is found, bad overlaps do not matter, nothing drifts."""

from __future__ import annotations

import numpy as np
import pytest

from processing.kernels.gains import OverlapLevels, gains, overlap_levels
from processing.kernels.render import TileTransform, render_tile


def grid(
    rows: int,
    columns: int,
    true: np.ndarray,
    *,
    noise: float = 0.0,
    seed: int = 0,
    offsets: np.ndarray | None = None,
) -> list[OverlapLevels]:
    """Return overlaps of a grid of tiles that show the truth divided by a gain, less an offset."""
    rng = np.random.default_rng(seed)
    found = []
    for row in range(rows):
        for column in range(columns):
            one = row * columns + column
            others = [one + 1] * (column + 1 < columns) + [one + columns] * (row + 1 < rows)
            for other in others:
                level = rng.uniform(80, 160)
                levels = np.array([level]) if offsets is None else np.array([0.6, 0.9, 1.3]) * level
                seen = []
                for tile in (one, other):
                    lost = 0.0 if offsets is None else offsets[tile]
                    seen.append(
                        tuple((levels - lost) / true[tile] * np.exp(rng.normal(0, noise, len(levels))))
                    )
                found.append(OverlapLevels(one, other, seen[0], seen[1]))
    return found


def test_gains_are_found() -> None:
    true = np.exp(np.random.default_rng(1).normal(0, 0.05, 30))
    result = gains(30, grid(5, 6, true))
    ratio = result.gains / true
    assert np.ptp(np.log(ratio)) < 0.002
    assert abs(np.log(ratio).mean()) < 0.05
    assert (result.residuals < 0.001).all()
    assert not result.rejected.any()
    assert (result.offsets == 0).all()


def test_gains_and_offsets_are_found() -> None:
    rng = np.random.default_rng(2)
    true, lost = np.exp(rng.normal(0, 0.05, 20)), rng.normal(0, 4, 20)
    overlaps = grid(4, 5, true, offsets=lost)
    result = gains(20, overlaps, offset_sigma=0.2)
    for one in overlaps:
        a = result.gains[one.first] * np.array(one.first_levels) + result.offsets[one.first]
        b = result.gains[one.second] * np.array(one.second_levels) + result.offsets[one.second]
        np.testing.assert_allclose(a, b, rtol=0.003)
    assert np.abs(result.gains - 1).max() < 0.3


def test_a_spoiled_overlap_does_not_matter() -> None:
    true = np.exp(np.random.default_rng(3).normal(0, 0.05, 30))
    overlaps = grid(5, 6, true, noise=0.002)
    for bad in (7, 20):
        one = overlaps[bad]
        overlaps[bad] = OverlapLevels(one.first, one.second, (one.first_levels[0] * 1.4,), one.second_levels)
    result = gains(30, overlaps)
    assert list(np.flatnonzero(result.rejected)) == [7, 20]
    assert np.std(np.log(result.gains / true)) < 0.004


def test_a_long_row_does_not_drift() -> None:
    """Errors of half a percent an overlap add up to 11 % over 500 tiles, if nothing holds them."""
    true = np.ones(500)
    overlaps = grid(1, 500, true, noise=0.005, seed=4)
    assert np.abs(np.log(gains(500, overlaps, prior_sigma=0.02).gains)).max() < 0.03
    assert np.abs(np.log(gains(500, overlaps, prior_sigma=100).gains)).max() > 0.06


def test_tiles_without_overlap_keep_their_gain() -> None:
    result = gains(4, [OverlapLevels(0, 1, (100.0,), (110.0,))])
    np.testing.assert_allclose(result.gains[2:], 1)
    assert result.gains[0] / result.gains[1] == pytest.approx(1.1, rel=1e-3)
    assert gains(3, []).gains.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("overlap", "message"),
    [
        (OverlapLevels(0, 5, (1.0,), (1.0,)), "there are 2 tiles"),
        (OverlapLevels(1, 1, (1.0,), (1.0,)), "tiles 1 and 1"),
        (OverlapLevels(0, 1, (0.0,), (1.0,)), "above 0"),
        (OverlapLevels(0, 1, (1.0,), (float("nan"),)), "above 0"),
        (OverlapLevels(0, 1, (1.0,), (1.0,), sigma=0.0), "sigma 0.0"),
        (OverlapLevels(0, 1, (1.0, 2.0), (1.0,)), "2 levels in the first and 1 in the second"),
    ],
)
def test_overlaps_are_checked(overlap: OverlapLevels, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gains(2, [overlap])


def test_sigmas_are_checked() -> None:
    with pytest.raises(ValueError, match="prior_sigma = 0"):
        gains(2, [], prior_sigma=0)
    with pytest.raises(ValueError, match="offset_sigma = -1"):
        gains(2, [], offset_sigma=-1)


def test_levels_are_those_of_the_common_area() -> None:
    rng = np.random.default_rng(0)
    scene = rng.integers(50, 200, (100, 180)).astype(np.uint8)
    first = render_tile(scene[:, :100], TileTransform((49.5, 49.5)))
    second = render_tile(scene[:, 80:], TileTransform((129.5, 49.5)))
    levels = overlap_levels(first, second)
    assert levels is not None
    assert levels[0][0] == levels[1][0] == pytest.approx(scene[:, 80:100].mean())
    quantiles = overlap_levels(first, second, (0.1, 0.9))
    assert quantiles is not None
    np.testing.assert_allclose(quantiles[0], np.quantile(scene[:, 80:100], (0.1, 0.9)))
    assert overlap_levels(first, render_tile(scene, TileTransform((400.0, 0.0)))) is None
