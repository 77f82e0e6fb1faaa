"""Sums over the spectra of two strips, ring by ring, and the correlation of what they share: compiled.

Spectra are those of `scipy.fft.rfft2`, complex64 (y, x) with ``width`` columns before the transform; a ring
holds the frequencies of about one distance from 0.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from processing.kernels.compiled import compiled

Floats = npt.NDArray[np.float32]
Reals = npt.NDArray[np.float64]
Spectrum = npt.NDArray[np.complex64]
SHELLS: Final = 64
"""Rings, to the corner at 0.707 cycles a pixel."""
PER_CYCLE: Final = SHELLS / math.sqrt(0.5)


@compiled
def add_powers(first: Spectrum, second: Spectrum, width: int, out: Reals) -> None:
    """Add up |first|^2, |second|^2 and the number of frequencies of each ring; every other row is enough."""
    height = first.shape[0]
    for j in range(0, height, 2):
        fy = min(j, height - j) / height
        for i in range(first.shape[1]):
            fx = i / width
            shell = int(math.sqrt(fx * fx + fy * fy) * PER_CYCLE)
            a, b = first[j, i], second[j, i]
            out[0, shell] += a.real * a.real + a.imag * a.imag
            out[1, shell] += b.real * b.real + b.imag * b.imag
            out[2, shell] += 1.0


@compiled
def cross_spectrum(first: Spectrum, second: Spectrum, width: int, weights: Floats, out: Spectrum) -> None:
    """Fill ``out`` with the half whitened, weighted cross spectrum."""
    height = first.shape[0]
    tiny = np.float32(1e-20)
    for j in range(height):
        fy = np.float32(min(j, height - j) / height)
        for i in range(first.shape[1]):
            fx = np.float32(i) / np.float32(width)
            shell = int(math.sqrt(fx * fx + fy * fy) * np.float32(PER_CYCLE))
            a, b = first[j, i], second[j, i]
            re = a.real * b.real + a.imag * b.imag
            im = a.imag * b.real - a.real * b.imag
            w = weights[shell] / math.sqrt(math.sqrt(re * re + im * im + tiny))
            out[j, i] = complex(w * re, w * im)


@compiled
def weigh(spectrum: Spectrum, width: int, gain: Floats, out: Spectrum) -> None:
    """Fill ``out`` with a spectrum times the gain of each ring."""
    height = spectrum.shape[0]
    for j in range(height):
        fy = np.float32(min(j, height - j) / height)
        for i in range(spectrum.shape[1]):
            fx = np.float32(i) / np.float32(width)
            out[j, i] = spectrum[j, i] * gain[int(math.sqrt(fx * fx + fy * fy) * np.float32(PER_CYCLE))]


@compiled
def add_common(
    first: Spectrum, second: Spectrum, shape: tuple[int, int], x: float, y: float, out: Reals
) -> None:
    """Add up the aligned cross spectrum of each ring, in every other row."""
    height, width = shape
    step = complex(math.cos(2 * math.pi * x / width), math.sin(2 * math.pi * x / width))
    for j in range(0, height, 2):
        ky = j if 2 * j <= height else j - height
        fy = abs(ky) / height
        phase = 2 * math.pi * ky * y / height
        turn = complex(math.cos(phase), math.sin(phase))
        for i in range(first.shape[1]):
            fx = i / width
            shell = int(math.sqrt(fx * fx + fy * fy) * PER_CYCLE)
            a, b = first[j, i], second[j, i]
            re = a.real * b.real + a.imag * b.imag
            im = a.imag * b.real - a.real * b.imag
            out[shell] += re * turn.real - im * turn.imag
            turn *= step


@compiled
def shared_ncc(first: Floats, second: Floats, x: int, y: int) -> float:
    """Return the normalised correlation of what two images share when the second begins at (x, y)."""
    y0, y1 = max(0, y), min(first.shape[0], y + second.shape[0])
    x0, x1 = max(0, x), min(first.shape[1], x + second.shape[1])
    n, sa, sb, saa, sbb, sab = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(y0, y1):
        ra, rb = first[j], second[j - y]
        ta, tb = np.float32(0), np.float32(0)
        taa, tbb, tab = np.float32(0), np.float32(0), np.float32(0)
        for i in range(x0, x1):
            a, b = ra[i], rb[i - x]
            ta += a
            tb += b
            taa += a * a
            tbb += b * b
            tab += a * b
        sa += float(ta)
        sb += float(tb)
        saa += float(taa)
        sbb += float(tbb)
        sab += float(tab)
        n += x1 - x0
    if n < 2:
        return 0.0
    va, vb = saa - sa * sa / n, sbb - sb * sb / n
    return (sab - sa * sb / n) / math.sqrt(max(va * vb, 1e-30))
