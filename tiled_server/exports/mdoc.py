"""The text of a SerialEM ``.mdoc``: its head, and a section a frame.

Keys and units as in https://bio3d.colorado.edu/SerialEM/hlp/html/about_formats.htm: um, deg, s, e/A^2, pixels
in Angstrom. A key is left out where the value is not known: SerialEM does the same.

``RotationAngle`` is the direction of the stage's x axis, as that of the tilt axis, and 180 deg. The stage's y
axis points down in images that are right side up, so `StagePosition` is mirrored against `PieceCoordinates`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from tiled_server.exports.montage import Montage, setting
from tiled_server.exports.pieces import Pieces

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TITLE_CHARACTERS: Final = 79


def head(montage: Montage, placed: Pieces, image_file: str, mode: int) -> str:
    """Return the head of an ``.mdoc``: keys of the whole stack, and titles that say what it is."""
    run, (width, height) = montage.runs[0], montage.size_px
    nm, angle = run.calibration
    voltage = setting(run.settings, "high_voltage_kv")
    lines = [f"PixelSpacing = {nm * 10:.7g}"]
    if voltage is not None:
        lines.append(f"Voltage = {float(voltage):g}")
    lines += [
        f"ImageFile = {image_file}",
        f"ImageSize = {width} {height}",
        "Montage = 1",
        f"DataMode = {mode}",
    ]
    start = run.start
    binning = setting(run.settings, "binning") or 1
    titles = [
        f"Montango: {start.get('instrument', 'microscope')}  {date_time(float(start.get('time', 0.0)))}",
        f"    Tilt axis angle = {axis_angle(angle):.1f}, binning = {binning}  spot = "
        f"{setting(run.settings, 'spot_size_index') or 0}  camera = 0",
        f"montage {montage.montage_id}  sample {start.get('sample', '')}",
    ]
    titles += [
        f"section {z}: region {roi}, attempt {attempt}"
        for z, (roi, attempt) in enumerate(placed.sections)
        if len(placed.sections) > 1
    ]
    return "\n".join(lines) + "\n\n" + "".join(f"[T = {_plain(one)}]\n\n" for one in titles)


def section(montage: Montage, placed: Pieces, index: int, counts: tuple[float, float, float]) -> str:
    """Return the section of a frame: ``index`` in the stack, its smallest, largest and mean count."""
    row = montage.table.iloc[index]
    run = montage.run(str(row["run_uid"]))
    nm, angle = run.calibration
    keys: dict[str, str | None] = {
        "PieceCoordinates": " ".join(map(str, placed.coordinates[index])),
        "MinMaxMean": " ".join(f"{one:.6g}" for one in counts),
        "TiltAngle": _numbers(setting(run.settings, "alpha_deg")),
        "StagePosition": _numbers(row["x_um"], row["y_um"]),
        "StageZ": _numbers(row["z_um"]),
        "Magnification": _numbers(setting(run.settings, "magnification")),
        "Intensity": _numbers(setting(run.settings, "intensity")),
        "ExposureDose": _numbers(row["dose_e_per_a2"]),
        "PriorRecordDose": _numbers(row["prior_dose_e_per_a2"]),
        "DoseRate": _numbers(_dose_rate(run.settings, row, nm)),
        "PixelSpacing": f"{nm * 10:.7g}",
        "SpotSize": _numbers(setting(run.settings, "spot_size_index")),
        "Defocus": _numbers(_first(row["defocus_um"], setting(run.settings, "defocus_um"))),
        "TargetDefocus": _numbers(setting(run.settings, "target_defocus_um")),
        "ImageShift": _numbers(row["image_shift_x_um"], row["image_shift_y_um"]),
        "RotationAngle": f"{axis_angle(angle):.6g}",
        "ExposureTime": _numbers(row["exposure_time_s"]),
        "Binning": _numbers(setting(run.settings, "binning") or 1),
        "MagIndex": _numbers(setting(run.settings, "magnification_index")),
        "CameraIndex": "0",
        "StageOffsets": _numbers(row["x_um"] - row["x_requested_um"], row["y_um"] - row["y_requested_um"]),
        "DateTime": date_time(float(row["exposure_start_s"])),
        "NavigatorLabel": f"{row['roi']}-{row['row']}-{row['column']}-{row['attempt']}",
    }
    aligned = placed.aligned[index]
    if aligned is not None:
        keys["AlignedPieceCoords"] = " ".join(map(str, aligned))
    lines = [
        f"[ZValue = {index}]",
        *(f"{name} = {value}" for name, value in keys.items() if value is not None),
    ]
    return "\n".join(lines) + "\n\n"


def axis_angle(angle_rad: float) -> float:
    """Return ``RotationAngle`` for a turn from camera to stage axes, deg, above -180 to 180."""
    return 180.0 - (-math.degrees(angle_rad)) % 360.0


def date_time(unix_s: float) -> str | None:
    """Return a time as SerialEM writes it, of the clock here: ``25-Mar-21  17:00:46``; None: not known."""
    if math.isfinite(unix_s) and unix_s > 0:
        at = datetime.fromtimestamp(unix_s)
        return f"{at.day:02d}-{_MONTHS[at.month - 1]}-{at.year % 100:02d}  {at:%H:%M:%S}"
    return None


def _dose_rate(settings: Mapping[str, Any], row: Any, nm: float) -> float:
    """Return the rate at the camera, e/s in an unbinned pixel; NaN where dose or time are not known."""
    time_s, binning = float(row["exposure_time_s"]), float(setting(settings, "binning") or 1)
    if not time_s > 0:
        return math.nan
    return float(row["dose_e_per_a2"]) * (nm * 10 / binning) ** 2 / time_s


def _first(*values: Any) -> Any:
    return next((one for one in values if one is not None and math.isfinite(float(one))), None)


def _numbers(*values: Any) -> str | None:
    try:
        numbers = [float(one) for one in values]
    except (TypeError, ValueError):
        return None
    return " ".join(f"{one:.9g}" for one in numbers) if all(map(math.isfinite, numbers)) else None


def _plain(text: str) -> str:
    """Return a title that ends no section: one line, no brackets."""
    return " ".join(text.replace("[", "(").replace("]", ")").splitlines())[:_TITLE_CHARACTERS]
