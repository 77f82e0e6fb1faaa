"""How good a tile is: brightness, sharpness, focus, and what spoils it. One pass, and a few small FFTs.

Every score says which way is better. Sharpness and focus score do not change when a tile is made brighter or
its contrast stretched, and white noise cancels out of both, so that tiles of one montage can be compared:

* Sharpness rests on the structure function ``D(k) = <(I(p + k) - I(p))^2>``, for lags k along x and y.
  White noise adds the same to every ``D(k)``, and so drops out of their differences;
  ``(D(2) - D(1)) / (D(8) - D(4))`` is the structure of one to two pixels against that of four to eight. It is
  1/16 for an image without any detail as fine as its pixels, and 0.25 where ``D`` grows in proportion to k.
* The focus score compares the power at 0.12 to 0.30 cycles a pixel with that at 0.02 to 0.08, after taking
  off the noise floor seen above 0.42. Power that does not stand over the noise counts as two standard
  deviations of it: a tile without structure scores about 0.
* Detail is the power at 0.13 to 0.25 cycles a pixel over that at 0.03 to 0.08, of all directions together and
  of 12 sectors. A tile is compared with tiles of like contrast by it, direction by direction.
* Anisotropy compares the power at 0.03 to 0.15 cycles a pixel between directions, and smear the ratio of
  that at 0.10 to 0.20 to that at 0.03 to 0.08, in which the sample's own direction cancels: a drift takes
  fine detail along one direction, astigmatism along two or all, a defocus along all.

The parts are `processing.kernels.quality_pass`, `quality_lines`, `quality_spectrum` and `quality_regions`.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from processing.kernels.quality_lines import banding, damaged_fraction, marks, missing_fraction
from processing.kernels.quality_pass import one_pass
from processing.kernels.quality_regions import regions
from processing.kernels.quality_spectrum import focus_score, measure_spectrum, spectrum

__all__ = ["TileMetrics", "focus_score", "measure_tile"]


@dataclass(frozen=True, slots=True)
class TileMetrics:
    """What was measured of one tile.

    Attributes
    ----------
    mean_counts, std_counts
        Mean and standard deviation, counts.
    saturated_fraction
        Share of pixels at or over the saturation level, 0 to 1.
    dark_fraction
        Share of pixels at or under the dark level, 0 to 1.
    damaged_fraction
        Share of lines that are constant, or do not fit to the lines beside them, 0 to 1. A line that is only
        brighter or darker fits.
    sharpness
        Fine against coarse structure, about 0.06 (blurred) to 1; higher is sharper; 0 where there is none.
    focus_score
        Power of fine against coarse detail, dB, from -60; higher is better focused.
    texture
        How far the structure stands over the noise, in standard deviations of the latter; sharpness and
        focus score mean little under about 20: the tile is blank.
    relief
        Structure of 8 to 32 px, relative to the mean squared; survives a blur that leaves no texture.
    anisotropy_db
        Power of the strongest over that of the weakest direction, dB; 1 to 5 for most samples.
    smear_db
        How much less of the fine against the coarse power one direction has than most, dB: 0 to 6 for most
        samples, whatever their own direction.
    smear_deg
        That direction, 0 to 180 from x to y: along it a drift smears.
    detail_db, detail_floor_db
        Power at 0.13 to 0.25 over that at 0.03 to 0.08 cycles a pixel, dB, and the lowest that would be seen
        over the noise.
    directions_db, directions_floor_db
        The same of 12 directions, 15 deg each from x to y; not a number where there is no coarse detail;
        empty where not measured.
    banding
        Standard deviation of the brightness of lines that most of the frame's width shares, relative to it:
        0 to 0.025 in tissue, over 0.04 where the sample charges.
    missing_fraction
        Share of lines, from the last back or the first on, that are constant, 0 to 1.
    opaque_fraction, opaque_radius
        Share of blocks with less than 0.2 of the bright parts' light, and the radius of the largest circle
        within them relative to the shorter side. 0 for frames under 256 px, like the next three.
    fold_contrast
        Contrast of the darkest line across the tile, natural logarithm; below 0 where none is dark.
    shading
        Bright parts of the darkest of nine fields over those of the brightest, 0 to 1.
    bright_counts
        Light of the bright parts, the 95th percentile of blocks, counts; 0 for frames under 256 px.
    beam_edge
        Whether what is opaque surrounds what is lit, as beyond the edge of a beam.
    marks
        Of 64 strips of lines: two exposures never have the same; 0 for strips with constant lines.
    fingerprint
        Of all marks.
    """

    mean_counts: float
    std_counts: float
    saturated_fraction: float
    dark_fraction: float
    damaged_fraction: float
    sharpness: float
    focus_score: float
    texture: float
    relief: float
    anisotropy_db: float = 0.0
    smear_db: float = 0.0
    smear_deg: float = 0.0
    detail_db: float = 0.0
    detail_floor_db: float = 0.0
    directions_db: tuple[float, ...] = ()
    directions_floor_db: tuple[float, ...] = ()
    banding: float = 0.0
    missing_fraction: float = 0.0
    opaque_fraction: float = 0.0
    opaque_radius: float = 0.0
    fold_contrast: float = 0.0
    shading: float = 1.0
    bright_counts: float = 0.0
    beam_edge: bool = False
    marks: tuple[int, ...] = ()
    fingerprint: int = 0


def measure_tile(
    image: npt.NDArray[np.unsignedinteger[Any]],
    saturation_counts: int | None = None,
    dark_counts: float = 0.0,
) -> TileMetrics:
    """Measure a tile.

    Parameters
    ----------
    image
        (y, x) uint8 or uint16, counts; at least 48 px on both sides.
    saturation_counts
        The value at which the sensor saturates; None for the largest of the type.
    dark_counts
        The largest value that counts as dark.

    Raises
    ------
    ValueError
        Not a two-dimensional image of at least 48 x 48 px, or of another type.
    """
    if image.ndim != 2 or min(image.shape) < 48 or image.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"a tile is (y, x) uint8 or uint16, at least 48 x 48 px, not {image.shape} {image.dtype}"
        )
    image = np.ascontiguousarray(image)
    full = saturation_counts if saturation_counts is not None else np.iinfo(image.dtype).max
    sums, structure, changes, parts, spreads = one_pass(image, float(full), float(dark_counts))
    total, squares, saturated, dark = (float(value) / image.size for value in sums)
    variance = max(0.0, squares - total**2)
    sharpness, texture = _sharpness(structure)
    score, directed = measure_spectrum(spectrum(image))
    covered, strips = regions(image, dark_counts), marks(image, changes)
    return TileMetrics(
        mean_counts=total,
        std_counts=math.sqrt(variance),
        saturated_fraction=saturated,
        dark_fraction=dark,
        damaged_fraction=damaged_fraction(changes, spreads, variance),
        sharpness=sharpness,
        focus_score=score,
        texture=texture,
        relief=_relief(structure, total),
        anisotropy_db=directed.anisotropy_db,
        smear_db=directed.smear_db,
        smear_deg=directed.smear_deg,
        detail_db=directed.detail_db,
        detail_floor_db=directed.detail_floor_db,
        directions_db=directed.levels_db,
        directions_floor_db=directed.floors_db,
        banding=banding(parts),
        missing_fraction=missing_fraction(changes),
        opaque_fraction=covered.opaque_fraction,
        opaque_radius=covered.opaque_radius,
        fold_contrast=covered.fold_contrast,
        shading=covered.shading,
        bright_counts=covered.bright_counts,
        beam_edge=covered.beam_edge,
        marks=strips,
        fingerprint=zlib.crc32(repr(strips).encode()) if any(strips) else 0,
    )


def _sharpness(structure: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return sharpness, and the significance of the structure it rests on."""
    d1, d2, d4, d8 = (float(value) / float(structure[5]) for value in structure[:4])
    coarse, fine = d8 - d4, d2 - d1
    if coarse <= 0 or d1 <= 0:
        return 0.0, 0.0
    # a difference of two such means of white noise has a standard deviation of about 2 D(1) / sqrt(N)
    texture = coarse / (2 * d1 / math.sqrt(float(structure[5])))
    return max(0.0, fine / coarse), texture


def _relief(structure: npt.NDArray[np.float64], mean: float) -> float:
    if mean <= 0:
        return 0.0
    return max(0.0, float(structure[4] - structure[3]) / float(structure[5]) / mean**2)
