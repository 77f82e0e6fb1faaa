"""A micrograph as specimen: its centre at stage (0, 0), mirrored or followed by resin beyond its border."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.frame_geometry import BLOCK
from sim.jit import inlined, kernel
from sim.specimen.pyramid import Grey, Pyramid

Floats = npt.NDArray[np.float32]
BLACK = 0.12
WHITE = 0.95
"""Transmission of the darkest and the brightest of a micrograph."""


def to_grey(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return an image of any type as uint8, its 0.05 and 99.95 percentiles at 0 and 255."""
    sparse = image[:: max(1, image.shape[0] // 1024), :: max(1, image.shape[1] // 1024)]
    low, high = np.percentile(sparse, [0.05, 99.95])
    if high <= low:
        high = low + 1.0
    scaled = (image.astype(np.float32) - np.float32(low)) * np.float32(255.0 / (high - low))
    return np.asarray(np.clip(scaled + 0.5, 0, 255), dtype=np.uint8)


class Micrograph:
    """An image on the stage; columns grow with +x and rows with +y."""

    def __init__(self, image: npt.NDArray[Any], pixel_size_nm: float, border: str) -> None:
        self._pyramid = Pyramid.of(to_grey(image), pixel_size_nm)
        self._mirror = border == "mirror"

    def sample(
        self, grid: npt.NDArray[np.float64], illumination: Floats, pixel_nm: float, out: Floats
    ) -> None:
        """Fill ``out`` (y, x) with the transmitted intensity; see `sim.specimen.tissue.Tissue.sample`."""
        image, texel_nm = self._pyramid.for_pixel(pixel_nm)
        _sample(grid, illumination, image, texel_nm, self._mirror, out)


@inlined
def _mirrored(index: int, size: int) -> int:
    index = index % (2 * size)
    return index if index < size else 2 * size - 1 - index


@kernel
def _outside(image: npt.NDArray[np.uint8], u: float, v: float, mirror: bool) -> float:
    height, width = image.shape
    iu, iv = math.floor(u), math.floor(v)
    if not mirror and not (0 <= iu < width - 1 and 0 <= iv < height - 1):
        return 255.0
    u0, u1 = _mirrored(iu, width), _mirrored(iu + 1, width)
    v0, v1 = _mirrored(iv, height), _mirrored(iv + 1, height)
    du, dv = u - iu, v - iv
    top = float(image[v0, u0]) * (1 - du) + float(image[v0, u1]) * du
    bottom = float(image[v1, u0]) * (1 - du) + float(image[v1, u1]) * du
    return top * (1 - dv) + bottom * dv


@kernel
def _sample(
    grid: npt.NDArray[np.float64],
    light: Floats,
    image: npt.NDArray[np.uint8],
    texel: float,
    mirror: bool,
    out: Floats,
) -> None:
    height, width = image.shape
    for j in range(grid.shape[1] - 1):
        for i in range(grid.shape[2] - 1):
            u = grid[0, j : j + 2, i : i + 2] / texel + 0.5 * (width - 1)
            v = grid[1, j : j + 2, i : i + 2] / texel + 0.5 * (height - 1)
            if mirror:
                _unfold(u, width)
                _unfold(v, height)
            beam = light[j : j + 2, i : i + 2]
            block = out[j * BLOCK : (j + 1) * BLOCK, i * BLOCK : (i + 1) * BLOCK]
            left, top = math.floor(u.min()), math.floor(v.min())
            if left >= 1 and top >= 1 and u.max() < width - 2 and v.max() < height - 2:
                _inner_block(u - left, v - top, beam, image[top:, left:], block)
            else:
                _edge_block(u, v, beam, image, mirror, block)


@kernel
def _unfold(u: npt.NDArray[np.float64], size: int) -> None:
    """Bring a block's coordinates into the image if they lie within one of its mirror images."""
    first, last = math.floor((u.min() + 0.5) / size), math.floor((u.max() + 0.5) / size)
    if first != last:
        return
    if first % 2 == 0:
        u -= first * size
    else:
        u[:] = (first + 1) * size - 1 - u


@kernel
def _inner_block(
    u: npt.NDArray[np.float64], v: npt.NDArray[np.float64], light: Floats, image: Grey, out: Floats
) -> None:
    """Fill a block that lies within the image; coordinates in 1/65536 texel."""
    part, one = np.float32(1.0 / 65536.0), np.uint64(1)
    low, scale = np.float32(BLACK), np.float32((WHITE - BLACK) / 255.0)
    for r in range(out.shape[0]):
        t = r / BLOCK
        u0, v0 = u[0, 0] + (u[1, 0] - u[0, 0]) * t, v[0, 0] + (v[1, 0] - v[0, 0]) * t
        du = np.int32((u[0, 1] + (u[1, 1] - u[0, 1]) * t - u0) * (65536.0 / BLOCK))
        dv = np.int32((v[0, 1] + (v[1, 1] - v[0, 1]) * t - v0) * (65536.0 / BLOCK))
        bright = light[0, 0] + (light[1, 0] - light[0, 0]) * t
        step = np.float32((light[0, 1] + (light[1, 1] - light[0, 1]) * t - bright) / BLOCK)
        first_u, first_v, bright = np.int32(u0 * 65536.0), np.int32(v0 * 65536.0), np.float32(bright)
        row = out[r]
        for c in range(out.shape[1]):
            uu, vv = first_u + np.int32(c) * du, first_v + np.int32(c) * dv
            iu, iv = np.uint64(uu >> 16), np.uint64(vv >> 16)
            fu, fv = np.float32(uu & 0xFFFF) * part, np.float32(vv & 0xFFFF) * part
            top, bottom = np.float32(image[iv, iu]), np.float32(image[iv + one, iu])
            top += (np.float32(image[iv, iu + one]) - top) * fu
            bottom += (np.float32(image[iv + one, iu + one]) - bottom) * fu
            grey = low + scale * (top + (bottom - top) * fv)
            row[c] = grey * (bright + np.float32(c) * step)


@kernel
def _edge_block(
    u: npt.NDArray[np.float64],
    v: npt.NDArray[np.float64],
    light: Floats,
    image: Grey,
    mirror: bool,
    out: Floats,
) -> None:
    """Fill a block on the border of the image or beyond it."""
    scale = (WHITE - BLACK) / 255.0
    for r in range(out.shape[0]):
        t = r / BLOCK
        u0, v0 = u[0, 0] + (u[1, 0] - u[0, 0]) * t, v[0, 0] + (v[1, 0] - v[0, 0]) * t
        du = (u[0, 1] + (u[1, 1] - u[0, 1]) * t - u0) / BLOCK
        dv = (v[0, 1] + (v[1, 1] - v[0, 1]) * t - v0) / BLOCK
        bright = light[0, 0] + (light[1, 0] - light[0, 0]) * t
        step = (light[0, 1] + (light[1, 1] - light[0, 1]) * t - bright) / BLOCK
        for c in range(out.shape[1]):
            grey = _outside(image, u0 + c * du, v0 + c * dv, mirror)
            out[r, c] = (BLACK + scale * grey) * (bright + c * step)
