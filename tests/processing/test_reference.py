"""Dark and bright references: the simulated sensor's pattern goes, light stays, bad pixels are filled in."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.camera.driver import CameraSettings
from processing.kernels.reference import Reference
from sim.config import CameraConfig, SimulationConfig
from sim.sensor import Sensor

SHAPE = (96, 128)
EXPOSURE_S = 0.1
ELECTRONS = 3000.0
Frame = npt.NDArray[np.uint16]


class Camera:
    """The simulated sensor with a strong pattern, lit as it may be."""

    def __init__(self) -> None:
        camera = CameraConfig(gain_spread=0.15, read_noise_e=6.0, dark_current_e_s=20.0)
        self.sensor = Sensor(SimulationConfig(camera=camera), SHAPE)
        self.count = 0

    def frame(self, light: npt.ArrayLike) -> Frame:
        """Return a frame of light that is 1 where ``ELECTRONS`` come to a pixel."""
        self.count += 1
        intensity = np.ascontiguousarray(np.broadcast_to(np.asarray(light, np.float32), SHAPE))
        return self.sensor.detect(intensity, 0, ELECTRONS, self.count, EXPOSURE_S, CameraSettings())

    def mean(self, light: npt.ArrayLike, frames: int = 64) -> npt.NDArray[np.float64]:
        """Return the mean of frames."""
        return np.asarray(np.mean([self.frame(light) for _ in range(frames)], axis=0))


@pytest.fixture(scope="module")
def camera() -> Camera:
    return Camera()


@pytest.fixture(scope="module")
def reference(camera: Camera) -> Reference:
    dark = camera.mean(0.0)
    return Reference.of(dark, camera.mean(1.0) - dark)


def test_a_flat_frame_is_flat_to_its_shot_noise(camera: Camera, reference: Reference) -> None:
    frame = camera.frame(0.8)
    corrected = reference.apply(frame, dtype=np.float32)
    shot = 1 / np.sqrt(0.8 * ELECTRONS)
    before, after = (float(np.std(image) / np.mean(image)) for image in (frame, corrected))
    assert before > 0.14
    assert after == pytest.approx(shot, rel=0.1)
    columns = [float(np.std(image.mean(axis=0)) / np.mean(image)) for image in (frame, corrected)]
    assert columns[1] < 0.2 * columns[0]


def test_light_is_kept_and_dark_is_zero(camera: Camera, reference: Reference) -> None:
    ramp = np.linspace(0.2, 1.5, SHAPE[1])[None, :]
    corrected = reference.apply(camera.frame(ramp), dtype=np.float32)
    expected = ELECTRONS * camera.sensor.gain * ramp[0]
    assert np.abs(corrected.mean(axis=0) / expected - 1).max() < 0.03
    dark = reference.apply(camera.frame(0.0), dtype=np.float32)
    assert abs(float(dark.mean())) < 3


def test_whole_numbers_are_rounded_and_kept_in_range() -> None:
    dark, bright = np.full((1, 4), 100.0), np.array([[0.8, 1.2, 1.0, 1.0]])
    one = Reference.of(dark, bright)
    image = np.array([[60_100, 1300, 50, 1101]], np.uint16)
    assert one.apply(image).tolist() == [[65535, 1000, 0, 1001]]
    assert one.apply(image).dtype == np.uint16
    exact = one.apply(image, dtype=np.float32)
    assert exact.dtype == np.float32
    assert exact[0].tolist() == pytest.approx([75_000, 1000, -50, 1001])


def test_what_was_saturated_still_is_and_nothing_else() -> None:
    one = Reference.of(np.full((1, 4), 100.0), np.array([[0.8, 1.2, 1.0, 1.0]]))
    image = np.array([[4000, 4095, 2100, 4095]], np.uint16)
    assert one.apply(image, saturation_counts=4095).tolist() == [[4094, 4095, 2000, 4095]]


def test_a_line_of_one_value_stays_as_it_is(camera: Camera, reference: Reference) -> None:
    frame = camera.frame(1.0)
    frame[10:20] = 0
    frame[20:24] = 700
    corrected = reference.apply(frame)
    assert (corrected[10:20] == 0).all()
    assert (corrected[20:24] == 700).all()
    assert np.ptp(corrected[24]) > 0


@pytest.mark.parametrize("spoil", ["dead", "hot", "unknown", "burnt"])
def test_bad_pixels_get_the_median_of_their_neighbours(camera: Camera, spoil: str) -> None:
    dark = camera.mean(0.0, 8)
    bright = camera.mean(1.0, 8) - dark
    places: Any = ([0, 40, 40, 41, 95], [0, 60, 61, 60, 127])  # corners, and three together
    if spoil == "hot":
        dark[places] += 20_000
    else:
        bright[places] = {"dead": 0.0, "unknown": np.nan, "burnt": 9 * bright.mean()}[spoil]
    one = Reference.of(dark, bright)
    bad = set(map(tuple, one.bad.tolist()))
    assert set(zip(*places, strict=True)) <= bad
    assert len(bad) < 12  # of 12,288, some answer to light half as well as those about them
    frame = camera.frame(0.5)
    frame[places] = 65535 if spoil == "hot" else 0
    corrected = one.apply(frame, saturation_counts=65535).astype(float)
    level = 0.5 * ELECTRONS * camera.sensor.gain
    assert corrected[places] == pytest.approx(np.full(5, level), rel=0.15)
    around = corrected[39:42, 59:62]
    good = np.ones((3, 3), bool)
    good[1, 1] = good[1, 2] = good[2, 1] = False
    assert corrected[40, 60] == np.sort(around[good])[3]


@given(st.integers(2, 30), st.integers(2, 30), st.integers(0, 2**31))
def test_any_camera_is_undone(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dark, bright = rng.uniform(50, 150, (height, width)), rng.uniform(0.8, 1.25, (height, width))
    light = rng.uniform(0, 10_000, (height, width))
    image = light * bright / bright.mean() + dark
    corrected = Reference.of(dark, bright).apply(image.astype(np.float32))
    assert np.allclose(corrected, light, rtol=1e-4, atol=0.05)


def test_what_is_no_reference_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one size, not \(4, 4\), \(4, 5\)"):
        Reference.of(np.zeros((4, 4)), np.ones((4, 5)))
    with pytest.raises(ValueError, match=r"100.0% of the pixels are bad"):
        Reference.of(np.zeros((64, 64)), np.zeros((64, 64)))
    one = Reference.of(np.zeros((4, 4)), np.ones((4, 4)))
    with pytest.raises(ValueError, match=r"a frame of \(4, 5\) px"):
        one.apply(np.zeros((4, 5), np.uint16))
