"""Micrographs and recorded tiles on disk: which files there are, and their pixels."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from devices.errors import ConfigurationError
from sim.config import SpecimenConfig

FORMATS: Final = "PNG (.png), TIFF (.tif, .tiff), JPEG (.jpg, .jpeg) and MRC (.mrc, .map)"
_TILE_NAME: Final = re.compile(r"(?:^|_)(\d+)_(\d+)\.(?:png|tiff?|jpe?g|mrc)$", re.IGNORECASE)


def _read_pillow(path: Path) -> npt.NDArray[Any]:
    from PIL import Image

    # Pillow warns of images over 89 Mpixel; a micrograph may be that large
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(path) as image:
        if image.mode not in ("L", "I", "F") and not image.mode.startswith("I;16"):
            return np.asarray(image.convert("L"))
        return np.asarray(image)


def _read_tiff(path: Path) -> npt.NDArray[Any]:
    import tifffile

    return np.asarray(tifffile.imread(path, key=0))


def _read_mrc(path: Path) -> npt.NDArray[Any]:
    import mrcfile

    with mrcfile.open(path, permissive=False) as volume:
        return np.array(volume.data)


_READERS: Final[dict[str, Callable[[Path], npt.NDArray[Any]]]] = {
    ".png": _read_pillow,
    ".jpg": _read_pillow,
    ".jpeg": _read_pillow,
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
    ".mrc": _read_mrc,
    ".map": _read_mrc,
}


def read_image(path: Path) -> npt.NDArray[Any]:
    """Return the pixels of a micrograph, ``(y, x)``; the first section of a stack, the mean of colours.

    Raises
    ------
    ConfigurationError
        There is no such file, or it is not an image of `FORMATS`.
    """
    reader = _READERS.get(path.suffix.lower())
    if not path.is_file():
        raise ConfigurationError(f"there is no specimen file {path}; give the path of one in {FORMATS}")
    if reader is None:
        raise ConfigurationError(f"specimen file {path} is of no known format; it may be {FORMATS}")
    try:
        image = reader(path)
    except Exception as error:
        raise ConfigurationError(
            f"specimen file {path} cannot be read ({error}); it may be {FORMATS}"
        ) from error
    if image.ndim == 3:
        image = image.mean(axis=2) if image.shape[2] in (3, 4) else image[0]
    if image.ndim != 2 or min(image.shape) < 16:
        raise ConfigurationError(
            f"specimen file {path} holds no image of at least 16 x 16 pixels: {image.shape}"
        )
    return image


def find_tiles(folder: Path) -> dict[tuple[int, int], Path]:
    """Return the recorded tiles of a folder by (row, column), from 1 as in their names.

    Raises
    ------
    ConfigurationError
        The folder is missing, or no file in it is named ``*_ROW_COL.EXT``.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"there is no folder of recorded tiles at {folder}")
    tiles: dict[tuple[int, int], Path] = {}
    for path in sorted(folder.iterdir()):
        match = _TILE_NAME.search(path.name)
        if match:
            tiles[int(match[1]), int(match[2])] = path
    if not tiles:
        raise ConfigurationError(
            f"folder {folder} holds no recorded tile; name them *_ROW_COL.EXT, from 1, in {FORMATS}"
        )
    return tiles


def check_source(specimen: SpecimenConfig) -> None:
    """Refuse a specimen whose file or folder cannot be read.

    Raises
    ------
    ConfigurationError
        Naming the file and the formats.
    """
    if specimen.kind == "image" and specimen.file is not None:
        read_image(specimen.file)
    if specimen.kind == "replay" and specimen.folder is not None:
        read_image(next(iter(find_tiles(specimen.folder).values())))
