"""A frame, from the specimen to the counts."""

from __future__ import annotations

import functools
from typing import Protocol

import numpy as np
import numpy.typing as npt

from devices.camera.driver import CameraSettings
from sim.artefacts import CHARGING_BEND_PX, spoil_frame, spoil_specimen
from sim.config import SimulationConfig
from sim.exposure import Shot
from sim.frame_geometry import FrameGeometry
from sim.optics import Filter, Spread, beam, point_spread
from sim.sensor import Sensor
from sim.specimen.micrograph import Micrograph
from sim.specimen.sources import read_image
from sim.specimen.tissue import Tissue

Floats = npt.NDArray[np.float32]


class Specimen(Protocol):
    """Something that lies on the stage."""

    def sample(
        self, grid: npt.NDArray[np.float64], illumination: Floats, pixel_nm: float, out: Floats
    ) -> None:
        """Fill ``out`` (y, x) with the transmitted intensity at the points of a grid of blocks."""


def make_specimen(config: SimulationConfig) -> Specimen:
    """Return the specimen of a microscope.

    Raises
    ------
    ConfigurationError
        Its file cannot be read.
    """
    specimen = config.specimen
    if specimen.kind == "image" and specimen.file is not None:
        return Micrograph(read_image(specimen.file), specimen.specimen_pixel_size_nm, specimen.border)
    return Tissue(config.seed, specimen)


class Scene:
    """What the camera of a microscope sees; one thread renders at a time."""

    def __init__(self, config: SimulationConfig) -> None:
        self._config = config
        self._shape = (config.camera.height_px, config.camera.width_px)
        self._specimen = make_specimen(config)
        self._sensor = Sensor(config, self._shape)
        self._geometry = functools.lru_cache(maxsize=8)(functools.partial(FrameGeometry.of, self._shape))
        self._buffer = np.empty((0, 0), np.float32)

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Size of the sensor, ``(height, width)`` in pixels."""
        return self._shape

    @property
    def bit_depth(self) -> int:
        """Bits of a pixel."""
        return self._config.camera.bit_depth

    def render(self, shot: Shot, settings: CameraSettings) -> npt.NDArray[np.uint16]:
        """Return the frame of an exposure, ``(y, x)`` uint16, counts."""
        column = self._config.column
        spread = Spread.of(shot, settings.binning, self._config.camera.blur_px, column.high_voltage_kv)
        blur = point_spread(spread, column)
        geometry = self._geometry(settings, blur.radius_px)
        intensity = self._intensity(shot, geometry, blur)
        dose_e = shot.dose_e_nm2 * (shot.pixel_size_nm * settings.binning) ** 2 if shot.beam_on else 0.0
        frame = self._sensor.detect(
            intensity, geometry.margin_px, dose_e, shot.index, shot.exposure_s, settings
        )
        if shot.faults:
            spoil_frame(frame, shot)
        return frame

    def _intensity(self, shot: Shot, geometry: FrameGeometry, blur: Filter) -> Floats:
        shape = (geometry.height_px + 2 * geometry.margin_px, geometry.width_px + 2 * geometry.margin_px)
        if self._buffer.shape != shape:
            # kept: fresh pages cost more than the picture
            self._buffer = np.zeros(shape, np.float32)
        image = self._buffer
        if not shot.beam_on:
            image[:] = 0.0
            return image
        if shot.diffraction:
            return _central_beam(image)
        column = self._config.column
        bend_px = CHARGING_BEND_PX * shot.fault("charging") if shot.faults else 0.0
        grid = geometry.grid(shot, column.distortion, bend_px)
        beam_x_nm, beam_y_nm = 1e3 * (shot.x_um + shot.beam_um[0]), 1e3 * (shot.y_um + shot.beam_um[1])
        radius_nm = 1e3 * shot.beam_radius_um
        light = beam(grid, beam_x_nm, beam_y_nm, radius_nm, column.beam_edge, column.beam_falloff)
        self._specimen.sample(grid, light, shot.pixel_size_nm * geometry.step_px, image)
        if shot.faults:
            spoil_specimen(image, shot)
        return blur.apply(image)


def _central_beam(image: Floats) -> Floats:
    """Draw the diffraction of an amorphous section: the central beam in a halo."""
    height, width = image.shape
    v, u = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    r2 = u * u + v * v
    image[:] = 4.0 * np.exp(-r2 / 0.0004) + 0.25 * np.exp(-r2 / 0.12)
    return image
