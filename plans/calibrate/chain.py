"""Images in a row, each compared with the one before: displacements much longer than a field of view."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.column.device import Column
from devices.errors import ConfigurationError
from plans.calibrate.measurement import compute
from plans.calibrations import CalibrationStore
from plans.stubs.ask import read_now
from plans.stubs.view import read_setup, view_from
from processing.kernels.calibration import DistortionFit, PatchShifts, fit_distortion, patch_shifts

Reals = npt.NDArray[np.float64]


class Field(NamedTuple):
    """The whole sensor, unbinned: its size in px, and roughly what it shows, um."""

    width_px: int
    height_px: int
    width_um: float
    height_um: float

    @property
    def shorter_um(self) -> float:
        """The shorter side, um."""
        return min(self.width_um, self.height_um)


def read_field(
    store: CalibrationStore, camera: Camera, column: Column, field_um: float | None
) -> Generator[Msg, Any, Field]:
    """Return what the whole sensor shows; ``field_um`` is its width where nothing is known of it.

    Raises
    ------
    ConfigurationError
        Nothing is known of this magnification and ``field_um`` is None.
    """
    width_px, height_px = (
        int(n) for n in (yield from read_now(camera, "sensor_width_px", "sensor_height_px"))
    )
    if field_um is None:
        setup = yield from read_setup(camera, column)
        try:
            view = yield from view_from(store, camera, column)
        except ConfigurationError as error:
            raise ConfigurationError(f"{error}; or give field_um, roughly what the sensor shows") from None
        field_um = width_px * view.pixel_size_nm * 1e-3 / setup.binning
    return Field(width_px, height_px, field_um, field_um * height_px / width_px)


@dataclass
class Chain:
    """Tracks of images, each with where it was taken (stage or image shift, um)."""

    binning: int
    where: list[Reals] = field(default_factory=list)
    pairs: list[PatchShifts | None] = field(default_factory=list)
    """How each image lies against the one before; None at the beginning of a track and where it is lost."""
    _last: npt.NDArray[Any] | None = None

    def begin(self) -> None:
        """Begin a new track."""
        self._last = None

    def add(self, where: npt.ArrayLike, image: npt.NDArray[Any]) -> Generator[Msg, Any, None]:
        """Append an image (y, x) taken at ``where``."""
        pair = None
        if self._last is not None:
            found = yield from compute(patch_shifts, self._last, image)
            k = self.binning
            if len(found.at_px):
                pair = PatchShifts(k * found.at_px, k * found.shift_px, k * found.error_px)
        self.where.append(np.asarray(where, float))
        self.pairs.append(pair)
        self._last = image

    @property
    def linked(self) -> int:
        """How many images were found in the one before."""
        return sum(pair is not None for pair in self.pairs)

    def points(self, radius_px: float) -> tuple[Reals, Reals, npt.NDArray[np.intp], DistortionFit]:
        """Return where the images were taken and where their content lies, with the distortion taken out.

        Returns
        -------
        tuple
            (n, 2) um; (n, 2) unbinned px that the image centre moved over the specimen, from the beginning of
            each track; the track of each (one that is lost on the way goes on as another); the distortion.
        """
        distortion = fit_distortion([pair for pair in self.pairs if pair is not None], radius_px)
        steps = iter(-distortion.ideal_px)
        moved: list[Reals] = []
        track: list[int] = []
        for pair in self.pairs:
            step = np.full(2, math.nan) if pair is None else next(steps)
            lost = bool(np.isnan(step).any())
            moved.append(np.zeros(2) if lost else moved[-1] + step)
            track.append((track[-1] if track else -1) + lost)
        return np.array(self.where), np.array(moved), np.array(track, np.intp), distortion
