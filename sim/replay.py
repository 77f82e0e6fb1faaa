"""Recorded tiles instead of a simulation: the camera that a server loads as ``sim.replay:ReplayCamera``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from devices.camera.driver import CameraSettings
from devices.errors import ConfigurationError
from sim.artefacts import spoil_frame, spoil_specimen
from sim.camera import Picture, SimulatedCamera
from sim.config import SimulationConfig
from sim.exposure import Shot
from sim.specimen.sources import find_tiles, read_image

_KEPT: Final = 16
"""Tiles held in memory."""
_DARK_COUNTS: Final = 3


class RecordedTiles:
    """Tiles in a folder, named ``*_ROW_COL.EXT``; the one nearest to the stage in their grid is shown.

    The grid's steps follow from the tiles' size, the pixel size and ``replay_overlap``; its middle lies at
    stage (0, 0). Beyond its edge the nearest tile of the edge is shown. A blanked beam, closed valves
    and faults have their effect; defocus and drift have none.
    """

    def __init__(self, config: SimulationConfig) -> None:
        folder = config.specimen.folder
        if folder is None:
            raise ConfigurationError(
                "ReplayCamera needs a specimen of kind 'replay' with its folder of tiles"
            )
        self._tiles = find_tiles(folder)
        self._overlap = config.specimen.replay_overlap
        rows, columns = zip(*self._tiles, strict=True)
        self._middle = ((min(rows) + max(rows)) / 2, (min(columns) + max(columns)) / 2)
        self._images: dict[tuple[int, int], npt.NDArray[np.uint16]] = {}
        first = read_image(next(iter(self._tiles.values())))
        self._shape = (first.shape[0], first.shape[1])
        self._bit_depth = 8 if first.dtype == np.uint8 else 16

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Size of the recorded tiles, ``(height, width)`` in pixels."""
        return self._shape

    @property
    def bit_depth(self) -> int:
        """Bits of a pixel as recorded: 8 or 16."""
        return self._bit_depth

    def cell(self, x_um: float, y_um: float, pixel_size_nm: float, rotation_rad: float) -> tuple[int, int]:
        """Return the (row, column), from 1, of the tile nearest to a stage position."""
        step_um = (1.0 - self._overlap) * pixel_size_nm * 1e-3
        cos, sin = math.cos(rotation_rad), math.sin(rotation_rad)
        row = self._middle[0] + (cos * y_um - sin * x_um) / (step_um * self._shape[0])
        column = self._middle[1] + (cos * x_um + sin * y_um) / (step_um * self._shape[1])
        return min(self._tiles, key=lambda tile: (tile[0] - row) ** 2 + (tile[1] - column) ** 2)

    def render(self, shot: Shot, settings: CameraSettings) -> npt.NDArray[np.uint16]:
        """Return the recorded tile at the stage's position, ``(y, x)`` uint16, with binning and region."""
        if not shot.beam_on:
            image = np.full(self._shape, _DARK_COUNTS, np.uint16)
        else:
            cell = self.cell(shot.x_um, shot.y_um, shot.pixel_size_nm, shot.rotation_rad)
            image = self._load(cell)
            if shot.faults:
                spoiled = image.astype(np.float32) / 255.0
                spoil_specimen(spoiled, shot)
                image = np.clip(255.0 * spoiled, 0, 2**self._bit_depth - 1).astype(np.uint16)
        frame = _framed(image, settings)
        if shot.faults:
            spoil_frame(frame, shot)
        return frame

    def _load(self, tile: tuple[int, int]) -> npt.NDArray[np.uint16]:
        found = self._images.get(tile)
        if found is not None:
            return found
        image = read_image(self._tiles[tile])
        if image.shape != self._shape:
            raise ConfigurationError(
                f"recorded tile {self._tiles[tile]} is {image.shape[1]} x {image.shape[0]} px, the first one "
                f"{self._shape[1]} x {self._shape[0]}; all tiles of a folder must be of one size"
            )
        while len(self._images) >= _KEPT:
            self._images.pop(next(iter(self._images)))
        self._images[tile] = _widened(image)
        return self._images[tile]


def _widened(image: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    if image.dtype.kind == "f":
        image = np.rint(image)
    return np.asarray(np.clip(image, 0, 65535), dtype=np.uint16)


def _framed(image: npt.NDArray[np.uint16], settings: CameraSettings) -> npt.NDArray[np.uint16]:
    region, step = settings.region, settings.binning
    if region is not None:
        image = image[
            region.y_px : region.y_px + region.height_px, region.x_px : region.x_px + region.width_px
        ]
    if step == 1:
        return image.copy()
    height, width = image.shape[0] // step, image.shape[1] // step
    parts = image[: height * step, : width * step].reshape(height, step, width, step)
    return np.asarray(np.rint(parts.mean(axis=(1, 3))), dtype=np.uint16)


class ReplayCamera(SimulatedCamera):
    """A camera that shows recorded tiles, for worlds whose specimen is of kind "replay".

    Parameters
    ----------
    world
        Path of the world's file.
    """

    def __init__(self, world: str | Path) -> None:
        super().__init__(world)

    def _make_picture(self) -> Picture:
        return RecordedTiles(self._config)
