"""What carries a section: an opaque frame with holes, and the amorphous structure of section and film."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sim.frame_geometry import BLOCK
from sim.jit import inlined, kernel
from sim.sample import ApertureConfig
from sim.specimen.noise import hash3, smooth_field, unit

Floats = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]
_WAVES = 16
"""Waves of the roughest component of an edge around a hole."""
_GRAIN_PX = 2048


class Frame:
    """Opaque frame around the holes of a substrate; lengths in nm."""

    def __init__(self, aperture: ApertureConfig, seed: int) -> None:
        pitch = aperture.pitch_um or (0.0, 0.0)
        turn = math.radians(aperture.rotation_deg)
        self._shape = np.array(
            [
                *(1e3 * length for length in aperture.half_um),
                1e3 * aperture.corner_um,
                *(1e3 * length for length in pitch),
                *(1e3 * length for length in aperture.centre_um),
                math.cos(turn),
                math.sin(turn),
                1e3 * aperture.roughness_um,
            ]
        )
        self._seed = seed

    def cover(self, grid: Points, pixel_nm: float, image: Floats) -> None:
        """Blacken what lies under the frame; ``grid`` as in `Outlines.cut`, ``image`` (y, x) in place."""
        _cover(self._shape, self._seed, grid, pixel_nm, image)

    def depth_um(self, x_um: float, y_um: float) -> float:
        """Return how far inside a hole a point of the sample lies, um; negative under the frame."""
        return 1e-3 * float(_depth(self._shape, self._seed, 1e3 * x_um, 1e3 * y_um))


def hole_centres_um(
    aperture: ApertureConfig, x_um: tuple[float, float], y_um: tuple[float, float]
) -> Iterator[tuple[float, float]]:
    """Yield the centres of the holes within a rectangle of the sample, um."""
    cos, sin = (f(math.radians(aperture.rotation_deg)) for f in (math.cos, math.sin))
    pitch, reach = (0.0, 0.0), 0
    if aperture.pitch_um is not None:
        corners = [(x, y) for x in x_um for y in y_um]
        pitch = aperture.pitch_um
        reach = math.ceil(max(math.dist(corner, aperture.centre_um) for corner in corners) / min(pitch))
    for j in range(-reach, reach + 1):
        for i in range(-reach, reach + 1):
            u, v = i * pitch[0], j * pitch[1]
            x = aperture.centre_um[0] + cos * u - sin * v
            y = aperture.centre_um[1] + sin * u + cos * v
            if x_um[0] <= x <= x_um[1] and y_um[0] <= y <= y_um[1]:
                yield x, y


@kernel
def _rough(angle: float, i: int, j: int, seed: int) -> float:
    """Return how far the edge of a hole lies outside its nominal place, rms 1: two and more waves around."""
    total, power = 0.0, 0.0
    for waves in range(2, _WAVES + 1):
        phase = 2.0 * math.pi * unit(hash3(i * 64 + waves, j, seed), 4)
        total += math.cos(waves * angle + phase) / math.sqrt(waves)
        power += 0.5 / waves
    return total / math.sqrt(power)


@kernel
def _depth(shape: Points, seed: int, x: float, y: float) -> float:
    """Return how far inside a hole a point lies, nm; negative under the frame."""
    dx, dy = x - shape[5], y - shape[6]
    u, v = shape[7] * dx + shape[8] * dy, shape[7] * dy - shape[8] * dx
    i = j = 0
    if shape[3] > 0.0:
        i, j = round(u / shape[3]), round(v / shape[4])
        u, v = u - i * shape[3], v - j * shape[4]
    across, along = abs(u) - shape[0] + shape[2], abs(v) - shape[1] + shape[2]
    outer = math.sqrt(max(across, 0.0) ** 2 + max(along, 0.0) ** 2)
    depth = shape[2] - outer - min(max(across, along), 0.0)
    # far from the edge its roughness does not matter
    if shape[9] > 0.0 and abs(depth) < 5.0 * shape[9]:
        depth += shape[9] * _rough(math.atan2(v, u), i, j, seed)
    return float(depth)


@kernel
def _cover(shape: Points, seed: int, grid: Points, pixel: float, image: Floats) -> None:
    for j in range(grid.shape[1] - 1):
        for i in range(grid.shape[2] - 1):
            corners = grid[:, j : j + 2, i : i + 2]
            x, y = 0.5 * (corners[0, 0, 0] + corners[0, 1, 1]), 0.5 * (corners[1, 0, 0] + corners[1, 1, 1])
            reach = 1.2 * math.sqrt((x - corners[0, 0, 0]) ** 2 + (y - corners[1, 0, 0]) ** 2)
            reach += 5.0 * shape[9] + pixel
            depth = _depth(shape, seed, x, y)
            block = image[j * BLOCK : (j + 1) * BLOCK, i * BLOCK : (i + 1) * BLOCK]
            if depth < -reach:
                block[:] = 0.0
            elif depth < reach:
                _cover_block(shape, seed, corners, pixel, block)


@kernel
def _cover_block(shape: Points, seed: int, corners: Points, pixel: float, out: Floats) -> None:
    for r in range(out.shape[0]):
        x0, y0, dx, dy = _row(corners, r)
        for c in range(out.shape[1]):
            depth = _depth(shape, seed, x0 + c * dx, y0 + c * dy)
            out[r, c] *= min(max(0.5 + depth / pixel, 0.0), 1.0)


@inlined
def _row(corners: Points, r: int) -> tuple[float, float, float, float]:
    """Return the first point of a block's row, and the step from point to point."""
    t = r / BLOCK
    x0 = corners[0, 0, 0] + (corners[0, 1, 0] - corners[0, 0, 0]) * t
    y0 = corners[1, 0, 0] + (corners[1, 1, 0] - corners[1, 0, 0]) * t
    dx = (corners[0, 0, 1] + (corners[0, 1, 1] - corners[0, 0, 1]) * t - x0) / BLOCK
    dy = (corners[1, 0, 1] + (corners[1, 1, 1] - corners[1, 0, 1]) * t - y0) / BLOCK
    return x0, y0, dx, dy


class Grain:
    """Amorphous structure: white noise down to a nm, whose contrast falls as the pixels grow."""

    def __init__(self, contrast: float, seed: int) -> None:
        rng = np.random.default_rng([seed, 2718])
        level = (contrast * smooth_field(rng, _GRAIN_PX, 0.4)).astype(np.float32)
        self._levels = [level]
        while len(self._levels) < 5:
            level = 0.25 * (level[::2, ::2] + level[1::2, ::2] + level[::2, 1::2] + level[1::2, 1::2])
            self._levels.append(np.ascontiguousarray(level))
        self._seed = seed

    def add(self, grid: Points, pixel_nm: float, image: Floats) -> None:
        """Lay the structure on an image, ``(y, x)``, in place; ``grid`` as in `Outlines.cut`."""
        level = max(0, math.floor(math.log2(pixel_nm) + 0.25))
        if level < len(self._levels):
            _add(self._levels[level], 2.0**level, self._seed, grid, image)


@kernel
def _add(table: Floats, texel: float, seed: int, grid: Points, image: Floats) -> None:
    side = table.shape[0]
    mask = side - 1
    for j in range(grid.shape[1] - 1):
        for i in range(grid.shape[2] - 1):
            corners = grid[:, j : j + 2, i : i + 2]
            out = image[j * BLOCK : (j + 1) * BLOCK, i * BLOCK : (i + 1) * BLOCK]
            cell_x = cell_y = 1 << 40
            shift_x = shift_y = 0
            for r in range(out.shape[0]):
                x0, y0, dx, dy = _row(corners, r)
                for c in range(out.shape[1]):
                    x, y = (x0 + c * dx) / texel, (y0 + c * dy) / texel
                    fx, fy = math.floor(x), math.floor(y)
                    ix, iy = int(fx), int(fy)
                    if ix // side != cell_x or iy // side != cell_y:
                        # each turn of the torus takes the table elsewhere, so that it nowhere repeats
                        cell_x, cell_y = ix // side, iy // side
                        bits = hash3(cell_x, cell_y, seed)
                        shift_x, shift_y = bits & mask, (bits >> 16) & mask
                    u, v = (ix + shift_x) & mask, (iy + shift_y) & mask
                    u1, v1 = (u + 1) & mask, (v + 1) & mask
                    px, py = np.float32(x - fx), np.float32(y - fy)
                    top = table[v, u] + (table[v, u1] - table[v, u]) * px
                    bottom = table[v1, u] + (table[v1, u1] - table[v1, u]) * px
                    out[r, c] *= np.float32(1.0) + top + (bottom - top) * py


@kernel
def fill(illumination: Floats, transmission: float, image: Floats) -> None:
    """Fill an image with the beam alone, through something of one transmission everywhere."""
    for j in range(illumination.shape[0] - 1):
        for i in range(illumination.shape[1] - 1):
            light = illumination[j : j + 2, i : i + 2]
            out = image[j * BLOCK : (j + 1) * BLOCK, i * BLOCK : (i + 1) * BLOCK]
            for r in range(out.shape[0]):
                t = r / BLOCK
                bright = light[0, 0] + (light[1, 0] - light[0, 0]) * t
                step = (light[0, 1] + (light[1, 1] - light[0, 1]) * t - bright) / BLOCK
                for c in range(out.shape[1]):
                    out[r, c] = transmission * (bright + c * step)
