"""The cells of a patch of neuropil: where they lie, what they are, and what they hold.

Profiles are the regions of an additively weighted Voronoi diagram with an elliptic distance of each cell's
own, on a torus: large dendrites, boutons and a crowd of thin axons, with curved common borders and no gaps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sim.jit import inlined, kernel

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

DENDRITE: Final = 0
AXON: Final = 1
BOUTON: Final = 2
GLIA: Final = 3
MYELIN: Final = 4

BLOCK_PX: Final = 32
CANDIDATES: Final = 12

_CLASSES: Final = ((520.0, 820.0, 0.10), (260.0, 430.0, 0.26), (120.0, 220.0, 0.30), (50.0, 100.0, 0.34))
"""Radii (nm) of the profiles and the share of the area that each class is tried for."""


@dataclass(frozen=True)
class Cells:
    """Cells and mitochondria of a torus of ``side_nm``.

    ``geometry`` (cell, 6): x, y, radius (nm), and the metric [xx, xy, yy]; ``kind`` (cell,); ``grey`` (cell,)
    of the cytoplasm, 0 to 1; ``axis`` (cell, 2) unit vector along the cell and how elongated it is in
    ``stretch`` (cell,). ``mitochondria`` (organelle, 6): x, y, half-length vector, radius (nm), owner.
    """

    side_nm: float
    geometry: Floats
    kind: Ints
    grey: Floats
    axis: Floats
    stretch: Floats
    mitochondria: Floats


def grow(rng: np.random.Generator, side_nm: float) -> Cells:
    """Return the cells of a torus, a function of the random generator's state."""
    x, y, radius = _throw(rng, side_nm)
    count = len(x)
    stretch = np.clip(1.0 + rng.gamma(1.6, 0.42, count), 1.0, 3.6)
    angle = rng.uniform(0, np.pi, count)
    cos, sin = np.cos(angle), np.sin(angle)
    along, across = 1.0 / stretch, np.sqrt(stretch)
    geometry = np.stack(
        [
            x,
            y,
            radius,
            along * cos**2 + across * sin**2,
            (along - across) * cos * sin,
            along * sin**2 + across * cos**2,
        ],
        axis=1,
    )
    kind = _kinds(rng, radius)
    grey = _greys(rng, kind)
    axis = np.stack([cos, sin], axis=1)
    mitochondria = _mitochondria(rng, geometry, kind, axis, stretch)
    return Cells(
        side_nm,
        geometry.astype(np.float32),
        kind,
        grey.astype(np.float32),
        axis.astype(np.float32),
        stretch.astype(np.float32),
        mitochondria.astype(np.float32),
    )


def _throw(rng: np.random.Generator, side_nm: float) -> tuple[npt.NDArray[np.float64], ...]:
    """Throw discs of falling size onto the torus; one that lands too near another is taken away."""
    xs, ys, radii = np.empty(0), np.empty(0), np.empty(0)
    for low, high, share in _CLASSES:
        mean = 0.5 * (low + high)
        for _ in range(int(2.2 * share * side_nm**2 / (np.pi * mean**2))):
            x, y, radius = rng.uniform(0, side_nm), rng.uniform(0, side_nm), rng.uniform(low, high)
            dx = np.abs(xs - x)
            dy = np.abs(ys - y)
            gap = np.hypot(np.minimum(dx, side_nm - dx), np.minimum(dy, side_nm - dy))
            if np.all(gap > 0.86 * (radii + radius)):
                xs, ys, radii = np.append(xs, x), np.append(ys, y), np.append(radii, radius)
    return xs, ys, radii


def _kinds(rng: np.random.Generator, radius: npt.NDArray[np.float64]) -> Ints:
    chance = rng.uniform(size=radius.size)
    kind = np.full(radius.size, AXON, np.int32)
    kind[radius > 240] = np.where(chance[radius > 240] < 0.55, BOUTON, DENDRITE)
    kind[(radius > 240) & (chance > 0.9)] = GLIA
    large = radius > 500
    kind[large] = np.where(chance[large] < 0.16, MYELIN, np.where(chance[large] > 0.88, GLIA, DENDRITE))
    kind[(radius <= 240) & (chance > 0.92)] = GLIA
    return kind


def _greys(rng: np.random.Generator, kind: Ints) -> npt.NDArray[np.float64]:
    middle = np.array([0.71, 0.66, 0.62, 0.77, 0.72])[kind]
    grey = middle + rng.normal(0, 0.035, kind.size)
    dark = rng.uniform(size=kind.size) < 0.035
    return np.clip(np.where(dark, grey - 0.16, grey), 0.3, 0.86)


def _mitochondria(
    rng: np.random.Generator,
    geometry: npt.NDArray[np.float64],
    kind: Ints,
    axis: npt.NDArray[np.float64],
    stretch: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    found: list[tuple[float, float, float, float, float, int]] = []
    for cell in range(len(kind)):
        radius = geometry[cell, 2]
        if radius < 130 or (radius < 240 and rng.uniform() > 0.3):
            continue
        for _ in range(rng.poisson(1.0 if radius < 500 else 2.4)):
            around = rng.uniform(0, 2 * np.pi)
            off = radius * rng.uniform(0.1, 0.75)
            thick = min(rng.uniform(105, 190), 0.62 * radius)
            half = rng.uniform(0.0, 1.0) ** 2 * 330 * (1.0 if stretch[cell] > 1.5 else 0.5)
            turn = np.arctan2(axis[cell, 1], axis[cell, 0]) + rng.normal(0, 0.3)
            x = geometry[cell, 0] + off * np.cos(around)
            y = geometry[cell, 1] + off * np.sin(around)
            apart = [
                np.hypot(x - o[0], y - o[1]) > 1.1 * (thick + o[4]) + half for o in found if o[5] == cell
            ]
            if all(apart):
                found.append((x, y, half * np.cos(turn), half * np.sin(turn), thick, cell))
    return np.array(found).reshape(-1, 6)


@inlined
def wrapped(delta: float, side: float) -> float:
    """Return a difference of coordinates on a torus, between -side/2 and side/2."""
    return delta - side * round(delta / side)


@kernel
def near_cells(geometry: Floats, side_nm: float, blocks: int) -> Ints:
    """Return the cells that may reach each block of the texture, (block, block, candidate); -1 is none."""
    out = np.full((blocks, blocks, CANDIDATES), -1, np.int32)
    pitch = side_nm / blocks
    reach = 1.9 * pitch + 60.0
    distance = np.empty(len(geometry), np.float32)
    for by in range(blocks):
        for bx in range(blocks):
            _distances(geometry, side_nm, (bx + 0.5) * pitch, (by + 0.5) * pitch, distance)
            second = 0.0
            for rank in range(CANDIDATES):
                best = np.argmin(distance)
                if rank > 1 and distance[best] > second + reach:
                    break
                out[by, bx, rank] = best
                second = distance[best] if rank == 1 else second
                distance[best] = 1e9
    return out


@kernel
def _distances(geometry: Floats, side_nm: float, x: float, y: float, out: Floats) -> None:
    for cell in range(len(geometry)):
        g = geometry[cell]
        dx, dy = wrapped(x - g[0], side_nm), wrapped(y - g[1], side_nm)
        out[cell] = math.sqrt(g[3] * dx * dx + 2.0 * g[4] * dx * dy + g[5] * dy * dy) - g[2]


@kernel
def near_mitochondria(mitochondria: Floats, side_nm: float, blocks: int) -> Ints:
    """Return for each block up to 4 mitochondria that may reach it, (block, block, 4); -1 is none."""
    out = np.full((blocks, blocks, 4), -1, np.int32)
    pitch = side_nm / blocks
    for by in range(blocks):
        for bx in range(blocks):
            found = 0
            for index in range(len(mitochondria)):
                m = mitochondria[index]
                dx = wrapped((bx + 0.5) * pitch - m[0], side_nm)
                dy = wrapped((by + 0.5) * pitch - m[1], side_nm)
                far = m[4] + pitch + 60.0 + math.sqrt(m[2] * m[2] + m[3] * m[3])
                if dx * dx + dy * dy < far * far and found < 4:
                    out[by, bx, found] = index
                    found += 1
    return out
