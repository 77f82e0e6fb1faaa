"""Which specimen point each pixel of a frame shows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from devices.camera.driver import CameraInfo, CameraSettings
from sim.exposure import Shot
from sim.jit import kernel

BLOCK: Final = 16
"""Side of the squares of pixels within which the specimen coordinates are linear, px."""


@dataclass(frozen=True, slots=True)
class FrameGeometry:
    """Pixels of a frame and of a margin around it, and where the first of them lies on the sensor.

    ``u0_px``, ``v0_px`` is the offset of the first pixel's middle (of the margin) from the middle of the
    sensor and ``step_px`` the binning, in unbinned pixels; ``half_width_px`` half the sensor.
    """

    height_px: int
    width_px: int
    margin_px: int
    u0_px: float
    v0_px: float
    step_px: int
    half_width_px: float

    @classmethod
    def of(cls, sensor_shape: tuple[int, int], settings: CameraSettings, margin_px: int) -> FrameGeometry:
        """Return the geometry of the frames that these settings make."""
        sensor_height, sensor_width = sensor_shape
        region, step = settings.region, settings.binning
        height, width = settings.frame_shape(_info(sensor_shape))
        x_px, y_px = (region.x_px, region.y_px) if region is not None else (0, 0)
        first = (step - 1) / 2 - margin_px * step
        return cls(
            height,
            width,
            margin_px,
            x_px + first - (sensor_width - 1) / 2,
            y_px + first - (sensor_height - 1) / 2,
            step,
            sensor_width / 2,
        )

    def grid(self, shot: Shot, distortion: float, bend_px: float) -> npt.NDArray[np.float64]:
        """Return the specimen points (nm) of the corners of the blocks, ``(2, rows + 1, columns + 1)``: x, y.

        ``bend_px`` is how far a charged specimen bends the image.
        """
        rows = -(-(self.height_px + 2 * self.margin_px) // BLOCK)
        columns = -(-(self.width_px + 2 * self.margin_px) // BLOCK)
        scale = shot.pixel_size_nm
        return _grid(
            np.empty((2, rows + 1, columns + 1)),
            self.u0_px,
            self.v0_px,
            self.step_px * BLOCK,
            shot.x_um * 1e3,
            shot.y_um * 1e3,
            scale * math.cos(shot.rotation_rad),
            scale * math.sin(shot.rotation_rad),
            distortion / self.half_width_px**2,
            bend_px,
            self.half_width_px,
        )


def _info(shape: tuple[int, int]) -> CameraInfo:
    return CameraInfo("", shape[1], shape[0], 16, 1.0, (0.0, 1.0))


@kernel
def _grid(
    out: npt.NDArray[np.float64],
    u0: float,
    v0: float,
    step: float,
    x: float,
    y: float,
    cos: float,
    sin: float,
    radial: float,
    bend: float,
    half: float,
) -> npt.NDArray[np.float64]:
    for j in range(out.shape[1]):
        for i in range(out.shape[2]):
            u, v = u0 + i * step, v0 + j * step
            warp = 1.0 + radial * (u * u + v * v)
            du, dv = u * warp, v * warp
            if bend != 0.0:
                du += bend * np.sin(5.0 * v / half + 1.0)
                dv += 0.5 * bend * np.sin(4.0 * u / half)
            out[0, j, i] = x + cos * du - sin * dv
            out[1, j, i] = y + sin * du + cos * dv
    return out
