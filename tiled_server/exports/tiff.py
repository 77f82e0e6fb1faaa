"""One frame as a plain TIFF, made in memory: what any program reads."""

from __future__ import annotations

import io
from typing import Any

import numpy.typing as npt
import tifffile


def tiff_bytes(image: npt.NDArray[Any], pixel_size_nm: float, about: str = "") -> bytes:
    """Return a TIFF of a frame (y, x), not compressed, with the size of its pixels and a description."""
    file = io.BytesIO()
    tifffile.imwrite(
        file, image, photometric="minisblack", metadata=None, byteorder="<", software="Montango",
        resolution=(1e7 / pixel_size_nm, 1e7 / pixel_size_nm), resolutionunit="CENTIMETER",
        description=about.encode() or None,
    )  # fmt: skip
    return file.getvalue()


def frame_name(row: Any) -> str:
    """Return the name of a frame's file, for a row of a montage's table."""
    return f"row-{int(row['row']):04d}_column-{int(row['column']):04d}_attempt-{int(row['attempt'])}.tif"
