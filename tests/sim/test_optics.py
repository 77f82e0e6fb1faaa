from __future__ import annotations

import numpy as np
import pytest

from sim.config import ColumnConfig
from sim.frame_geometry import FrameGeometry
from sim.optics import Spread, beam, point_spread, transfer, wavelength_nm

COLUMN = ColumnConfig()


def spread(
    defocus_nm: float = 0.0,
    astigmatism_nm: tuple[float, float] = (0.0, 0.0),
    drift_nm: tuple[float, float] = (0.0, 0.0),
) -> Spread:
    return Spread(4.0, defocus_nm, astigmatism_nm, drift_nm, 120.0, 0.45)


@pytest.mark.parametrize(
    ("high_voltage_kv", "expected_nm"), [(100, 3.701e-3), (120, 3.349e-3), (300, 1.969e-3)]
)
def test_wavelength(high_voltage_kv: float, expected_nm: float) -> None:
    assert wavelength_nm(high_voltage_kv) == pytest.approx(expected_nm, rel=1e-3)


@pytest.mark.parametrize("defocus_nm", [0.0, -500.0, -20_000.0, 20_000.0])
def test_the_mean_passes_and_nothing_is_amplified(defocus_nm: float) -> None:
    passed = transfer(spread(defocus_nm), COLUMN, 64)
    assert passed[0, 0] == pytest.approx(1.0)
    assert np.abs(passed).max() < 1.2


def test_underfocus_has_phase_contrast_and_overfocus_the_reverse() -> None:
    under, over = (transfer(spread(value), COLUMN, 64)[0, 8] for value in (-3000.0, 3000.0))
    assert under > over


@pytest.mark.parametrize(
    "case", [spread(), spread(-6000), spread(-20_000, (4000, 3000)), spread(0, (0, 0), (150, 40))]
)
def test_the_filter_is_the_transfer(case: Spread) -> None:
    kernel = point_spread(case, COLUMN)
    image = np.zeros((128, 128), np.float32)
    image[64, 64] = 1.0
    seen = kernel.apply(image)
    assert seen.sum() == pytest.approx(1.0, abs=2e-3)
    expected = np.fft.fftshift(np.fft.irfft2(transfer(case, COLUMN, 128), s=(128, 128)))
    assert np.sqrt(np.mean((seen - expected) ** 2)) < 0.06 * np.sqrt(np.mean(expected**2))


def test_drift_smears_along_its_direction() -> None:
    kernel = point_spread(spread(drift_nm=(80.0, 0.0)), COLUMN).whole
    across, along = np.abs(kernel).sum(axis=1), np.abs(kernel).sum(axis=0)
    assert (along > 0.02).sum() > 3 * (across > 0.1).sum()


def test_the_beam_falls_off_and_ends() -> None:
    x = np.linspace(0.0, 15_000.0, 31)
    grid = np.stack([x[None, :], np.zeros((1, 31))])
    light = beam(grid, 0.0, 0.0, 10_000.0, 0.05, 0.25)[0]
    assert light[0] == pytest.approx(1.0, abs=1e-3)
    assert np.all(np.diff(light) <= 0)
    assert light[18] == pytest.approx(1 - 0.25 * 0.81, abs=0.01)
    assert light[-1] < 1e-3


def test_the_middle_of_the_sensor_is_the_middle_of_the_view() -> None:
    from devices.camera.driver import CameraSettings, Region

    for settings in (
        CameraSettings(),
        CameraSettings(binning=4),
        CameraSettings(region=Region(16, 16, 32, 32)),
    ):
        geometry = FrameGeometry.of((64, 64), settings, 3)
        size = geometry.width_px + 2 * geometry.margin_px
        last = geometry.u0_px + (size - 1) * geometry.step_px
        assert geometry.u0_px + last == pytest.approx(0.0)
