"""The distortion that montages find: kept for each magnification and camera, used again, and watched."""

from __future__ import annotations

import glob
import json
import logging
import math
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from processing.kernels.distortion import stored_field
from processing.kernels.field import FieldModel
from processing.stitching.solution import StitchSolution

_log = logging.getLogger(__name__)
_LEAST_TILES: Final = 9
"""Matched tiles of a montage whose distortion is kept: fewer say little of the middle of the field."""
_MOST_PX: Final = 1.0
"""Error of matches held out (95 %) up to which a distortion is kept."""


@dataclass(frozen=True, slots=True, eq=False)
class KnownField:
    """A distortion that is known before a montage; ``origin`` says from where, ``made_at_s`` since when."""

    field: FieldModel
    origin: str
    made_at_s: float


def known_field(
    folder: Path,
    pixel_size_nm: float,
    size_px: tuple[int, int],
    start: Mapping[str, Any],
    calibrations: Path | str | None,
) -> KnownField | None:
    """Return the newest distortion known for a montage, or None.

    Parameters
    ----------
    folder
        Where the fields of montages are kept.
    pixel_size_nm
        Of the montage: stands for the magnification.
    size_px
        Width and height of its frames.
    start
        Its start document, whose ``calibration_uids`` may name a calibration of the distortion.
    calibrations
        The folder of the calibrations; None: there are none.
    """
    found = [_read(_path(folder, pixel_size_nm, size_px)), _calibrated(start, calibrations, size_px)]
    return max((one for one in found if one is not None), key=lambda one: one.made_at_s, default=None)


def watch_field(
    folder: Path, pixel_size_nm: float, run: str, solution: StitchSolution, known: KnownField | None
) -> dict[str, Any]:
    """Keep the distortion of a montage where none was known, or where its overlaps contradict that known.

    The file is ``field-WIDTHxHEIGHT-SIZEnm.json``, with the errors of the fit and of matches held out.

    Parameters
    ----------
    folder
        Where the fields are kept.
    pixel_size_nm
        Of the montage.
    run
        Its uid.
    solution
        Where its tiles lie.
    known
        What was known before, and was used for it.

    Returns
    -------
    dict
        ``field_known``: where the field used at first comes from, None without; ``field_changed``: whether
        the montage contradicts it; ``field_change_px``: rms and largest difference of the montage's own from
        it, apart from an affine part, None without.
    """
    changed = solution.field_origin == "outdated"
    said = {
        "field_known": None if known is None else known.origin,
        "field_changed": changed,
        "field_change_px": None if solution.field_change_px is None else [*solution.field_change_px],
    }
    if changed:
        _log.warning(
            "the distortion of montage run %s is another than that of %s: look at lenses, camera and "
            "magnification, and run calibrate_distortion; the montage's own is used",
            *(run, said["field_known"]),
        )
    own = solution.field_origin in ("calibrated", "outdated")
    sound = solution.holdout_p95_px <= _MOST_PX and int(solution.matched.sum()) >= _LEAST_TILES
    if own and sound:
        _write(_path(folder, pixel_size_nm, solution.size_px), run, solution)
    return said


def _path(folder: Path, pixel_size_nm: float, size_px: tuple[int, int]) -> Path:
    return folder / f"field-{size_px[0]}x{size_px[1]}-{pixel_size_nm:.4g}nm.json"


def _read(path: Path) -> KnownField | None:
    try:
        saved = json.loads(path.read_text())
        field = FieldModel.from_dict(saved["field"])
        return KnownField(field, f"montage run {saved['run']}", float(saved["made_at_s"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s cannot be read (%r), and is made anew", path, error)
        return None


def _write(path: Path, run: str, solution: StitchSolution) -> None:
    content = {
        "run": run,
        "made_at_s": time.time(),
        "tiles_matched": int(solution.matched.sum()),
        "residual_median_px": solution.residual_median_px,
        "residual_p95_px": solution.residual_p95_px,
        "holdout_median_px": solution.holdout_median_px,
        "holdout_p95_px": solution.holdout_p95_px,
        "field": solution.field.to_dict(),
    }
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(content))
    scratch.replace(path)


def _calibrated(
    start: Mapping[str, Any], calibrations: Path | str | None, size_px: tuple[int, int]
) -> KnownField | None:
    """Return the calibration of the distortion that a run names, for frames of a size."""
    uids = start.get("calibration_uids") or ()
    if calibrations is None:
        return None
    for uid in uids.values() if isinstance(uids, Mapping) else uids:
        for path in Path(calibrations).glob(f"distortion-*-{glob.escape(str(uid))}.json"):
            try:
                saved = json.loads(path.read_bytes())
                with np.load(path.with_name(Path(saved["arrays"]).name), allow_pickle=False) as arrays:
                    field = stored_field(saved["values"], arrays)
                made_at_s = float(saved["made_at_s"])
            except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
                _log.warning("calibration %s is not used: %s", path, error)
                continue
            scaled = _scaled(field, size_px)
            if scaled is not None:
                return KnownField(scaled, f"calibration {uid}", made_at_s)
    return None


def _scaled(field: FieldModel, size_px: tuple[int, int]) -> FieldModel | None:
    """Return a field of unbinned pixels for frames of a size; None: they show another part of the sensor."""
    width, height = size_px
    if not math.isclose(width * field.height_px, height * field.width_px, rel_tol=0.5 / max(size_px)):
        return None
    return FieldModel(width, height, field.degree, field.coefficients * (width / field.width_px))
