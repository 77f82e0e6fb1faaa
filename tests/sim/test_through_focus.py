"""What a change of focus shows in the frames: what autofocus and stigmation rely on."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from sim.camera import SimulatedCamera
from sim.column import SimulatedColumn
from sim.optics import Spread, transfer
from sim.world import World

Make = Callable[..., World]
Frame = npt.NDArray[np.float64]
SIDE_PX = 512


class Scope:
    def __init__(self, world: World, magnification: float) -> None:
        self.world = world
        self.camera, self.column = SimulatedCamera(world.path), SimulatedColumn(world.path)
        self.camera.open()
        self.column.set("magnification", magnification)

    def frame(self, defocus_um: float) -> Frame:
        self.column.set("defocus_um", defocus_um)
        self.camera.expose()
        frame = self.camera.read(10.0).data.astype(np.float64)
        return np.asarray(frame / frame.mean())


def power_of_gradient(frame: Frame, axis: int) -> float:
    smooth = cv2.GaussianBlur(frame, (0, 0), 1.0)
    return float(np.var(np.diff(smooth, axis=axis)))


@pytest.mark.parametrize("magnification", [5000.0, 10_000.0, 20_000.0])
def test_sharpness_peaks_in_focus_and_falls_to_both_sides(make_world: Make, magnification: float) -> None:
    large = {"width_px": SIDE_PX, "height_px": SIDE_PX}
    world = make_world(camera=large, specimen={"texture_px": 1024})
    scope = Scope(world, magnification)
    for sign in (-1.0, 1.0):
        frames = [scope.frame(sign * defocus_um) for defocus_um in (0.0, 1.0, 2.0, 3.5, 5.0)]
        sharpness = [power_of_gradient(frame, 0) + power_of_gradient(frame, 1) for frame in frames]
        # within 1 um the peak is flat
        assert sharpness[1:] == sorted(sharpness[1:], reverse=True)
        assert sharpness[0] > 1.05 * sharpness[2]
        assert sharpness[0] > 1.5 * sharpness[4]


def test_astigmatism_puts_the_directions_into_focus_apart(make_world: Make) -> None:
    large = {"width_px": SIDE_PX, "height_px": SIDE_PX}
    optics = {"astigmatism_um": 2.0, "astigmatism_angle_deg": 0.0}
    scope = Scope(make_world(camera=large, column=optics, specimen={"texture_px": 1024}), 10_000.0)
    focus = np.arange(-5.0, 5.1, 0.5)
    frames = [scope.frame(float(defocus_um)) for defocus_um in focus]
    best = []
    for axis in (1, 0):
        powers = np.array([power_of_gradient(frame, axis) for frame in frames])
        best.append(np.sum(focus * (powers - powers.min()) ** 2) / np.sum((powers - powers.min()) ** 2))
    # along x (columns) the focus is stronger by the astigmatism, along y weaker
    assert best[1] - best[0] > 1.5


def test_rings_are_where_the_transfer_has_them(make_world: Make) -> None:
    """With a parallel beam and amorphous structure the power spectrum shows the rings of the CTF."""
    large = {"width_px": SIDE_PX, "height_px": SIDE_PX}
    optics = {"convergence_mrad": 0.1, "astigmatism_um": 0.0}
    world = make_world(camera=large, column=optics, specimen={"grain": 0.2, "texture_px": 1024})
    scope = Scope(world, 20_000.0)
    frame = scope.frame(-3.0)
    power = np.abs(np.fft.fftshift(np.fft.fft2((frame - 1.0) * np.outer(*2 * [np.hanning(SIDE_PX)])))) ** 2
    v, u = np.indices(power.shape) - SIDE_PX // 2
    ring = np.hypot(u, v).astype(int)
    radial = np.bincount(ring.ravel(), power.ravel()) / np.bincount(ring.ravel())
    spread = Spread(1.0, 1e3 * world.truth()[0].defocus_um, (0.0, 0.0), (0.0, 0.0), 120.0, 0.45)
    expected = transfer(spread, world.config.column, SIDE_PX)[0] ** 2
    inner = slice(100, 220)
    slope = np.ones(41) / 41
    rings = [
        (values - np.convolve(np.pad(values, 20, "edge"), slope, "valid"))[inner]
        for values in (np.log(radial[: SIDE_PX // 2]), np.log(expected[: SIDE_PX // 2] + 1e-2))
    ]
    assert np.corrcoef(rings[0], rings[1])[0, 1] > 0.7
