"""A frame, from the specimen to the counts."""

from __future__ import annotations

import functools
import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from devices.camera.driver import CameraSettings
from sim.artefacts import CHARGING_BEND_PX, spoil_frame, spoil_specimen
from sim.config import SimulationConfig
from sim.exposure import Shot
from sim.frame_geometry import BLOCK, FrameGeometry
from sim.optics import Filter, Spread, beam, is_small, point_spread, shine
from sim.placement import Placement
from sim.sample import SpecimenConfig
from sim.sensor import Sensor
from sim.specimen.micrograph import Micrograph
from sim.specimen.outlines import Outlines
from sim.specimen.sources import read_image
from sim.specimen.substrate import Frame, Grain, fill
from sim.specimen.tissue import Tissue

Floats = npt.NDArray[np.float32]


class Specimen(Protocol):
    """Something that lies on the stage."""

    def sample(
        self, grid: npt.NDArray[np.float64], illumination: Floats, pixel_nm: float, out: Floats
    ) -> None:
        """Fill ``out`` (y, x) with the transmitted intensity at the points of a grid of blocks."""


class Sample:
    """A specimen with what carries it; ``seed`` is its own, ``texture_seed`` that of the tissue's texture.

    Raises
    ------
    ConfigurationError
        Its file cannot be read.
    """

    def __init__(self, specimen: SpecimenConfig, seed: int, texture_seed: int) -> None:
        self._specimen: Specimen
        if specimen.kind == "image" and specimen.file is not None:
            image = read_image(specimen.file)
            self._specimen = Micrograph(image, specimen.specimen_pixel_size_nm, specimen.border)
        else:
            self._specimen = Tissue(seed, specimen, texture_seed)
        self._outlines = Outlines(specimen.sections, specimen.film) if specimen.sections else None
        self._grain = Grain(specimen.grain, seed) if specimen.grain else None
        self._frame = Frame(specimen.aperture, seed) if specimen.aperture is not None else None

    def sample(
        self, grid: npt.NDArray[np.float64], illumination: Floats, pixel_nm: float, out: Floats
    ) -> None:
        """Fill ``out`` (y, x) with the transmitted intensity; see `sim.specimen.tissue.Tissue.sample`."""
        self._specimen.sample(grid, illumination, pixel_nm, out)
        if self._outlines is not None:
            self._outlines.cut(grid, illumination, pixel_nm, out)
        if self._grain is not None:
            self._grain.add(grid, pixel_nm, out)
        if self._frame is not None:
            self._frame.cover(grid, pixel_nm, out)


class Stocked:
    """The samples of a microscope, made when they are first seen; two are kept."""

    def __init__(self, config: SimulationConfig) -> None:
        self._config = config
        self._made = functools.lru_cache(maxsize=2)(self._make)
        # compiled and painted now, so that the first frame of a sample takes no longer than the rest
        seen = set()
        for slot in [sample.slot for sample in config.samples] or [-1]:
            specimen = config.specimen_of(config.sample(slot))
            parts = (specimen.kind, specimen.grain > 0, not specimen.sections, specimen.aperture is None)
            if parts not in seen:
                seen.add(parts)
                grid, light = np.zeros((2, 2, 2)), np.ones((2, 2), np.float32)
                self._made(slot).sample(grid, light, 1.0, np.empty((BLOCK, BLOCK), np.float32))

    def _make(self, slot: int) -> Sample:
        config, sample = self._config, self._config.sample(slot)
        if sample is None:
            return Sample(config.specimen, config.seed, config.seed)
        seed = config.seed + sample.slot if sample.seed is None else sample.seed
        return Sample(config.specimen_of(sample), seed, config.seed)

    def sample(
        self,
        placement: Placement,
        grid: npt.NDArray[np.float64],
        illumination: Floats,
        pixel_nm: float,
        out: Floats,
    ) -> None:
        """Fill ``out`` with what the loaded sample lets through; ``grid`` is in nm of the stage."""
        if placement.slot == 0:
            fill(illumination, 1.0, out)
            return
        if placement.slot > 0:
            x_nm, y_nm = placement.to_sample(0.0, 0.0)
            turn = math.radians(placement.rotation_deg)
            cos, sin = math.cos(turn), math.sin(turn)
            x, y = cos * grid[0] + sin * grid[1], cos * grid[1] - sin * grid[0]
            grid = np.stack([x + 1e3 * x_nm, y + 1e3 * y_nm])
        self._made(placement.slot).sample(grid, illumination, pixel_nm, out)


class Scene:
    """What the camera of a microscope sees; one thread renders at a time."""

    def __init__(self, config: SimulationConfig) -> None:
        self._config = config
        self._shape = (config.camera.height_px, config.camera.width_px)
        self._samples = Stocked(config)
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
        spot = beam_x_nm, beam_y_nm, 1e3 * shot.beam_radius_um, column.beam_edge, column.beam_falloff
        pixel_nm = shot.pixel_size_nm * geometry.step_px
        small = is_small(1e3 * shot.beam_radius_um, column.beam_edge, pixel_nm)
        light = np.ones(grid.shape[1:], np.float32) if small else beam(grid, *spot)
        self._samples.sample(shot.placement, grid, light, pixel_nm, image)
        if small:
            shine(grid, *spot, image)
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
