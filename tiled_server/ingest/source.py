"""A montage of another program, as its own files describe it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from devices.errors import ConfigurationError
from processing.stitching.frame_files import FrameFile
from processing.stitching.solution import Key
from processing.stitching.sources import TileSet

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """A frame that is described.

    Attributes
    ----------
    key
        Region, row and column, from 0.
    frame
        Where it is.
    name
        What messages call it.
    values
        What is known of it, by the names of `devices.tiles.TILE_COLUMNS`.
    keys
        All that its program wrote of it, as it wrote it.
    """

    key: Key
    frame: FrameFile
    name: str
    values: Mapping[str, float]
    keys: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A montage of another program.

    Attributes
    ----------
    name
        What it is called where it comes from.
    kind
        ``serialem``, ``folder`` or ``ome-tiff``.
    path
        What was named: the ``.mdoc``, the folder, the TIFF.
    frames
        Its frames.
    pixel_size_nm, image_rotation_deg
        Size of a pixel, and turn from camera to stage axes.
    listings
        Files that say where the tiles lie, beside those that have frames.
    settings
        What the instrument was set to, by ``device-signal``.
    head
        All that its program wrote of the whole, as it wrote it.
    instrument
        The microscope, where it is named.
    left_out
        (name, reason) of what cannot be taken.
    """

    name: str
    kind: str
    path: Path
    frames: tuple[SourceFrame, ...]
    pixel_size_nm: float
    image_rotation_deg: float = 0.0
    listings: tuple[Path, ...] = ()
    settings: Mapping[str, float] = field(default_factory=dict)
    head: Mapping[str, Any] = field(default_factory=dict)
    instrument: str | None = None
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def stage_per_px_um(self) -> list[list[float]]:
        """Matrix from camera px (x right, y down) to stage coordinates, um."""
        return turned_um(np.eye(2), self.pixel_size_nm, self.image_rotation_deg).T.tolist()  # type: ignore[no-any-return]

    @property
    def began(self) -> float | None:
        """When its first frame was taken, Unix s; None: not known."""
        return min(self._times(), default=None)

    @property
    def ended(self) -> float | None:
        """When its last frame was taken, Unix s; None: not known."""
        return max(self._times(), default=None)

    def _times(self) -> list[float]:
        times = [one.values.get("exposure_start_s", math.nan) for one in self.frames]
        return [time for time in times if math.isfinite(time) and time > 0]


def number(value: Any) -> float:
    """Return what a program wrote as a number; NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def turned_um(places_px: Floats, pixel_size_nm: float, image_rotation_deg: float) -> Floats:
    """Return places on the camera, (n, 2) px, as steps of the stage, um."""
    angle = math.radians(image_rotation_deg)
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = places_px.T * pixel_size_nm * 1e-3
    return np.stack([cos * x - sin * y, sin * x + cos * y], -1)


def centres_um(
    places_px: Floats, pixel_size_nm: float, image_rotation_deg: float, stage_um: Floats
) -> Floats:
    """Return stage coordinates of the centres, (n, 2) um.

    Parameters
    ----------
    places_px
        Where the frames lie beside each other, (n, 2) camera px.
    pixel_size_nm, image_rotation_deg
        Of the image.
    stage_um
        Where the stage was, (n, 2); NaN: not known. The middle of those that are known is kept.
    """
    steps = turned_um(places_px, pixel_size_nm, image_rotation_deg)
    known = np.isfinite(stage_um).all(1)
    return steps + (stage_um[known] - steps[known]).mean(0) if known.any() else steps


def pixel_size_of(tiles: TileSet, given_nm: float | None) -> float:
    """Return the size of a pixel.

    Raises
    ------
    ConfigurationError
        Neither the source nor the caller has it.
    """
    size = given_nm or tiles.pixel_size_nm
    if size is None:
        raise ConfigurationError(
            f"{tiles.name} does not say how large a pixel is: give its size, --pixel-size-nm"
        )
    return size


def places_of(tiles: TileSet) -> Floats:
    """Return where the tiles of a set lie, (n, 2) camera px."""
    return np.array([one.tile.nominal_px for one in tiles.tiles], np.float64).reshape(-1, 2)


def file_frames(tiles: TileSet) -> Sequence[FrameFile]:
    """Return the frames of a set that was read from files."""
    return [one.frame for one in tiles.tiles if isinstance(one.frame, FrameFile)]
