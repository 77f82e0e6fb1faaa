"""A stack of frames as MRC with the ``.mdoc`` beside it, as SerialEM writes and reads a montage.

https://bio3d.colorado.edu/SerialEM/hlp/html/about_formats.htm and
https://www.ccpem.ac.uk/mrc_format/mrc2014.php. Rows of an MRC image begin at the bottom; counts are mode 6,
unsigned 16 bit (mode 0 for 8 bit: unsigned, as its ``imodFlags`` say).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from devices.errors import ConfigurationError
from tiled_server.exports.mdoc import head, section
from tiled_server.exports.montage import Montage
from tiled_server.exports.output import Progress
from tiled_server.exports.pieces import pieces

MODES: Final = {"uint8": 0, "int16": 1, "float32": 2, "uint16": 6}
_IMOD_STAMP: Final = 1146047817
_IMOD_UNSIGNED: Final = 0
_HEADER_BYTES: Final = 1024
_LABEL: Final = "Montango: montage"


class Counted:
    """Smallest, largest, mean and standard deviation of all that was added."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, image: npt.NDArray[Any]) -> tuple[float, float, float]:
        """Add a frame; return its smallest, largest and mean."""
        low, high, mean = float(image.min()), float(image.max()), float(image.mean(dtype=np.float64))
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._count += image.size
        self._sum += mean * image.size
        self._squares += float(np.square(image, dtype=np.float64).sum())
        return low, high, mean

    @property
    def mean(self) -> float:
        """Mean of all pixels."""
        return self._sum / self._count

    @property
    def std(self) -> float:
        """Standard deviation of all pixels."""
        return math.sqrt(max(0.0, self._squares / self._count - self.mean**2))


def write_mrc(montage: Montage, stack: Path, mdoc: Path, name: str, progress: Progress) -> None:
    """Write a stack and its ``.mdoc``; ``name`` is what the stack will be called."""
    placed = pieces(montage)
    nm, _ = montage.runs[0].calibration
    counted = Counted()
    with stack.open("wb") as file, mdoc.open("w", encoding="utf-8", newline="\n") as text:
        file.write(bytes(_HEADER_BYTES))
        images = montage.images(progress.step)
        dtype: np.dtype[Any] | None = None
        for index, image in enumerate(_same_type(images)):
            if dtype is None:
                dtype = image.dtype
                text.write(head(montage, placed, name, MODES[dtype.name]))
            file.write(
                np.ascontiguousarray(image[::-1]).astype(image.dtype.newbyteorder("<"), copy=False).data
            )
            text.write(section(montage, placed, index, counted.add(image)))
        assert dtype is not None
        _write_header(file, montage, MODES[dtype.name], nm, counted)


def _same_type(images: Iterator[npt.NDArray[Any]]) -> Iterator[npt.NDArray[Any]]:
    dtype = None
    for image in images:
        dtype = dtype or image.dtype
        if image.dtype != dtype:
            raise ConfigurationError(f"frames are {dtype} and {image.dtype}: a stack has one type of counts")
        yield image


def _write_header(file: BinaryIO, montage: Montage, mode: int, nm: float, counted: Counted) -> None:
    from mrcfile.dtypes import HEADER_DTYPE

    (width, height), count, angstrom = montage.size_px, len(montage), nm * 10
    made = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
    made["nx"], made["ny"], made["nz"] = made["mx"], made["my"], made["mz"] = width, height, count
    made["mode"] = mode
    made["cella"] = width * angstrom, height * angstrom, count * angstrom
    made["cellb"] = 90, 90, 90
    made["mapc"], made["mapr"], made["maps"] = 1, 2, 3
    made["dmin"], made["dmax"], made["dmean"], made["rms"] = (
        counted.low, counted.high, counted.mean, counted.std,
    )  # fmt: skip
    made["nversion"] = 20140
    made["extra2"] = np.void(_imod())
    made["map"], made["machst"] = b"MAP ", (0x44, 0x44, 0, 0)
    made["nlabl"] = 1
    made["label"][0] = f"{_LABEL} {montage.montage_id} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}".encode()[:80]
    file.seek(0)
    file.write(made.tobytes())


def _imod() -> bytes:
    """Return words 28 to 48 of the header with IMOD's stamp and flags (unsigned bytes) in 38 and 39."""
    words = np.zeros(21, "<i4")
    words[10:12] = _IMOD_STAMP, _IMOD_UNSIGNED
    return words.tobytes()
