"""Blocks of an overlap: where they are, and that a bent field shows in them."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from processing.kernels.blocks import match_blocks
from tests.processing.specimens import tissue

Floats = npt.NDArray[np.float32]
SHIFT = np.array([288.3, 4.6])
SHAPE = (360, 420)


def _tile(corner: tuple[float, float], bend: float = 0.0) -> Floats:
    """Return what a tile shows of tissue; ``bend`` px at the edge of the field, away from the centre."""
    scene = cv2.GaussianBlur(tissue((460, 820), seed=2), (0, 0), 1.2) * 200
    x, y = np.meshgrid(np.arange(SHAPE[1], dtype=np.float32), np.arange(SHAPE[0], dtype=np.float32))
    u = (x - (SHAPE[1] - 1) / 2) / (SHAPE[1] / 2)
    seen = x + np.float32(corner[0]) + np.float32(bend) * u**3
    shown = cv2.remap(scene, seen, y + np.float32(corner[1]), cv2.INTER_LANCZOS4)
    noise = np.random.default_rng(int(corner[0])).normal(0, 2, SHAPE)
    return np.asarray(shown + noise, np.float32)


def _pair(bend: float = 0.0) -> tuple[Floats, Floats]:
    return _tile((20, 30), bend), _tile((20 + SHIFT[0], 30 + SHIFT[1]), bend)


def test_blocks_cover_the_overlap_and_agree() -> None:
    first, second = _pair()
    found = match_blocks(first, second, (float(SHIFT[0]) + 2, float(SHIFT[1]) - 3), block_px=48)
    assert len(found) >= 12
    assert np.abs(found.first_px - found.second_px - SHIFT).max() < 0.15
    assert found.ncc.min() >= 0.5
    # to the edges of both tiles, half a block away
    assert found.first_px[:, 0].max() > SHAPE[1] / 2 - 48
    assert found.second_px[:, 0].min() < 48 - SHAPE[1] / 2
    assert np.ptp(found.first_px[:, 1]) > SHAPE[0] - 48 - 20


def test_few_blocks_of_a_large_overlap_are_wider_ones_in_the_same_places() -> None:
    first, second = _pair()
    offset = float(SHIFT[0]) + 2, float(SHIFT[1]) - 3
    # an odd side: halves lie between pixels
    found = match_blocks(first[:-1, 1:], second[1:], offset, block_px=24, most=10)
    assert len(found) >= 6
    shift = SHIFT + np.array([-0.5, 1.0])
    assert np.abs(found.first_px - found.second_px - shift).max() < 0.1
    assert found.first_px[:, 0].max() > SHAPE[1] / 2 - 60
    assert found.second_px[:, 0].min() < 60 - SHAPE[1] / 2


def test_a_bent_field_shows() -> None:
    bend = 6.0
    first, second = _pair(bend)
    found = match_blocks(first, second, (float(SHIFT[0]), float(SHIFT[1])), block_px=32)
    half = SHAPE[1] / 2
    shown = [points[:, 0] + bend * (points[:, 0] / half) ** 3 for points in (found.first_px, found.second_px)]
    assert len(found) >= 12
    assert np.ptp(found.first_px[:, 0] - found.second_px[:, 0]) > 1.0
    assert np.median(np.abs(shown[0] - shown[1] - SHIFT[0])) < 0.15


def test_blank_blocks_are_left_out() -> None:
    first, second = _pair()
    first[180:], second[175:] = 100.0, 100.0
    first += np.random.default_rng(1).normal(0, 1, SHAPE).astype(np.float32)
    second += np.random.default_rng(2).normal(0, 1, SHAPE).astype(np.float32)
    found = match_blocks(first, second, (float(SHIFT[0]), float(SHIFT[1])), block_px=48)
    assert len(found) >= 4
    assert found.first_px[:, 1].max() < 24


def test_nothing_to_find() -> None:
    first, second = _pair()
    noise = np.random.default_rng(0).normal(100, 10, SHAPE).astype(np.float32)
    assert len(match_blocks(first, second, (400.0, 0.0))) == 0
    assert len(match_blocks(first, second, (float("nan"), 0.0))) == 0
    assert len(match_blocks(np.zeros_like(first), second, (288.0, 4.0))) == 0
    assert len(match_blocks(noise, second, (288.0, 4.0))) == 0
    assert match_blocks(first, second, (9999.0, 0.0)).first_px.shape == (0, 2)
    with pytest.raises(TypeError, match="a tile must be"):
        match_blocks(first.astype(np.int32), second, (288.0, 4.0))
