"""Montages as pictures that lie on the stage: mosaics at a size to look at, and overviews."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tiled_server.client.pixels import mosaic_levels
from tiled_server.client.runs import start_of, stream_parts

OVERVIEW_RECIPE: Final = "overview"
_LOOKED_AT_PX: Final = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image that lies somewhere.

    Attributes
    ----------
    pixels
        (y, x), counts.
    um_per_px
        (2, 2) matrix from pixels (x, y) to stage coordinates (x, y), um.
    origin_um
        Stage coordinates of the centre of pixel (0, 0), um.
    what
        What it shows, in words.
    """

    pixels: npt.NDArray[Any]
    um_per_px: npt.NDArray[np.float64]
    origin_um: tuple[float, float]
    what: str


def mosaic_picture(mosaic: Any, largest_px: int = _LOOKED_AT_PX) -> Picture:
    """Return the most detailed level of a mosaic that is no larger than asked for."""
    levels = mosaic_levels(mosaic)
    level = next((at for at, one in enumerate(levels) if max(one.shape) <= largest_px), len(levels) - 1)
    pixels, (left, top) = _cropped(np.asarray(levels[level].read()))
    start = start_of(mosaic)
    matrix = np.array(start["stage_per_px_um"], np.float64)
    factor = 2**level
    # the centre of a pixel of this level, in pixels of level 0
    centre = [
        at + (0.5 + first) * factor - 0.5 for at, first in zip(start["origin_px"], (left, top), strict=True)
    ]
    x_um, y_um = (matrix @ centre).tolist()
    what = f"mosaic, region {start.get('roi', 0)}, level {level}"
    return Picture(pixels, matrix * factor, (x_um, y_um), what)


def _cropped(pixels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], tuple[int, int]]:
    """Return the part that has data, and where it begins, (x, y): mosaics grow in whole shards."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not rows.size:
        return pixels, (0, 0)
    top, left = int(rows[0]), int(columns[0])
    return pixels[top : rows[-1] + 1, left : columns[-1] + 1], (left, top)


def overview_picture(results: Sequence[Any]) -> Picture | None:
    """Return the overviews of a montage's runs as one picture, newer ones on top; None without any.

    Each run has an overview of its own tiles. Those of another scale than the largest are left out.
    """
    runs = [run for run in results if start_of(run).get("recipe") == OVERVIEW_RECIPE]
    if not runs:
        return None
    most = max(runs, key=lambda run: int(start_of(run).get("tiles", 0)))
    calibration: Mapping[str, float] = start_of(most)["calibration"]
    angle = np.radians(calibration["image_rotation_deg"])
    cosine, sine = np.cos(angle), np.sin(angle)
    matrix = calibration["pixel_size_nm"] * 1e-3 * np.array([[cosine, -sine], [sine, cosine]])
    parts: list[tuple[npt.NDArray[Any], tuple[int, int]]] = []
    for run in runs:
        start = start_of(run)
        if start["calibration"] == calibration:
            pixels = np.asarray((stream_parts(run, OVERVIEW_RECIPE) or {})[OVERVIEW_RECIPE].read())
            x, y = np.linalg.solve(matrix, start["origin_um"]).round().astype(int).tolist()
            parts.append((pixels.reshape(pixels.shape[-2:]), (x, y)))
    left, top = (min(corner[axis] for _, corner in parts) for axis in (0, 1))
    right = max(x + image.shape[1] for image, (x, _) in parts)
    bottom = max(y + image.shape[0] for image, (_, y) in parts)
    whole = np.zeros((bottom - top, right - left), parts[0][0].dtype)
    for image, (x, y) in parts:
        area = whole[y - top : y - top + image.shape[0], x - left : x - left + image.shape[1]]
        np.copyto(area, image, where=image > 0)
    x_um, y_um = (matrix @ [left, top]).tolist()
    return Picture(whole, matrix, (x_um, y_um), "overview")


def eight_bit(pixels: npt.NDArray[Any], largest_px: int | None = None) -> npt.NDArray[np.uint8]:
    """Return counts as grey levels: 1st to 99th percentile of what is not 0, which is no data."""
    if largest_px is not None:
        step = max(1, -(-max(pixels.shape) // largest_px))
        pixels = pixels[::step, ::step]
    shown = pixels[pixels > 0]
    if not shown.size:
        return np.zeros(pixels.shape, np.uint8)
    low, high = np.percentile(shown, (1, 99))
    grey = (pixels.astype(np.float32) - low) * (254 / max(float(high - low), 1.0)) + 1
    return np.where(pixels > 0, grey.clip(1, 255), 0).astype(np.uint8)
