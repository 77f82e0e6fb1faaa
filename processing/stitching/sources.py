"""Tiles to be stitched, from whatever holds them: where each should lie, and its frame when it is asked for.

`read_source` opens a folder of tiles or a SerialEM ``.mdoc``; a catalogued montage is opened by
`montango.montage_tiles`. All give a `TileSet`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from devices.errors import ConfigurationError
from processing.stitching.frame_files import Frame, FrameError
from processing.stitching.solution import Key, TileInput


@dataclass(frozen=True, slots=True)
class SourceTile:
    """A tile: where it should lie, and where its frame is."""

    tile: TileInput
    frame: Frame
    name: str


@dataclass(frozen=True, slots=True)
class TileSet:
    """Tiles to be stitched.

    Attributes
    ----------
    name
        What they are called in messages and files.
    tiles
        The tiles, one a key.
    pixel_size_nm
        Size of a pixel; None: not known.
    size_px
        Width and height of most tiles.
    search_px
        How far the nominal places may be wrong, a side, px; None: as usual.
    left_out
        (name, reason) of what cannot be placed at all.
    provenance
        JSON: what the tiles are from.
    """

    name: str
    tiles: tuple[SourceTile, ...]
    pixel_size_nm: float | None
    size_px: tuple[int, int]
    search_px: float | None = None
    left_out: tuple[tuple[str, str], ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def corrected(self, dark: Path, bright: Path) -> TileSet:
        """Return the tiles with a dark and a bright reference to be taken out of their frames."""
        tiles = tuple(replace(one, frame=one.frame.corrected(dark, bright)) for one in self.tiles)
        origin = {**self.provenance, "dark": str(dark), "bright": str(bright)}
        return replace(self, tiles=tiles, provenance=origin)


def read_source(
    path: Path,
    *,
    positions: Path | None = None,
    pattern: str | None = None,
    overlap: tuple[float, float] | None = None,
    pixel_size_nm: float | None = None,
    section: int | None = None,
) -> TileSet:
    """Return the tiles of a folder, or of a SerialEM ``.mdoc`` (or the stack that it stands beside).

    Parameters
    ----------
    path
        Folder or file.
    positions
        CSV or JSON with the places of a folder's tiles; None: ``positions.csv`` or ``positions.json`` there.
    pattern
        How names give row and column; see `processing.stitching.folder.read_folder`.
    overlap
        Of neighbours along x and y, of a tile's side; None: found from the images.
    pixel_size_nm
        Size of a pixel; None: that of the source.
    section
        Which section of an ``.mdoc`` with several.

    Raises
    ------
    ConfigurationError
        Nothing there is a montage, or it is not clear where the tiles lie; the message says what to give.
    """
    from processing.stitching.folder import read_folder
    from processing.stitching.mdoc import read_mdoc

    if path.is_dir():
        if section is not None:
            raise ConfigurationError("--section chooses a section of an .mdoc, and the source is a folder")
        return read_folder(
            path, positions=positions, pattern=pattern, overlap=overlap, pixel_size_nm=pixel_size_nm
        )
    beside = path if path.suffix == ".mdoc" else path.with_name(path.name + ".mdoc")
    if beside.is_file():
        if positions is not None or pattern is not None or overlap is not None:
            raise ConfigurationError(
                f"{beside} says where its tiles lie: positions are for a folder of tiles"
            )
        return read_mdoc(beside, section=section, pixel_size_nm=pixel_size_nm)
    if path.is_file():
        raise ConfigurationError(
            f"{path} is one file: give the folder of its tiles, or put its {path.name}.mdoc beside it"
        )
    raise ConfigurationError(f"{path} is neither a folder of tiles nor a SerialEM .mdoc file")


def make_set(
    name: str,
    tiles: Sequence[SourceTile],
    *,
    pixel_size_nm: float | None,
    search_px: float | None = None,
    left_out: Sequence[tuple[str, str]] = (),
    provenance: Mapping[str, Any] | None = None,
    size_px: tuple[int, int] | None = None,
) -> TileSet:
    """Return a set of tiles, checked.

    Raises
    ------
    ConfigurationError
        There is no tile, no tile can be read, a key comes twice, or the pixel size is not above 0.
    """
    if not tiles:
        raise ConfigurationError(f"{name} has no tiles")
    if pixel_size_nm is not None and not 0 < pixel_size_nm < 1e9:
        raise ConfigurationError(f"pixel_size_nm = {pixel_size_nm} of {name} must be above 0")
    twice = [key for key, count in Counter(one.tile.key for one in tiles).items() if count > 1]
    if twice:
        names = [one.name for one in tiles if one.tile.key == twice[0]]
        raise ConfigurationError(
            f"{name}: {', '.join(names)} are all row {twice[0][1]}, column {twice[0][2]}: give a pattern "
            "that tells them apart, or their positions"
        )
    size = size_px or usual_size(name, [one.frame for one in tiles])
    return TileSet(
        name, tuple(tiles), pixel_size_nm, size, search_px, tuple(left_out), dict(provenance or {})
    )


def usual_size(name: str, frames: Sequence[Frame]) -> tuple[int, int]:
    """Return width and height of most frames.

    Raises
    ------
    ConfigurationError
        None can be read.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    errors = []
    for frame in frames:
        try:
            sizes[frame.size_px()] += 1
        except FrameError as error:
            errors.append(str(error))
    if not sizes:
        raise ConfigurationError(f"no tile of {name} can be read: {errors[0]}")
    return sizes.most_common(1)[0][0]


def ranked(places: npt.NDArray[np.float64], size_px: tuple[int, int]) -> list[Key]:
    """Return keys (0, row, column) of tiles by their places (n, 2): half a tile apart is another row."""
    index = np.empty((len(places), 2), np.intp)
    for axis, side in enumerate(size_px):
        order = np.argsort(places[:, axis], kind="stable")
        index[order, axis] = np.cumsum(
            np.diff(places[order, axis], prepend=places[order[0], axis]) > side / 2
        )
    keys = [(0, int(row), int(column)) for column, row in index]
    return keys if len(set(keys)) == len(keys) else [(0, 0, k) for k in range(len(keys))]
