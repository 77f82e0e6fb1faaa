"""Images of files as they are stored: what they are, whether they are whole, parts of them.

`FrameFile.read` gives what stitching computes with; here the numbers keep the type that the file has.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from processing.stitching.frame_files import PICTURES, STACKS, TIFFS, FrameError, FrameFile, explained

_KEPT: Final = 8
_MRC_HEADER: Final = 1024
_WHOLE: Final = slice(None)
_PNG: Final = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Stored:
    """What an image is.

    Attributes
    ----------
    shape
        Height and width, px.
    dtype
        Type of its numbers, little-endian as they are served.
    damage
        Why its pixels cannot all be had; empty: they lie within the file.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    damage: str = ""


def stored(frame: FrameFile) -> Stored:
    """Return what an image is, from the head of its file. A picture (PNG, JPEG) is read to see it is whole.

    Raises
    ------
    FrameError
        The file is not there, is no image, or has no such page.
    """
    with explained(frame.path):
        suffix = frame.path.suffix.lower()
        if suffix in STACKS:
            return _stored_mrc(frame)
        if suffix in TIFFS:
            return _stored_tiff(frame)
        if suffix in PICTURES:
            return _stored_picture(frame)
    raise FrameError(f"{frame.path} is of no kind that stays where it is: MRC, TIFF, PNG, JPEG, BMP")


def part(frame: FrameFile, rows: slice = _WHOLE, columns: slice = _WHOLE) -> npt.NDArray[Any]:
    """Return a part of an image, row 0 at the top; of MRC and plain TIFF nothing else is read.

    Raises
    ------
    FrameError
        It cannot be read.
    """
    with explained(frame.path):
        suffix = frame.path.suffix.lower()
        if suffix in STACKS:
            return _mapped_mrc(frame)[rows, columns]
        stamp = frame.stamp()
        if suffix in TIFFS and (place := _plain_tiff(frame, stamp)) is not None:
            offset, shape, dtype = place
            return np.memmap(frame.path, dtype, "r", offset, shape)[rows, columns]
        return _decoded(frame, stamp)[rows, columns]


@functools.lru_cache(maxsize=64)
def _mrc_head(path: Path, _: tuple[int, ...]) -> tuple[int, int, int, np.dtype[Any], int]:
    """Return images, height, width, type and where the pixels of an MRC file begin."""
    import mrcfile
    from mrcfile.utils import data_dtype_from_header

    with mrcfile.open(path, mode="r", permissive=True, header_only=True) as file:
        head = file.header
        dtype = data_dtype_from_header(head)
        return int(head.nz), int(head.ny), int(head.nx), dtype, _MRC_HEADER + int(head.nsymbt)


def _stored_mrc(frame: FrameFile) -> Stored:
    count, height, width, dtype, start = _mrc_head(frame.path, frame.stamp())
    if dtype.kind not in "uif":
        raise FrameError(f"{frame.path} has pixels of type {dtype}, which are no counts")
    if not 0 <= frame.page < max(count, 1):
        raise FrameError(f"{frame.path} has {count} images, and image {frame.page} is asked for")
    end, size = start + (frame.page + 1) * height * width * dtype.itemsize, frame.path.stat().st_size
    damage = f"the file ends at byte {size}, and image {frame.page} at {end}" if size < end else ""
    return Stored((height, width), dtype.newbyteorder("<"), damage)


def _mapped_mrc(frame: FrameFile) -> npt.NDArray[Any]:
    _, height, width, dtype, start = _mrc_head(frame.path, frame.stamp())
    offset = start + frame.page * height * width * dtype.itemsize
    # rows of MRC begin at the bottom
    return np.memmap(frame.path, dtype, "r", offset, (height, width))[::-1]


def _stored_tiff(frame: FrameFile) -> Stored:
    import tifffile

    with tifffile.TiffFile(frame.path) as file:
        page: Any = file.pages[frame.page]
        shape, dtype = tuple(page.shape), np.dtype(page.dtype)
        end = max(at + count for at, count in zip(page.dataoffsets, page.databytecounts, strict=True))
    size = frame.path.stat().st_size
    damage = f"the file ends at byte {size}, and its page {frame.page} at {end}" if size < end else ""
    return Stored(_flat(frame, shape), _grey(dtype), damage)


@functools.lru_cache(maxsize=4096)
def _plain_tiff(frame: FrameFile, _: tuple[int, ...]) -> tuple[int, tuple[int, int], np.dtype[Any]] | None:
    """Return offset, shape and type of a page that lies in the file as it is; None: it does not."""
    import tifffile

    with tifffile.TiffFile(frame.path) as file:
        page: Any = file.pages[frame.page]
        if not page.is_memmappable or len(page.shape) != 2:
            return None
        dtype = np.dtype(page.dtype).newbyteorder(file.byteorder)
        return int(page.dataoffsets[0]), (int(page.shape[0]), int(page.shape[1])), dtype


def _stored_picture(frame: FrameFile) -> Stored:
    import PIL.Image

    with PIL.Image.open(frame.path) as image:
        width, height = image.size
        deep = image.mode.startswith("I") or _png_bits(frame.path) == 16
        dtype = np.dtype("<u2") if deep else np.dtype("u1")
        damage = ""
        try:
            image.load()
        except OSError as error:
            damage = f"it is damaged: {error}"
    return Stored((height, width), dtype, damage)


def _png_bits(path: Path) -> int | None:
    """Return the bits of a number of a PNG; None: it is none."""
    with path.open("rb") as file:
        head = file.read(25)
    return head[24] if head.startswith(_PNG) and len(head) == 25 else None


def _flat(frame: FrameFile, shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) == 2 or (len(shape) == 3 and shape[-1] in (3, 4)):
        return int(shape[0]), int(shape[1])
    raise FrameError(f"{frame.path} has pages of shape {shape}, which are no images (y, x)")


def _grey(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind not in "uif":
        raise FrameError(f"pixels of type {dtype} are no counts")
    return dtype.newbyteorder("<")


@functools.lru_cache(maxsize=_KEPT)
def _decoded(frame: FrameFile, _: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return an image that must be decoded whole; the last few are kept, for they are asked for in parts."""
    if frame.path.suffix.lower() in TIFFS:
        import tifffile

        with tifffile.TiffFile(frame.path) as file:
            image = np.asarray(file.pages[frame.page].asarray())
    else:
        data = np.frombuffer(frame.path.read_bytes(), np.uint8)
        found = cv2.imdecode(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_GRAYSCALE) if len(data) else None
        if found is None:
            raise FrameError(f"{frame.path} is no image, or damaged")
        image = np.asarray(found)
    if image.ndim == 3:
        image = cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_RGB2GRAY)
    image.setflags(write=False)
    return image
