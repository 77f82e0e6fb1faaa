"""Structure is told from noise within one frame, and says how two frames of a place will correlate."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from processing.kernels.reliability import reliability, shared_reliability
from tests.processing.specimens import Image, expose, real_tiles, resin, tissue


def band(frame: npt.NDArray[np.uint16]) -> Image:
    """Return a frame of which bins of 4 px are left, band-passed as the kernel does, about."""
    small = cv2.resize(frame, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA).astype(np.float32)
    fine, coarse = (cv2.GaussianBlur(small, (0, 0), sigma) for sigma in (1.5, 6.0))
    return np.asarray(fine - coarse, np.float32)


@pytest.mark.parametrize("electrons", [20, 200, 2000])
def test_tissue_is_reliable_and_resin_is_not(electrons: float) -> None:
    image = tissue((512, 640), seed=4)
    image[:, :320] = resin((512, 320))
    found = reliability(expose(image, electrons=electrons))
    assert np.abs(np.median(found[:, :4], axis=0)).max() < 0.3
    assert np.median(found[:, 6:]) > 0.35


def test_two_frames_of_a_place_correlate_by_as_much_or_more() -> None:
    image = tissue((1024, 1024), seed=5)
    for electrons in (2.0, 10.0, 50.0):
        first, second = (expose(image, seed, electrons) for seed in (1, 2))
        expected = float(np.median(np.sqrt(np.clip(reliability(first) * reliability(second), 0, None))))
        found = float(np.corrcoef(np.stack([band(first).ravel(), band(second).ravel()]).astype(float))[0, 1])
        assert 0.2 * found < expected < found + 0.1, electrons


def test_noise_that_hangs_together_over_two_pixels_is_no_structure() -> None:
    noise = np.random.default_rng(0).normal(1000, 50, (1024, 1024)).astype(np.float32)
    found = reliability(cv2.GaussianBlur(noise, (0, 0), 1.0))
    assert np.median(np.abs(found)) < 0.25


def test_real_tissue_is_reliable() -> None:
    tiles = real_tiles(2)
    if not tiles:
        pytest.skip("there are no real tiles")
    assert np.median(reliability((tiles[4] * 255).astype(np.uint8))) > 0.5


def test_only_the_cells_of_the_overlap_count() -> None:
    first, second = np.zeros((10, 10), np.float32), np.zeros((10, 10), np.float32)
    first[:, 9], second[:, 0] = 0.8, 0.6  # the right edge of the first, the left edge of the second
    assert shared_reliability(first, second, (0.9, 0.02)) == pytest.approx((0.8, 0.6))
    assert shared_reliability(first, second, (-0.9, 0.0)) == (0.0, 0.0)
    assert shared_reliability(first, second, (1.0, 0.0)) == (0.0, 0.0)
    assert shared_reliability(first, second, (0.97, 0.0)) == pytest.approx((0.8, 0.6))


def test_nothing_is_not_reliable_and_what_is_no_image_is_refused() -> None:
    assert np.abs(reliability(np.full((256, 256), 7, np.uint16))).max() < 1e-6
    for wrong in (np.zeros(9), np.zeros((8, 100))):
        with pytest.raises(ValueError, match="16 x 16"):
            reliability(wrong)
