"""The distortion of a montage from its own overlaps, or given and watched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from processing.kernels.field import FieldFit, FieldModel, field_change, fit_field
from processing.stitching._edges import Distorted, TriedPair
from processing.stitching.options import StitchOptions

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What is known of the distortion.

    ``fit`` is None while there are no blocks; ``change_px`` compares what this montage says with a given
    field: rms and largest difference, None without either.
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
        bent = own.matrices if _bent(own.matrices) else np.zeros((0, 2, 2))
        origin = "calibrated" if own.model.degree > 1 else "none"
        return Calibration(Distorted(own.model, bent), origin, own)
    fit = fit_field(blocks, positions, size_px, affine=options.affine, field=options.field, holdout=holdout)
    change = None
    if own is not None and options.field is not None:
        difference = field_change(options.field, own.model)
        change = difference.rms_px, difference.largest_px
    bent = fit.matrices if _bent(fit.matrices) else np.zeros((0, 2, 2))
    return Calibration(Distorted(known.distorted.field, bent), "given", fit, change)


def _bent(matrices: Reals) -> bool:
    return bool((matrices != np.eye(2)).any())
