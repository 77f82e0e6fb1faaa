"""What one frame shows of the specimen, and how stage and image shift move it. Pure geometry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from devices.errors import ConfigurationError

Matrix = tuple[tuple[float, float], tuple[float, float]]
Point = tuple[float, float]
IDENTITY: Matrix = ((1.0, 0.0), (0.0, 1.0))
SINGULAR = 1e-6
"""Least determinant of a matrix whose columns have length 1: below it both axes point the same way."""


@dataclass(frozen=True, slots=True)
class View:
    """What one frame shows, and how the optics moves it.

    With the stage read back at ``p`` (um) and image shift ``s`` (um), the image centre shows stage point
    ``p + stage_per_shift @ s``, and an offset ``d`` (px) from the centre ``stage_per_px_um @ d`` further.
    Both matrices are general: they may turn, mirror, stretch and shear.

    Attributes
    ----------
    width_px, height_px
        Size of a frame, binned pixels.
    stage_per_px_um
        Stage um for each binned pixel along camera x and y: its columns are the camera's axes on the stage.
    stage_per_shift
        Stage um for each um of image shift.
    image_shift_limit_um
        Radius within which image shift is calibrated and allowed, um.

    Raises
    ------
    ValueError
        A size or limit is not positive, or a matrix is singular.
    """

    width_px: int
    height_px: int
    stage_per_px_um: Matrix
    stage_per_shift: Matrix = IDENTITY
    image_shift_limit_um: float = 15.0

    def __post_init__(self) -> None:
        for name in ("width_px", "height_px"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} of a view is not a number of pixels")
        for name in ("stage_per_px_um", "stage_per_shift"):
            matrix = np.array(getattr(self, name), float)
            if matrix.shape != (2, 2) or not np.isfinite(matrix).all():
                raise ValueError(f"{name} = {getattr(self, name)} is not a matrix of 2 x 2 numbers")
            lengths = math.hypot(*matrix[:, 0]) * math.hypot(*matrix[:, 1])
            if abs(np.linalg.det(matrix)) <= SINGULAR * lengths:
                raise ValueError(f"{name} = {matrix.tolist()} is singular: both axes point the same way")
        if not (math.isfinite(self.image_shift_limit_um) and self.image_shift_limit_um >= 0):
            raise ValueError(f"image_shift_limit_um = {self.image_shift_limit_um} is not a radius in um")

    @classmethod
    def from_nominal(
        cls,
        width_px: int,
        height_px: int,
        pixel_nm: float,
        rotation_deg: float,
        image_shift_limit_um: float = 15.0,
    ) -> Self:
        """Return the view of a camera with square pixels that is turned on the stage.

        Parameters
        ----------
        width_px, height_px
            Size of a frame, binned pixels.
        pixel_nm
            Binned pixel at the specimen, nm.
        rotation_deg
            Turn from camera axes (x along a line, y down the lines) to stage axes, deg.
        image_shift_limit_um
            As in the class.

        Raises
        ------
        ConfigurationError
            The pixel size is not positive, or a number is not finite: neither is calibrated.
        """
        if not (math.isfinite(pixel_nm) and pixel_nm > 0 and math.isfinite(rotation_deg)):
            raise ConfigurationError(
                f"pixel size {pixel_nm:g} nm, rotation {rotation_deg:g} deg are not calibrated; "
                f"calibrate this magnification, or take another"
            )
        scale, angle = pixel_nm * 1e-3, math.radians(rotation_deg)
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        return cls(width_px, height_px, ((cos, -sin), (sin, cos)), IDENTITY, image_shift_limit_um)

    @property
    def width_um(self) -> float:
        """Length of a frame's lower edge on the specimen, um."""
        (a, _), (c, _) = self.stage_per_px_um
        return self.width_px * math.hypot(a, c)

    @property
    def height_um(self) -> float:
        """Length of a frame's left edge on the specimen, um."""
        (_, b), (_, d) = self.stage_per_px_um
        return self.height_px * math.hypot(b, d)

    @property
    def pixel_size_nm(self) -> float:
        """Side of the square that has the area of a binned pixel, nm."""
        (a, b), (c, d) = self.stage_per_px_um
        return 1e3 * math.sqrt(abs(a * d - b * c))

    @property
    def rotation_deg(self) -> float:
        """Direction of camera x on the stage in the closest rotation (or mirroring), -180 to 180 deg."""
        (a, b), (c, d) = self.stage_per_px_um
        mirrored = a * d < b * c
        return math.degrees(math.atan2(c + b, a - d) if mirrored else math.atan2(c - b, a + d))

    def to_stage(self, camera_px: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return stage offsets ``(..., 2)``, um, of camera offsets ``(..., 2)``, binned px."""
        return _apply(np.array(self.stage_per_px_um, float), camera_px)

    def to_camera(self, stage_um: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return camera offsets ``(..., 2)``, binned px, of stage offsets ``(..., 2)``, um."""
        return _apply(np.linalg.inv(np.array(self.stage_per_px_um, float)), stage_um)

    def to_shift(self, stage_um: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the image shifts ``(..., 2)``, um, that show stage offsets ``(..., 2)``, um."""
        return _apply(np.linalg.inv(np.array(self.stage_per_shift, float)), stage_um)

    def corners(self, x_um: float, y_um: float) -> npt.NDArray[np.float64]:
        """Return the four corners ``(4, 2)`` of the frame whose centre is a stage point, um, in order."""
        half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (self.width_px / 2, self.height_px / 2)
        return np.array([x_um, y_um]) + self.to_stage(half)


def _apply(matrix: npt.NDArray[np.float64], vectors: npt.ArrayLike) -> npt.NDArray[np.float64]:
    result: npt.NDArray[np.float64] = np.asarray(vectors, float) @ matrix.T
    return result
