"""SerialEM montages: an ``.mdoc`` beside its stack or images.

https://bio3d.colorado.edu/SerialEM/hlp/html/about_formats.htm. SerialEM's stage y points up in images that
are right side up; here it points down, so that image and stage differ by a turn alone: y is taken with the
other sign. The keys as SerialEM wrote them stand in stream ``source``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from processing.stitching.frame_files import SUFFIXES
from processing.stitching.mdoc import PIECE, STAGE, TURN, Section, read_mdoc, read_text, sections
from tiled_server.ingest.source import (
    Source,
    SourceFrame,
    centres_um,
    file_frames,
    number,
    pixel_size_of,
    places_of,
)

VALUES: Final = {
    "StageZ": "z_um",
    "Defocus": "defocus_um",
    "ExposureTime": "exposure_time_s",
    "ExposureDose": "dose_e_per_a2",
    "PriorRecordDose": "prior_dose_e_per_a2",
}
"""Keys of a piece that are columns of a tile, of the same unit."""
SETTINGS: Final = {
    "Voltage": "column-high_voltage_kv",
    "Magnification": "column-magnification",
    "MagIndex": "column-magnification_index",
    "Intensity": "column-intensity",
    "SpotSize": "column-spot_size_index",
    "TargetDefocus": "column-target_defocus_um",
    "TiltAngle": "stage-alpha_deg",
    "Binning": "camera-binning",
}
"""Keys that are settings of the instrument."""
_OWN_TITLE: Final = "[T = Montango:"
_INSTRUMENT: Final = re.compile(r"^\[T = (?:SerialEM|Montango):\s*(.*?)\s{2,}", re.MULTILINE)
_DATES: Final = ("%d-%b-%y %H:%M:%S", "%d-%b-%Y %H:%M:%S")


def mdoc_sections(path: Path) -> list[int]:
    """Return the sections (z of the piece coordinates) of an ``.mdoc``; empty without piece coordinates.

    Raises
    ------
    ConfigurationError
        It cannot be read.
    """
    found = set()
    for one in sections(read_text(path)):
        words = one.keys.get(PIECE, "").split()
        if len(words) == 3 and math.isfinite(z := number(words[2])):
            found.add(round(z))
    return sorted(found)


def read_serialem(path: Path, *, section: int | None = None, pixel_size_nm: float | None = None) -> Source:
    """Return a section of an ``.mdoc``.

    Parameters
    ----------
    path
        The ``.mdoc``.
    section
        Which z of the piece coordinates, where there are several.
    pixel_size_nm
        Size of a pixel; None: ``PixelSpacing``.

    Raises
    ------
    ConfigurationError
        It is no montage; see `processing.stitching.mdoc.read_mdoc`.
    """
    tiles = read_mdoc(path, section=section, pixel_size_nm=pixel_size_nm)
    text = read_text(path)
    head, *parts = sections(text)
    named = {f"{one.kind} {one.name}": one for one in parts}
    pieces = [named[one.name] for one in tiles.tiles]
    turn = _turn(pieces)
    size = pixel_size_of(tiles, pixel_size_nm)
    mirror = 1.0 if _OWN_TITLE in text else -1.0
    stage = np.array([_stage(one, mirror) for one in pieces]).reshape(-1, 2)
    centres = centres_um(places_of(tiles), size, turn, stage)
    frames = tuple(
        SourceFrame(
            tile.tile.key, frame, _name(frame.path, frame.page), _values(piece, at, centre), piece.keys
        )
        for tile, frame, piece, at, centre in zip(
            tiles.tiles, file_frames(tiles), pieces, stage, centres, strict=True
        )
    )
    instrument = _INSTRUMENT.search(text)
    stem = Path(tiles.name)
    name = stem.stem if stem.suffix.lower() in SUFFIXES else tiles.name
    return Source(
        name if section is None else f"{name}-z{section}",
        "serialem",
        path,
        frames,
        size,
        turn,
        (path,),
        _settings(head, pieces),
        dict(head.keys) | {"titles": _titles(text)},
        instrument[1] if instrument else None,
        tiles.left_out,
    )


def _titles(text: str) -> list[str]:
    return [line.strip()[5:-1].strip() for line in text.splitlines() if line.startswith("[T = ")]


def _turn(pieces: Sequence[Section]) -> float:
    """Return the turn from camera to stage axes, deg; ``RotationAngle`` is that and 180 deg."""
    known = [value for one in pieces if math.isfinite(value := number(one.keys.get(TURN)))]
    return known[0] % 360.0 - 180.0 if known else 0.0


def _stage(piece: Section, mirror: float) -> tuple[float, float]:
    words = piece.keys.get(STAGE, "").split()
    x, y = (number(word) for word in words) if len(words) == 2 else (math.nan, math.nan)
    return x, mirror * y


def _values(piece: Section, stage: Any, centre: Any) -> dict[str, float]:
    found = {"x_um": float(stage[0]), "y_um": float(stage[1])}
    found |= {"centre_x_um": float(centre[0]), "centre_y_um": float(centre[1])}
    found |= {column: number(piece.keys[key]) for key, column in VALUES.items() if key in piece.keys}
    shift = piece.keys.get("ImageShift", "").split()
    if len(shift) == 2:
        found |= {"image_shift_x_um": number(shift[0]), "image_shift_y_um": number(shift[1])}
    if found.get("dose_e_per_a2") == 0.0:  # SerialEM's word for a dose that was not calibrated
        found["dose_e_per_a2"] = math.nan
    if "DateTime" in piece.keys:
        found["exposure_start_s"] = unix_s(piece.keys["DateTime"])
    return found


def _settings(head: Section, pieces: Sequence[Section]) -> dict[str, float]:
    """Return the settings of the first piece, and what only the head has."""
    keys: Mapping[str, str] = {**head.keys, **(pieces[0].keys if pieces else {})}
    found = {name: number(keys[key]) for key, name in SETTINGS.items() if key in keys}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def unix_s(text: str) -> float:
    """Return a time as SerialEM writes it, of the clock here, in Unix s; NaN where it is none."""
    for form in _DATES:
        try:
            return datetime.strptime(text.strip(), form).timestamp()
        except ValueError:
            continue
    return math.nan


def _name(path: Path, page: int) -> str:
    return f"{path.name}, image {page}" if page else path.name
