"""Endless tissue: territories, each with its own cut of the neuropil texture, bordered by membranes.

A territory takes the texture at an angle and offset of its own, so it nowhere repeats visibly, and a
membrane along its border ends the profiles on either side as a neighbouring cell would. A few territories
are blank resin, as in the lumen of a vessel. Everything is a function of place and seed: two frames that
overlap agree.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.frame_geometry import BLOCK
from sim.jit import inlined, kernel
from sim.sample import SpecimenConfig
from sim.specimen.neuropil import cached_texture
from sim.specimen.noise import bilinear, hash3, smooth_field, unit
from sim.specimen.organelles import DARK, ink, line
from sim.specimen.pyramid import Grey, Pyramid

PITCH_NM: Final = 6500.0
WARP_TEXEL_NM: Final = 60.0
SHADE_TEXEL_NM: Final = 400.0
RESIN: Final = 0.93
LINE_NM: Final = 18.0
WALL_NM: Final = 90.0
"""How far from the border of a territory anything is drawn, between profiles and where resin begins, nm."""
NEAR: Final = 5
"""Territories that may meet in one block."""
APART: Final = 0.15
"""Largest reach of a block, in pitches of the territories, within which no more than `NEAR` meet."""

Floats = npt.NDArray[np.float32]
Cells = npt.NDArray[np.float64]


class Fields(NamedTuple):
    """What tissue is made of at one resolution: a level of the texture (texels in nm), random fields."""

    texture: Grey
    texel: float
    warp: Floats
    shade: Floats
    grain: Floats
    seed: int
    resin: float


class Tissue:
    """Stained tissue; ``seed`` and the description make the same specimen everywhere.

    Painting a texture takes seconds, so that several samples may share that of ``texture_seed``: their
    territories are cut from other places of it.
    """

    def __init__(self, seed: int, specimen: SpecimenConfig, texture_seed: int | None = None) -> None:
        texture_seed = seed if texture_seed is None else texture_seed
        texture = cached_texture(texture_seed, specimen.texture_px, specimen.texel_size_nm)
        self._pyramid = Pyramid.of(texture, specimen.texel_size_nm)
        self._seed = seed
        self._resin = specimen.resin_fraction
        rng = np.random.default_rng([seed, 815])
        self._warp = np.stack(
            [
                420.0 * smooth_field(rng, 512, 14.0) + 45.0 * smooth_field(rng, 512, 2.5),
                420.0 * smooth_field(rng, 512, 14.0) + 45.0 * smooth_field(rng, 512, 2.5),
            ]
        )
        self._shade = 0.035 * smooth_field(rng, 256, 12.0) + 0.02 * smooth_field(rng, 256, 3.0)
        self._grain = smooth_field(rng, 512, 1.5)

    def sample(
        self, grid: npt.NDArray[np.float64], illumination: Floats, pixel_nm: float, out: Floats
    ) -> None:
        """Fill ``out`` (y, x) with the transmitted intensity.

        ``grid`` (2, rows + 1, columns + 1) holds the specimen points (nm) of the blocks' corners, as
        ``illumination`` (rows + 1, columns + 1) the beam there.
        """
        texture, texel_nm = self._pyramid.for_pixel(pixel_nm)
        fields = Fields(texture, texel_nm, self._warp, self._shade, self._grain, self._seed, self._resin)
        _sample(fields, grid, illumination, out)


@kernel
def _gather(fields: Fields, x: float, y: float, near: Cells) -> float:
    """Fill ``near`` with the territories around a point, nearest first; return how far the border is, nm.

    A territory is its seed point (nm), 1 if it is resin, and the cosine, sine and offset (texels) of its cut
    of the texture.
    """
    side = float(fields.texture.shape[0])
    wx, wy = _warped(x, y, fields.warp)
    cx, cy = math.floor(wx / PITCH_NM), math.floor(wy / PITCH_NM)
    distance = np.full(NEAR + 1, 1e15)
    for j in range(cy - 1, cy + 2):
        for i in range(cx - 1, cx + 2):
            bits = hash3(i, j, fields.seed)
            sx = (i + 0.1 + 0.8 * unit(bits, 0)) * PITCH_NM
            sy = (j + 0.1 + 0.8 * unit(bits, 8)) * PITCH_NM
            d = (sx - wx) ** 2 + (sy - wy) ** 2
            at = NEAR
            while at > 0 and d < distance[at - 1]:
                distance[at] = distance[at - 1]
                if at < NEAR:
                    near[at] = near[at - 1]
                at -= 1
            if at < NEAR:
                distance[at] = d
                angle = 2.0 * math.pi * unit(bits, 12)
                more = hash3(bits & 0xFFFF, bits >> 16, 99)
                near[at, 0], near[at, 1], near[at, 2] = sx, sy, unit(bits, 16) < fields.resin
                near[at, 3], near[at, 4] = math.cos(angle), math.sin(angle)
                near[at, 5], near[at, 6] = side * unit(more, 0), side * unit(more, 8)
    between = math.sqrt((near[1, 0] - near[0, 0]) ** 2 + (near[1, 1] - near[0, 1]) ** 2)
    return float(0.5 * (distance[1] - distance[0]) / between)


@inlined
def _warped(x: float, y: float, warp: Floats) -> tuple[float, float]:
    """Return a point moved, so that borders of territories are no straight lines."""
    v, u = y / WARP_TEXEL_NM, x / WARP_TEXEL_NM
    return x + bilinear(warp[0], v, u), y + bilinear(warp[1], v, u)


@kernel
def _nearest(x: float, y: float, warp: Floats, near: Cells) -> tuple[int, int, float]:
    """Return the territory at a point, its neighbour (places in ``near``) and the distance to the border."""
    wx, wy = _warped(x, y, warp)
    d1 = d2 = 1e15
    own = other = 0
    for k in range(NEAR):
        d = (near[k, 0] - wx) ** 2 + (near[k, 1] - wy) ** 2
        if d < d1:
            d2, other = d1, own
            d1, own = d, k
        elif d < d2:
            d2, other = d, k
    between = math.sqrt((near[other, 0] - near[own, 0]) ** 2 + (near[other, 1] - near[own, 1]) ** 2)
    return own, other, 0.5 * (d2 - d1) / between


@kernel
def _sample(fields: Fields, grid: npt.NDArray[np.float64], illumination: Floats, out: Floats) -> None:
    light = np.empty((2, 2), np.float32)
    near = np.empty((NEAR, 7))
    # parts of blocks so small that few territories meet in one: pixels at the lowest magnifications
    block_nm = math.sqrt((grid[0, 0, 1] - grid[0, 0, 0]) ** 2 + (grid[1, 0, 1] - grid[1, 0, 0]) ** 2)
    side = BLOCK
    while side > 1 and 1.6 * 0.71 * block_nm * side / BLOCK > APART * PITCH_NM:
        side //= 2
    part, bright = np.empty((2, 2, 2)), np.empty((2, 2), np.float32)
    for j in range(grid.shape[1] - 1):
        for i in range(grid.shape[2] - 1):
            for b in range(2):
                for a in range(2):
                    x, y = grid[0, j + b, i + a], grid[1, j + b, i + a]
                    slow = bilinear(fields.shade, y / SHADE_TEXEL_NM, x / SHADE_TEXEL_NM)
                    light[b, a] = illumination[j + b, i + a] * (1.0 + slow)
            block = out[j * BLOCK : (j + 1) * BLOCK, i * BLOCK : (i + 1) * BLOCK]
            if light.max() <= 0.0:
                block[:] = 0.0
                continue
            corners = grid[:, j : j + 2, i : i + 2]
            if side == BLOCK:
                _block(fields, corners, light, near, BLOCK, block)
                continue
            for r in range(0, block.shape[0], side):
                for c in range(0, block.shape[1], side):
                    _inner(corners, light, r, c, side, part, bright)
                    _block(fields, part, bright, near, side, block[r : r + side, c : c + side])


@kernel
def _inner(
    corners: npt.NDArray[np.float64],
    light: Floats,
    row: int,
    column: int,
    side: int,
    part: npt.NDArray[np.float64],
    bright: Floats,
) -> None:
    """Put the corners of a part of a block, and the light there, into ``part`` and ``bright``."""
    for b in range(2):
        for a in range(2):
            t, s = (row + b * side) / BLOCK, (column + a * side) / BLOCK
            for axis in range(2):
                top = corners[axis, 0, 0] + (corners[axis, 0, 1] - corners[axis, 0, 0]) * s
                bottom = corners[axis, 1, 0] + (corners[axis, 1, 1] - corners[axis, 1, 0]) * s
                part[axis, b, a] = top + (bottom - top) * t
            upper = light[0, 0] + (light[0, 1] - light[0, 0]) * s
            lower = light[1, 0] + (light[1, 1] - light[1, 0]) * s
            bright[b, a] = upper + (lower - upper) * t


@kernel
def _block(
    fields: Fields, corners: npt.NDArray[np.float64], light: Floats, near: Cells, side: int, out: Floats
) -> None:
    """Fill a square of ``side`` pixels between four points."""
    x, y = 0.5 * (corners[0, 0, 0] + corners[0, 1, 1]), 0.5 * (corners[1, 0, 0] + corners[1, 1, 1])
    reach = 1.6 * math.sqrt((x - corners[0, 0, 0]) ** 2 + (y - corners[1, 0, 0]) ** 2)
    border = _gather(fields, x, y, near)
    drawn = (WALL_NM if near[:, 2].any() else LINE_NM) * max(1.0, fields.texel / 9.0)
    if border > reach + drawn and near[0, 2] == 0.0:
        _cut_block(fields.texture, fields.texel, corners, light, near[0], side, out)
    else:
        _border_block(fields, corners, light, near, border > reach, side, out)


@kernel
def _cut_block(
    texture: Grey,
    texel: float,
    corners: npt.NDArray[np.float64],
    light: Floats,
    cell: npt.NDArray[np.float64],
    block: int,
    out: Floats,
) -> None:
    """Fill a block that lies within one territory; coordinates of the texture in 1/65536 texel."""
    side = texture.shape[0]
    flat = texture.reshape(-1)
    width, mask = np.uint32(side), np.uint32(side - 1)
    one, part = np.uint32(1), np.float32(1.0 / 65536.0)
    uv = np.empty((2, 2, 2))
    for b in range(2):
        for a in range(2):
            x, y = corners[0, b, a] / texel, corners[1, b, a] / texel
            uv[0, b, a] = cell[5] + cell[3] * x - cell[4] * y
            uv[1, b, a] = cell[6] + cell[4] * x + cell[3] * y
    # one turn of the torus up, so that a step back from the corner stays positive
    uv[0] -= (math.floor(uv[0, 0, 0] / side) - 1) * side
    uv[1] -= (math.floor(uv[1, 0, 0] / side) - 1) * side
    for r in range(out.shape[0]):
        t = r / block
        u0 = uv[0, 0, 0] + (uv[0, 1, 0] - uv[0, 0, 0]) * t
        v0 = uv[1, 0, 0] + (uv[1, 1, 0] - uv[1, 0, 0]) * t
        du = np.int32((uv[0, 0, 1] + (uv[0, 1, 1] - uv[0, 0, 1]) * t - u0) * (65536.0 / block))
        dv = np.int32((uv[1, 0, 1] + (uv[1, 1, 1] - uv[1, 0, 1]) * t - v0) * (65536.0 / block))
        bright = light[0, 0] + (light[1, 0] - light[0, 0]) * t
        step = np.float32((light[0, 1] + (light[1, 1] - light[0, 1]) * t - bright) / (block * 255.0))
        bright = np.float32(bright / 255.0)
        u, v = np.int32(u0 * 65536.0), np.int32(v0 * 65536.0)
        row = out[r]
        for c in range(out.shape[1]):
            uu, vv = u + np.int32(c) * du, v + np.int32(c) * dv
            iu, iv = np.uint32(uu >> 16) & mask, np.uint32(vv >> 16) & mask
            ju, first, second = (iu + one) & mask, iv * width, ((iv + one) & mask) * width
            fu, fv = np.float32(uu & 0xFFFF) * part, np.float32(vv & 0xFFFF) * part
            top, bottom = np.float32(flat[np.uint64(first + iu)]), np.float32(flat[np.uint64(second + iu)])
            top += (np.float32(flat[np.uint64(first + ju)]) - top) * fu
            bottom += (np.float32(flat[np.uint64(second + ju)]) - bottom) * fu
            row[c] = (top + (bottom - top) * fv) * (bright + np.float32(c) * step)


@kernel
def _border_block(
    fields: Fields,
    corners: npt.NDArray[np.float64],
    light: Floats,
    near: Cells,
    inner: bool,
    side: int,
    out: Floats,
) -> None:
    """Fill a block with a border of territories or resin in it, pixel by pixel.

    ``inner`` says that no border passes through it.
    """
    empty = inner and near[0, 2] != 0.0
    for r in range(out.shape[0]):
        t = r / side
        x0 = corners[0, 0, 0] + (corners[0, 1, 0] - corners[0, 0, 0]) * t
        y0 = corners[1, 0, 0] + (corners[1, 1, 0] - corners[1, 0, 0]) * t
        dx = (corners[0, 0, 1] + (corners[0, 1, 1] - corners[0, 0, 1]) * t - x0) / side
        dy = (corners[1, 0, 1] + (corners[1, 1, 1] - corners[1, 0, 1]) * t - y0) / side
        bright = light[0, 0] + (light[1, 0] - light[0, 0]) * t
        step = (light[0, 1] + (light[1, 1] - light[0, 1]) * t - bright) / side
        for c in range(out.shape[1]):
            x, y = x0 + c * dx, y0 + c * dy
            grey = _resin(x, y, fields.grain) if empty else _point(fields, x, y, near)
            out[r, c] = grey * (bright + c * step)


@inlined
def _resin(x: float, y: float, grain: Floats) -> float:
    fine = grain[math.floor(y / 6.0) & 511, math.floor(x / 6.0) & 511]
    return RESIN + 0.006 * float(fine) + 0.006 * bilinear(grain, y / 160.0, x / 160.0)


@kernel
def _point(fields: Fields, x: float, y: float, near: Cells) -> float:
    """Return the transmission at a point near a border."""
    own, other, border = _nearest(x, y, fields.warp, near)
    # lines thinner than a texel of a coarse level are drawn broader and fainter
    blur = max(1.0, 0.5 * fields.texel / 4.6)
    if near[own, 2] != 0.0:
        grey = _resin(x, y, fields.grain)
        if near[other, 2] != 0.0:
            return grey
        return ink(grey, 0.9 * line(border - 6.0, 5.0 * blur) / blur, DARK)
    grey = _texel(fields, x, y, near[own])
    if border > WALL_NM * blur:
        return grey
    if near[other, 2] != 0.0:
        # the wall of a vessel: a thin flat cell on a basal lamina
        wall = 0.58 + 0.03 * bilinear(fields.grain, y / 14.0, x / 14.0)
        grey = ink(grey, min(max((80.0 - border) / 4.0, 0.0), 1.0), wall)
        grey = ink(grey, 0.9 * line(border - 80.0, 4.6 * blur) / blur, DARK)
    else:
        grey = ink(grey, 0.8 * line(border, 4.5), 0.72)
    return ink(grey, 0.93 * line(border - 8.0, 4.8 * blur) / blur, DARK)


@kernel
def _texel(fields: Fields, x: float, y: float, cell: npt.NDArray[np.float64]) -> float:
    texture, x, y = fields.texture, x / fields.texel, y / fields.texel
    u = cell[5] + cell[3] * x - cell[4] * y
    v = cell[6] + cell[4] * x + cell[3] * y
    mask = texture.shape[0] - 1
    fu, fv = math.floor(u), math.floor(v)
    du, dv = u - fu, v - fv
    iu, iv = int(fu) & mask, int(fv) & mask
    ju, jv = (iu + 1) & mask, (iv + 1) & mask
    top = float(texture[iv, iu]) * (1.0 - du) + float(texture[iv, ju]) * du
    bottom = float(texture[jv, iu]) * (1.0 - du) + float(texture[jv, ju]) * du
    return float(top * (1.0 - dv) + bottom * dv) * (1.0 / 255.0)
