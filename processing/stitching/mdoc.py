"""SerialEM montages: the ``.mdoc`` says where the pieces lie, the stack or the images beside it hold them.

Without piece coordinates, as of images taken one by one, the stage positions place them.

https://bio3d.colorado.edu/SerialEM/hlp/html/about_formats.htm. Piece coordinates count from the lower left
corner, y up. Here frames are turned right side up and y is down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from devices.errors import ConfigurationError
from processing.stitching.frame_files import SUFFIXES, TIFFS, FrameFile
from processing.stitching.solution import Key, TileInput
from processing.stitching.sources import SourceTile, TileSet, make_set, ranked

PIECE: Final = "PieceCoordinates"
ALIGNED: Final = "AlignedPieceCoords"
STAGE: Final = "StagePosition"
TURN: Final = "RotationAngle"
TILT: Final = "TiltAngle"
_ANGSTROM_NM: Final = 0.1
_UM_NM: Final = 1e3
_SAME_TILT_DEG: Final = 1.0
_SAME_PLACE: Final = 0.02
"""Part of a tile by which places differ that are told apart."""
_SEARCH: Final = 0.12
"""Stages of real montages are off by up to a tenth of a frame: part of its longer side that is searched."""
_STAGE_SEARCH: Final = 0.2
"""The same where the turn of the image is not exact either."""


@dataclass(frozen=True, slots=True)
class Section:
    """A section of an ``.mdoc``: kind and name from ``[kind = name]``, keys, and the first line in the file.

    The head of the file is the first section, of kind "".
    """

    kind: str
    name: str
    keys: Mapping[str, str]
    line: int


def sections(text: str) -> list[Section]:
    """Return the sections of an ``.mdoc``, its head first."""
    found = [Section("", "", {}, 0)]
    for number, line in enumerate(text.splitlines()):
        left, equals, right = line.strip().partition("=")
        if line.lstrip().startswith("["):
            kind = left.strip(" [")
            if kind != "T":
                found.append(Section(kind, right.strip(" ]"), {}, number))
        elif equals:
            keys = found[-1].keys
            assert isinstance(keys, dict)
            keys[left.strip()] = right.strip()
    return found


def read_text(path: Path) -> str:
    """Return the text of an ``.mdoc``. Raises ConfigurationError where it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error


def read_mdoc(path: Path, *, section: int | None = None, pixel_size_nm: float | None = None) -> TileSet:
    """Return the tiles of a SerialEM montage.

    Parameters
    ----------
    path
        The ``.mdoc``; its ``ImageFile`` (MRC, ``.st`` or TIFF) beside it, or the images that its sections
        name.
    section
        Which z of the piece coordinates, where there are several.
    pixel_size_nm
        Size of a pixel; None: ``PixelSpacing``.

    Raises
    ------
    ConfigurationError
        It is no montage, its images are not there, it has several sections and none is chosen, or there are
        only stage positions and no word on how the images are turned.
    """
    head, *parts = sections(read_text(path))
    pieces = [one for one in parts if one.kind in ("ZValue", "Image") and PIECE in one.keys]
    if not pieces:
        images = [one for one in parts if one.kind in ("ZValue", "Image") and STAGE in one.keys]
        if section is not None:
            raise ConfigurationError(f"{path} has no sections to choose from: no image has {PIECE}")
        if not images:
            raise ConfigurationError(
                f"{path} is no montage: no section has {PIECE} or {STAGE}. For single images give their "
                "folder and --positions FILE"
            )
        return _by_stage(path, head, images, pixel_size_nm)
    coordinates = [_numbers(path, one, PIECE, 3) for one in pieces]
    layers = sorted({round(z) for _, _, z in coordinates})
    if section is None and len(layers) > 1:
        raise ConfigurationError(
            f"{path} has {len(layers)} sections (z {layers[0]} to {layers[-1]}): choose one with --section"
        )
    chosen = layers[0] if section is None else section
    if chosen not in layers:
        raise ConfigurationError(f"{path} has no section {section}; it has {', '.join(map(str, layers))}")
    spacing = pixel_size_nm or _spacing(head, pieces)
    tiles = []
    size = _size(path, head)
    grid = _grid([(x, y) for x, y, z in coordinates if round(z) == chosen])
    for one, (x, y, z) in zip(pieces, coordinates, strict=True):
        if round(z) == chosen:
            row, column = grid[x, y]
            key: Key = (0, row, column)
            frame = _frame(path, head, one)
            tiles.append(SourceTile(TileInput(key, 0, (x, -y)), frame, f"{one.kind} {one.name}"))
    return make_set(
        path.stem,
        tiles,
        pixel_size_nm=spacing,
        search_px=_SEARCH * max(size),
        provenance={"mdoc": str(path.resolve()), "section": chosen},
        size_px=size,
    )


def _by_stage(path: Path, head: Section, images: Sequence[Section], pixel_size_nm: float | None) -> TileSet:
    """Return the tiles of an ``.mdoc`` that has stage positions alone.

    ``RotationAngle`` is that of the tilt axis, which is the stage's x axis, and 90 deg more: a step (x, y up)
    on the image, turned by 180 deg less this angle, is one of the stage. So it is in montages that have piece
    coordinates as well, of columns of two makers; at low magnification it was up to 8 deg off.
    """
    spacing = pixel_size_nm or _spacing(head, images)
    if spacing is None:
        raise ConfigurationError(f"{path} has no PixelSpacing: give the size of a pixel, --pixel-size-nm")
    bare = [one.name for one in images if TURN not in one.keys]
    if bare:
        raise ConfigurationError(
            f"{path}, section {bare[0]}: {STAGE} without {TURN} does not say how the image is turned; give "
            "the folder of the images and --positions FILE"
        )
    tilts = [_numbers(path, one, TILT, 1)[0] for one in images if TILT in one.keys]
    if tilts and max(tilts) - min(tilts) > _SAME_TILT_DEG:
        raise ConfigurationError(
            f"{path} is a tilt series, {min(tilts):g} to {max(tilts):g} deg, and no montage"
        )
    size = _size(path, head)
    places = np.array([_numbers(path, one, STAGE, 2) for one in images]) * _UM_NM / spacing
    places -= places.mean(0)
    turn = np.radians([180 - _numbers(path, one, TURN, 1)[0] for one in images])
    cos, sin = np.cos(turn), np.sin(turn)
    x, y = places.T
    places = np.stack([cos * x + sin * y, sin * x - cos * y], 1)
    if len(places) > 1 and (np.ptp(places, axis=0) < _SAME_PLACE * np.array(size)).all():
        raise ConfigurationError(f"{path}: all images have the same {STAGE}: it does not tell how they lie")
    tiles = [
        SourceTile(TileInput(key, 0, (float(u), float(v))), _frame(path, head, one), f"{one.kind} {one.name}")
        for key, (u, v), one in zip(ranked(places, size), places, images, strict=True)
    ]
    return make_set(
        path.stem,
        tiles,
        pixel_size_nm=spacing,
        search_px=_STAGE_SEARCH * max(size),
        provenance={"mdoc": str(path.resolve()), "placed_by": STAGE},
        size_px=size,
    )


def _size(path: Path, head: Section) -> tuple[int, int]:
    """Return width and height of the images."""
    if "ImageSize" not in head.keys:
        raise ConfigurationError(f"{path} has no ImageSize")
    width, height = (round(side) for side in _numbers(path, head, "ImageSize", 2))
    return width, height


def _grid(places: Sequence[tuple[float, float]]) -> dict[tuple[float, float], tuple[int, int]]:
    """Return row and column of pieces by their coordinates; row 0 is the highest y."""
    columns = {x: k for k, x in enumerate(sorted({x for x, _ in places}))}
    rows = {y: k for k, y in enumerate(sorted({y for _, y in places}, reverse=True))}
    return {(x, y): (rows[y], columns[x]) for x, y in places}


def _frame(path: Path, head: Section, section: Section) -> FrameFile:
    if section.kind == "Image":
        return FrameFile(path.parent / Path(section.name.replace("\\", "/")).name)
    named = Path(head.keys.get("ImageFile", path.stem).replace("\\", "/")).name
    candidates = [path.with_suffix(""), path.parent / named]
    candidates += [path.with_suffix("").with_suffix(suffix) for suffix in (".mrc", ".st", *TIFFS)]
    for stack in candidates:
        if stack.suffix.lower() in SUFFIXES and stack.is_file():
            return FrameFile(stack, int(section.name))
    raise ConfigurationError(f"{path} is of {named}, which is not beside it: put the images there")


def _spacing(head: Section, pieces: Sequence[Section]) -> float | None:
    """Return the size of a pixel, nm, or None."""
    text = pieces[0].keys.get("PixelSpacing", head.keys.get("PixelSpacing", ""))
    return float(text) * _ANGSTROM_NM if text else None


def _numbers(path: Path, section: Section, key: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(map(float, section.keys[key].split()))
    except ValueError:
        numbers = ()
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ConfigurationError(
            f"{path}, [{section.kind} = {section.name}]: {key} = {section.keys[key]} must be {count} numbers"
        )
    return numbers


def aligned(text: str, moves: Mapping[tuple[float, float, float], tuple[float, float]]) -> str:
    """Return the text of an ``.mdoc`` with `ALIGNED` for the pieces that were placed.

    Parameters
    ----------
    text
        The ``.mdoc``.
    moves
        By piece coordinates, how far a piece lies from there, (x, y) px, y down.
    """
    lines = []
    moved: str | None = None
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if line.lstrip().startswith("["):
            moved = None
        if key.strip() == ALIGNED and moved is not None:
            continue
        lines.append(line)
        if key.strip() == PIECE:
            x, y, z = (float(one) for one in value.split())
            shift = moves.get((x, y, z))
            if shift is not None:
                moved = f"{ALIGNED} = {round(x + shift[0])} {round(y - shift[1])} {round(z)}"
                lines.append(moved)
    return "\n".join(lines) + "\n"
