"""Smooth random fields on a torus, and cheap random numbers from coordinates."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from sim.jit import inlined, kernel

F32 = np.float32


def smooth_field(rng: np.random.Generator, side_px: int, correlation_px: float) -> npt.NDArray[np.float32]:
    """Return a Gaussian random field, ``(side, side)`` float32, mean 0, rms 1, that continues at its edges.

    ``correlation_px`` is the standard deviation of the blur that makes it.
    """
    spectrum = np.fft.rfft2(rng.standard_normal((side_px, side_px)))
    ky = np.fft.fftfreq(side_px)[:, None]
    kx = np.fft.rfftfreq(side_px)[None, :]
    spectrum *= np.exp(-2.0 * (np.pi * correlation_px) ** 2 * (kx**2 + ky**2))
    spectrum[0, 0] = 0.0
    field = np.fft.irfft2(spectrum, s=(side_px, side_px))
    return np.asarray(field / field.std(), dtype=F32)


@inlined
def hash3(a: int, b: int, c: int) -> int:
    """Return 32 random bits that depend on three integers."""
    h = (a * 0x9E3779B1) ^ (b * 0x85EBCA77) ^ (c * 0xC2B2AE3D)
    h &= 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 0x2C1B3C6D) & 0xFFFFFFFF
    h = ((h ^ (h >> 12)) * 0x297A2D39) & 0xFFFFFFFF
    return h ^ (h >> 15)


@inlined
def unit(bits: int, shift: int) -> float:
    """Return a number from 0 to 1 out of 8 of the bits of a hash, from ``shift`` on."""
    return ((bits >> shift) & 0xFF) * (1.0 / 255.0)


@kernel
def bilinear(table: npt.NDArray[np.float32], y: float, x: float) -> float:
    """Return a table of ``2^n`` squared at a point in its pixels, continued at its edges."""
    mask = table.shape[0] - 1
    fy, fx = math.floor(y), math.floor(x)
    iy, ix = int(fy), int(fx)
    dy, dx = y - fy, x - fx
    y0, y1, x0, x1 = iy & mask, (iy + 1) & mask, ix & mask, (ix + 1) & mask
    top = table[y0, x0] + (table[y0, x1] - table[y0, x0]) * dx
    bottom = table[y1, x0] + (table[y1, x1] - table[y1, x0]) * dx
    return float(top + (bottom - top) * dy)
