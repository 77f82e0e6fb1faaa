"""The distortion that montages find, kept for each magnification and camera, and watched."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, Final

from processing.kernels.field import FieldModel, field_change
from processing.stitching.solution import StitchSolution

_log = logging.getLogger(__name__)
_LEAST_TILES: Final = 9
"""Matched tiles of a montage whose distortion is compared: fewer say little of the middle of the field."""
_LEAST_PX: Final = 0.5
_RESIDUALS: Final = 4.0
"""A change counts where its rms is over so many times what the fit leaves (95 % of the blocks)."""


def watch_field(folder: Path, pixel_size_nm: float, solution: StitchSolution) -> dict[str, Any]:
    """Compare the distortion of a montage with the known one of its pixel size and frame size.

    The first that is found is kept, as ``field-WIDTHxHEIGHT-SIZEnm.json``; one that differs takes its place,
    so that a change is said once.

    Parameters
    ----------
    folder
        Where the fields are kept.
    pixel_size_nm
        Of the montage: stands for the magnification.
    solution
        Of the montage.

    Returns
    -------
    dict
        ``field_change_px``, rms and largest difference over the field apart from an affine part, None where
        there is nothing to compare; ``field_changed``, whether it is over the limit; ``field_limit_px``.
    """
    nothing = {"field_change_px": None, "field_changed": False, "field_limit_px": None}
    if solution.field_origin != "calibrated" or solution.matched.sum() < _LEAST_TILES:
        return nothing
    width, height = solution.size_px
    path = folder / f"field-{width}x{height}-{pixel_size_nm:.4g}nm.json"
    known = _read(path)
    if known is None:
        _write(path, solution.field)
        return nothing
    change = field_change(known, solution.field)
    left = solution.residual_p95_px
    limit = max(_LEAST_PX, _RESIDUALS * left) if math.isfinite(left) else _LEAST_PX
    changed = change.rms_px > limit
    if changed:
        _log.warning(
            "the distortion has changed by %.2g px rms (%.2g at most; limit %.2g) since it was found for "
            "frames of %d x %d px at %.4g nm: look at lenses, camera and magnification, and run "
            "calibrate_distortion",
            *(change.rms_px, change.largest_px, limit, width, height, pixel_size_nm),
        )
        _write(path, solution.field)
    return {
        "field_change_px": [change.rms_px, change.largest_px],
        "field_changed": changed,
        "field_limit_px": limit,
    }


def _read(path: Path) -> FieldModel | None:
    try:
        return FieldModel.from_json(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log.warning("%s cannot be read, and is made anew: %s", path, error)
        return None


def _write(path: Path, field: FieldModel) -> None:
    scratch = path.with_suffix(".tmp")
    scratch.write_text(field.to_json())
    scratch.replace(path)
