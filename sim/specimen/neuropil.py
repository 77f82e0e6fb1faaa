"""A patch of stained neuropil on a torus, painted once: the texture that the endless tissue is cut from."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.jit import kernel
from sim.specimen.cells import (
    AXON,
    BLOCK_PX,
    BOUTON,
    GLIA,
    MYELIN,
    Floats,
    Ints,
    grow,
    near_cells,
    near_mitochondria,
    wrapped,
)
from sim.specimen.noise import bilinear, hash3, smooth_field
from sim.specimen.organelles import (
    DARK,
    ink,
    line,
    mitochondrion,
    reticulum,
    specks,
    synapse,
    tubules,
    vesicles,
)

VERSION: Final = 1
COARSE: Final = 8
"""Texels of the texture a pixel of the slow fields."""


class Patch(NamedTuple):
    """What a texture is painted from: cells and mitochondria, which of them reach each block, random fields.

    ``look`` (cell, 4): grey, axis x and y, stretch; ``side`` and ``texel`` in nm.
    """

    side: float
    texel: float
    geometry: Floats
    kind: Ints
    look: Floats
    mitochondria: Floats
    near_cells: Ints
    near_mitochondria: Ints
    fields: Floats
    grain: Floats


WARP_X, WARP_Y, OBLIQUE, CROWD, CONTOUR, WOBBLE, SHADE = range(7)


def cached_texture(seed: int, side_px: int, texel_nm: float) -> npt.NDArray[np.uint8]:
    """Return `paint_texture`, kept between processes in the user's cache (``$XDG_CACHE_HOME/montango``)."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(home) / "montango" / f"neuropil-{VERSION}-{seed}-{side_px}-{texel_nm:g}.npy"
    try:
        texture: npt.NDArray[np.uint8] = np.load(path)
        if texture.shape == (side_px, side_px):
            return texture
    except (OSError, ValueError):
        pass
    texture = paint_texture(seed, side_px, texel_nm)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}.npy")
        np.save(fresh, texture)
        fresh.replace(path)
    except OSError:
        # the cache only saves time
        pass
    return texture


def paint_texture(seed: int, side_px: int, texel_nm: float) -> npt.NDArray[np.uint8]:
    """Return neuropil that continues at its edges, ``(side, side)`` uint8, 255 empty resin and 0 opaque."""
    rng = np.random.default_rng([seed, 4711])
    cells = grow(rng, side_px * texel_nm)
    fields = _slow_fields(rng, side_px // COARSE, texel_nm * COARSE)
    grain = 0.75 * smooth_field(rng, 512, 5.0 / texel_nm) + 0.66 * smooth_field(rng, 512, 14.0 / texel_nm)
    blocks = side_px // BLOCK_PX
    patch = Patch(
        side=cells.side_nm,
        texel=texel_nm,
        geometry=cells.geometry,
        kind=cells.kind,
        look=np.column_stack([cells.grey, cells.axis, cells.stretch]),
        mitochondria=cells.mitochondria,
        near_cells=near_cells(cells.geometry, cells.side_nm, blocks),
        near_mitochondria=near_mitochondria(cells.mitochondria, cells.side_nm, blocks),
        fields=fields,
        grain=grain.astype(np.float32),
    )
    out = np.empty((side_px, side_px), np.uint8)
    threads = os.cpu_count() or 1
    edges = np.linspace(0, side_px, threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(partial(_paint, patch, out), edges[:-1], edges[1:]))
    return out


def _slow_fields(rng: np.random.Generator, side_px: int, pixel_nm: float) -> Floats:
    def field(correlation_nm: float) -> Floats:
        return smooth_field(rng, side_px, correlation_nm / pixel_nm)

    return np.stack(
        [
            60.0 * field(190.0) + 11.0 * field(50.0),
            60.0 * field(190.0) + 11.0 * field(50.0),
            field(160.0),
            field(190.0),
            field(85.0),
            field(55.0),
            field(420.0),
        ]
    )


@kernel
def _paint(patch: Patch, out: npt.NDArray[np.uint8], first_row: int, end_row: int) -> None:
    side_px = out.shape[0]
    for v in range(first_row, end_row):
        for u in range(side_px):
            fv, fu = v / COARSE, u / COARSE
            x = u * patch.texel + bilinear(patch.fields[WARP_X], fv, fu)
            y = v * patch.texel + bilinear(patch.fields[WARP_Y], fv, fu)
            grey = _point(patch, x, y, fv, fu, patch.grain[v & 511, u & 511])
            out[v, u] = int(min(max(grey, 0.02), 1.0) * 255.0)


@kernel
def _point(patch: Patch, x: float, y: float, fv: float, fu: float, fine: float) -> float:
    """Return the grey at a point of the bent plane (nm) that lies at (fv, fu) in the slow fields."""
    blocks = patch.near_cells.shape[0]
    bu = math.floor(x / (BLOCK_PX * patch.texel)) % blocks
    bv = math.floor(y / (BLOCK_PX * patch.texel)) % blocks
    own, other, border = _nearest(x, y, patch.side, patch.geometry, patch.near_cells[bv, bu])
    cell = patch.kind[own]
    grey = patch.look[own, 0] + 0.018 * bilinear(patch.fields[SHADE], fv, fu)
    grey += fine * (0.04 if cell == GLIA else 0.055) - 0.07 * max(0.0, -fine - 1.0)
    if border > 14.0:
        grey = _inside(patch, grey, own, x, y, fv, fu, fine, border, patch.near_mitochondria[bv, bu])
    if border < 60.0:
        off = _from_middle(patch, own, other, x, y)
        pair = hash3(min(own, other), max(own, other), 31)
        grey = synapse(grey, cell, patch.kind[other], pair, off, border, fine)
    grey = _membrane(grey, border, bilinear(patch.fields[OBLIQUE], fv, fu), fine)
    return specks(grey, x, y, patch.side)


@kernel
def _from_middle(patch: Patch, own: int, other: int, x: float, y: float) -> float:
    """Return the distance of a point from the middle between two cells, nm."""
    a, b, side = patch.geometry[own], patch.geometry[other], patch.side
    off_x = wrapped(x - a[0], side) - 0.5 * wrapped(b[0] - a[0], side)
    off_y = wrapped(y - a[1], side) - 0.5 * wrapped(b[1] - a[1], side)
    return math.sqrt(off_x * off_x + off_y * off_y)


@kernel
def _membrane(grey: float, border: float, oblique: float, fine: float) -> float:
    """Two membranes with a cleft between; where they are cut at an angle, a broad grey band."""
    slant = max(0.0, abs(oblique) - 0.9)
    width = 4.6 + 15.0 * slant
    at = 7.5 + 2.5 * min(abs(oblique), 1.0) + 0.3 * width * min(slant, 1.0)
    grey = ink(grey, 0.8 * line(border, at - 3.0), 0.72)
    stain = line(border - at, width) * min(0.97, 0.9 + 0.06 * fine) / (1.0 + 1.3 * slant)
    return ink(grey, stain, DARK)


@kernel
def _nearest(x: float, y: float, side: float, geometry: Floats, near: Ints) -> tuple[int, int, float]:
    """Return the cell at a point, its neighbour, and the distance to their common border in nm."""
    d1 = d2 = 1e9
    own = other = near[0]
    g1x = g1y = g2x = g2y = 0.0
    for rank in range(len(near)):
        index = near[rank]
        if index < 0:
            break
        g = geometry[index]
        dx, dy = wrapped(x - g[0], side), wrapped(y - g[1], side)
        ax, ay = g[3] * dx + g[4] * dy, g[4] * dx + g[5] * dy
        norm = math.sqrt(ax * dx + ay * dy) + 1e-6
        d = norm - g[2]
        if d < d1:
            d2, other, g2x, g2y = d1, own, g1x, g1y
            d1, own, g1x, g1y = d, index, ax / norm, ay / norm
        elif d < d2:
            d2, other, g2x, g2y = d, index, ax / norm, ay / norm
    slope = math.sqrt((g2x - g1x) ** 2 + (g2y - g1y) ** 2)
    return own, other, (d2 - d1) / max(slope, 0.45)


@kernel
def _inside(
    patch: Patch,
    grey: float,
    own: int,
    x: float,
    y: float,
    fv: float,
    fu: float,
    fine: float,
    border: float,
    near: Ints,
) -> float:
    """Return the grey of a cell's inside: myelin, mitochondria, or what its kind holds."""
    cell, side = patch.kind[own], patch.side
    if cell == MYELIN and border < 120.0:
        # lamellae: dark lines 15 nm apart
        phase = border / 15.0
        return ink(0.55, line((phase - math.floor(phase) - 0.5) * 15.0, 4.5), 0.2) + 0.02 * fine
    wobble = bilinear(patch.fields[WOBBLE], fv, fu)
    for rank in range(len(near)):
        index = near[rank]
        if index < 0:
            break
        if int(patch.mitochondria[index, 5]) == own:
            depth, seen = mitochondrion(patch.mitochondria[index], side, x, y, wobble, border, fine)
            if depth > 0.0:
                return seen
            if depth > -14.0:
                return grey
    crowd = bilinear(patch.fields[CROWD], fv, fu)
    if cell == GLIA:
        return ink(grey, min(1.0, 1.2 * max(0.0, fine - 1.1)), 0.35)
    # what is small and round stays round: it is not bent with the cells
    plain_x, plain_y = fu * COARSE * patch.texel, fv * COARSE * patch.texel
    if cell == BOUTON:
        if border > 24.0 and crowd > -0.9:
            return vesicles(grey, plain_x, plain_y, side, min(1.0, 0.55 + 0.5 * crowd))
        return grey
    if cell == AXON and patch.geometry[own, 2] < 100.0:
        return grey
    grey = reticulum(grey, _contour(patch.fields[CONTOUR], fv, fu), crowd, border)
    if border < 40.0:
        return grey
    across = wrapped(y - patch.geometry[own, 1], side) * patch.look[own, 1]
    across -= wrapped(x - patch.geometry[own, 0], side) * patch.look[own, 2]
    return tubules(grey, plain_x, plain_y, side, across, patch.look[own, 3] > 1.9)


@kernel
def _contour(field: Floats, fv: float, fu: float) -> float:
    """Return the distance to the zero line of a field, nm (about)."""
    here = bilinear(field, fv, fu)
    gx = bilinear(field, fv, fu + 1.0) - here
    gy = bilinear(field, fv + 1.0, fu) - here
    return here / (math.sqrt(gx * gx + gy * gy) + 1e-3) * 24.0
