"""Quality of a tile: known answers, and what must not change a score."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.kernels.quality import focus_score, measure_tile
from tests.processing.specimens import expose, resin, tissue


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(64, 64), (61, 130), (1100, 300)])
def test_brightness_is_that_of_numpy(dtype: Any, shape: tuple[int, int]) -> None:
    top = np.iinfo(dtype).max
    image = np.random.default_rng(0).integers(0, top, shape, dtype=dtype, endpoint=True)
    image[0, :7] = top
    metrics = measure_tile(image, dark_counts=20)
    assert metrics.mean_counts == pytest.approx(image.mean(), rel=1e-6)
    assert metrics.std_counts == pytest.approx(image.std(), rel=1e-5)
    assert metrics.saturated_fraction == pytest.approx((image == top).mean())
    assert metrics.dark_fraction == pytest.approx((image <= 20).mean())


def test_saturation_of_a_sensor_with_fewer_bits() -> None:
    image = np.full((64, 64), 1000, np.uint16)
    image[:16] = 16383
    assert measure_tile(image).saturated_fraction == 0
    assert measure_tile(image, saturation_counts=16383).saturated_fraction == 0.25


def test_sharpness_of_structure_functions_with_a_known_answer() -> None:
    # D(k) is proportional to k for a random walk, to k^2 for a ramp
    walks = np.cumsum(np.random.default_rng(1).choice([-9.0, 9.0], (2, 4096)), axis=1)
    walk = np.add.outer(walks[0] - walks[0].min(), walks[1] - walks[1].min())
    assert measure_tile(walk.astype(np.uint16)).sharpness == pytest.approx(0.25, abs=0.03)
    ramp = np.add.outer(np.arange(512.0), np.arange(512.0)) * 60
    assert measure_tile(ramp.astype(np.uint16)).sharpness == pytest.approx(1 / 16, abs=1e-3)


@pytest.mark.parametrize("side", [64, 256, 512, 1024])
def test_blur_lowers_both_scores_step_by_step(side: int) -> None:
    image = tissue((side, side))
    seen = [measure_tile(expose(image, blur_px=blur)) for blur in (0, 1, 2, 4)]
    for sharper, softer in pairwise(seen):
        assert sharper.sharpness > 1.1 * softer.sharpness
    for sharper, softer in pairwise(seen[:3]):
        assert sharper.sharpness > (1.4 if side == 64 else 1.8) * softer.sharpness
        assert sharper.focus_score > softer.focus_score + 3


@settings(max_examples=25, deadline=None)
@given(
    gain=st.floats(0.2, 2.0),
    electrons=st.sampled_from([200.0, 1000.0, 3000.0]),
    flip=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_scores_do_not_depend_on_gain_noise_or_orientation(
    gain: float, electrons: float, flip: bool, seed: int
) -> None:
    image = tissue((384, 512), seed=3)
    clean = measure_tile((image * 30000).astype(np.uint16))
    image = np.ascontiguousarray(image.T[::-1] if flip else image)
    seen = (expose(image, seed, electrons).astype(np.float64) * gain).clip(0, 65535).astype(np.uint16)
    metrics = measure_tile(seen)
    assert metrics.sharpness == pytest.approx(clean.sharpness, rel=0.15)
    assert metrics.focus_score == pytest.approx(clean.focus_score, abs=1.5)


@settings(max_examples=25, deadline=None)
@given(side=st.integers(64, 300), seed=st.integers(0, 1000), mean=st.floats(300, 30000))
def test_noise_alone_has_no_texture(side: int, seed: int, mean: float) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.normal(mean, mean**0.5, (side, side)).clip(0, 65535).astype(np.uint16)
    assert measure_tile(noise).texture < 8
    assert -30 < focus_score(noise) < 10


def test_resin_under_an_uneven_beam_has_no_relief_and_tissue_keeps_it_when_blurred() -> None:
    shape = (512, 512)
    flat = measure_tile(expose(resin(shape), electrons=2000))
    sharp = measure_tile(expose(tissue(shape), electrons=2000))
    gone = measure_tile(expose(tissue(shape), electrons=2000, blur_px=8))
    assert flat.relief < 0.02 * sharp.relief
    assert gone.relief > 0.1 * sharp.relief


def test_lost_and_torn_lines_are_counted_and_tissue_has_none() -> None:
    frame = expose(tissue((256, 256)))
    assert measure_tile(frame).damaged_fraction == 0
    lost = frame.copy()
    lost[100:110] = 0
    assert measure_tile(lost).damaged_fraction == pytest.approx(10 / 255, abs=2 / 255)


@pytest.mark.parametrize("value", [0, 1, 65535])
def test_constant_images_give_numbers(value: int) -> None:
    metrics = measure_tile(np.full((64, 64), value, np.uint16))
    assert metrics.std_counts == 0
    assert metrics.damaged_fraction == 1
    assert (metrics.sharpness, metrics.texture, metrics.focus_score) == (0, 0, -60)
    assert all(np.isfinite(getattr(metrics, name)).all() for name in metrics.__slots__)


@pytest.mark.parametrize(
    "image", [np.zeros((40, 64), np.uint16), np.zeros((64, 64), np.float32), np.zeros((2, 64, 64), np.uint16)]
)
def test_what_is_no_tile_is_refused(image: npt.NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="a tile is"):
        measure_tile(image)


def test_views_are_measured_as_they_look() -> None:
    frame = expose(tissue((128, 256)))
    assert measure_tile(frame[:, ::2]) == measure_tile(frame[:, ::2].copy())
