"""What spoils a frame by a fault: dirt, folds, charge on the specimen, and lines the readout has torn."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from sim.exposure import Shot
from sim.jit import kernel

Floats = npt.NDArray[np.float32]
CHARGING_BEND_PX = 24.0


def spoil_specimen(image: Floats, shot: Shot) -> None:
    """Lay debris, a fold and charging on the intensity of a frame, ``(y, x)``, in place."""
    rng = np.random.default_rng([shot.index, 77])
    if debris := shot.fault("debris"):
        image *= 1.0 - 0.97 * _lump(rng, image.shape, debris)
    if fold := shot.fault("fold"):
        _fold(image, rng.uniform(0, math.pi), 0.04 + 0.10 * fold, rng.uniform(-0.15, 0.15))
    if charging := shot.fault("charging"):
        image *= _charge(rng, image.shape, charging)


def _rough(rng: np.random.Generator, shape: tuple[int, ...], cells: int) -> Floats:
    """Return a smooth random field of about ``cells`` bumps along a side, rms 1."""
    coarse = rng.standard_normal((cells + 3, cells + 3)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC))


def _lump(rng: np.random.Generator, shape: tuple[int, ...], severity: float) -> Floats:
    """Return how opaque dirt is, 0 to 1: a lump with a rough edge and crumbs around it."""
    v, u = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    x, y = rng.uniform(-0.4, 0.4, 2)
    radius = 0.2 + 0.6 * math.sqrt(severity)
    depth = radius - np.hypot(u - x, (v - y) * 1.3)
    depth += 0.16 * _rough(rng, shape, 5) + 0.06 * _rough(rng, shape, 18) + 0.02 * _rough(rng, shape, 60)
    return np.asarray(np.clip(depth * 14.0, 0, 1), dtype=np.float32)


@kernel
def _fold(image: Floats, angle: float, width: float, offset: float) -> None:
    """Square the transmission along a wavy band, where the section lies on itself twice."""
    height, columns = image.shape
    cos, sin = math.cos(angle), math.sin(angle)
    for v in range(height):
        for u in range(columns):
            x, y = 2.0 * u / columns - 1.0, 2.0 * v / height - 1.0
            along, across = x * cos + y * sin, y * cos - x * sin - offset
            across += 0.05 * math.sin(5.0 * along) + 0.015 * math.sin(17.0 * along + 1.0)
            inner = width * (1.0 + 0.2 * math.sin(7.0 * along)) - abs(across)
            if inner > 0.0:
                t = image[v, u]
                layers = min(1.0, inner * 60.0) * (1.0 + 0.7 * (inner > 0.6 * width))
                image[v, u] = 0.9 * t * max(t, 0.05) ** layers


def _charge(rng: np.random.Generator, shape: tuple[int, ...], severity: float) -> Floats:
    """Return the brightness of a charged specimen: broad patches, and bands along the rows."""
    patches = _rough(rng, shape, 3)
    bands = np.repeat(rng.standard_normal(max(2, shape[0] // 12)), 12)
    bands = np.resize(cv2.GaussianBlur(bands.astype(np.float32), (1, 9), 0), shape[0])[:, None]
    return np.asarray(np.exp(severity * (0.45 * patches + 0.35 * bands)), dtype=np.float32)


def spoil_frame(frame: npt.NDArray[np.uint16], shot: Shot) -> None:
    """Tear lines of a frame, in place: shifted, stale or zero, as a bad link leaves them."""
    severity = shot.fault("corrupted_frame")
    if not severity:
        return
    rng = np.random.default_rng([shot.index, 78])
    height = frame.shape[0]
    lost = max(1, int(0.6 * severity * height))
    first = int(rng.integers(0, height - lost + 1))
    for start in range(first, first + lost, 24):
        band = frame[start : min(start + 24, first + lost)]
        what = rng.integers(0, 3)
        if what == 0:
            band[:] = 0
        elif what == 1:
            band[:] = np.roll(band, int(rng.integers(1, max(2, frame.shape[1]))), axis=1)
        else:
            band[:] = rng.integers(0, 65536, band.shape, dtype=np.uint16) & np.uint16(int(frame.max()))
