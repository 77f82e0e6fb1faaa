"""The distortion of a montage from its own overlaps, or given and watched.

A given field holds as long as the montage's own overlaps do not contradict it. They do where it leaves errors
at the seams larger than the scatter of the blocks about a field of their own, and than chance leaves; then
the montage's own field takes its place, and the origin says so. The fields themselves may differ where
nothing has changed: a bend of all tiles and matrices that change from tile to tile look the same at seams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from processing.kernels.field import FieldFit, FieldModel, field_change, fit_field
from processing.stitching._edges import Distorted, TriedPair
from processing.stitching.options import StitchOptions

Reals = npt.NDArray[np.float64]
OUTDATED: Final = "outdated"
"""Origin of a field where one was given that the montage contradicts."""
_LEAST_CHANGE_PX: Final = 0.1
_MUCH: Final = 1.5
"""By how many times the scatter of the blocks seams are worse that are worth a new field."""
_SURE: Final = 3.0
"""By how much a change exceeds what chance makes of the blocks."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What is known of the distortion.

    ``origin``: none, given, calibrated (from this montage), or outdated (one was given, this montage
    contradicts it, and its own is used). ``fit`` is None while there are no blocks; ``change_px`` compares
    what this montage says with a given field: rms and largest difference, None without either.
    """

    distorted: Distorted
    origin: str
    fit: FieldFit | None = None
    change_px: tuple[float, float] | None = None


def begin(options: StitchOptions, size_px: tuple[int, int]) -> Calibration:
    """Return what is known before the first tile.

    Raises
    ------
    ValueError
        The field given is for frames of another size.
    """
    width, height = size_px
    field = options.field
    if field is None:
        return Calibration(Distorted(FieldModel.identity(width, height), np.zeros((0, 2, 2))), "none")
    if (field.width_px, field.height_px) != (width, height):
        raise ValueError(
            f"field is for frames of {field.width_px} x {field.height_px} px, the tiles have {width} x "
            f"{height}; give that of this camera, binning and region"
        )
    return Calibration(Distorted(field, np.zeros((0, 2, 2))), "given")


def calibrate(
    pairs: Sequence[TriedPair],
    positions: Reals,
    size_px: tuple[int, int],
    options: StitchOptions,
    *,
    holdout: bool,
) -> Calibration:
    """Return the distortion from the blocks of pairs, for tiles about these places (n, 2)."""
    known = begin(options, size_px)
    blocks = [
        (pair.first, pair.second, pair.blocks)
        for pair in pairs
        if pair.blocks is not None and len(pair.blocks.first_px)
    ]
    if not blocks:
        return known
    degree = options.degree if options.calibrate_field else 1
    own = None
    if options.field is None or options.calibrate_field:
        own = fit_field(
            blocks,
            positions,
            size_px,
            degree=degree,
            affine=options.affine,
            holdout=holdout and known.origin == "none",
        )
    if options.field is None and own is not None:
        origin = "calibrated" if own.model.degree > 1 else "none"
        return Calibration(Distorted(own.model, _bends(own)), origin, own)
    fit = fit_field(blocks, positions, size_px, affine=options.affine, field=options.field, holdout=holdout)
    change = None
    if own is not None:
        difference = field_change(known.distorted.field, own.model)
        change = difference.rms_px, difference.largest_px
        if _excess_px(fit, own) > _limit_px(own, len({tile for pair in blocks for tile in pair[:2]})):
            if holdout:
                own = fit_field(blocks, positions, size_px, degree=degree, affine=options.affine)
            return Calibration(Distorted(own.model, _bends(own)), OUTDATED, own, change)
    return Calibration(Distorted(known.distorted.field, _bends(fit)), "given", fit, change)


def _excess_px(given: FieldFit, own: FieldFit) -> float:
    """Return the error at the seams that a given field leaves beyond that of the montage's own, px."""
    more, less = (float(np.median(fit.residuals_px)) for fit in (given, own))
    return float(np.sqrt(max(more**2 - less**2, 0.0)))


def _limit_px(own: FieldFit, tiles: int) -> float:
    """Return the error from where on a given field is another one."""
    scatter = float(np.median(own.residuals_px))
    # what the matches leave open: chance makes the montage's own field better by as much
    parameters = own.model.coefficients.shape[1] + 3 * tiles
    return max(
        _LEAST_CHANGE_PX, _MUCH * scatter, _SURE * scatter * float(np.sqrt(parameters / (2 * own.matches)))
    )


def _bends(fit: FieldFit) -> Reals:
    """Return the matrices of the tiles, none where all are the identity."""
    return fit.matrices if (fit.matrices != np.eye(2)).any() else np.zeros((0, 2, 2))
