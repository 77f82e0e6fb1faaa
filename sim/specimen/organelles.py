"""The look of what lies inside a profile, as grey values (0 black to 1 empty resin) at a point in nm."""

from __future__ import annotations

import math
from typing import Final

from sim.jit import inlined, kernel
from sim.specimen.cells import BOUTON, DENDRITE, Floats, wrapped
from sim.specimen.noise import hash3, unit

DARK: Final = 0.16
VESICLE_PITCH_NM: Final = 47.0
TUBULE_PITCH_NM: Final = 84.0
SPECK_PITCH_NM: Final = 520.0


@inlined
def line(distance: float, half_width: float) -> float:
    """Return how much of a dark line is seen at this distance from its middle: 1 in it, 0 beyond its edge."""
    t = 1.6 - abs(distance) / half_width
    return min(max(t, 0.0), 1.0)


@inlined
def ink(grey: float, amount: float, dark: float) -> float:
    """Return a grey value with stain on it."""
    return grey + (dark - grey) * amount


@kernel
def mitochondrion(
    m: Floats, side: float, x: float, y: float, wobble: float, border: float, grain: float
) -> tuple[float, float]:
    """Return (depth below the surface in nm, grey) of a mitochondrion; depth < 0 is outside."""
    dx, dy = wrapped(x - m[0], side), wrapped(y - m[1], side)
    half = math.sqrt(m[2] * m[2] + m[3] * m[3]) + 1e-3
    ux, uy = m[2] / half, m[3] / half
    along, across = dx * ux + dy * uy, dy * ux - dx * uy
    end = along - min(max(along, -half), half)
    depth = m[4] + 9.0 * wobble - math.sqrt(end * end + across * across)
    # squeezed by the cell's own membrane, so that it always fits
    depth = min(depth, border - 26.0)
    if depth < 0.0:
        return depth, 0.0
    grey = 0.40 + 0.035 * grain
    if depth > 17.0:
        grey = _crista(grey, along, across, wobble, m)
    grey = ink(grey, 0.55 * line(depth - 11.0, 4.0), 0.66)
    grey = ink(grey, 0.9 * line(depth - 4.0, 4.0), DARK)
    return depth, ink(grey, 0.85 * line(depth - 18.0, 3.5), DARK)


@kernel
def _crista(grey: float, along: float, across: float, wobble: float, m: Floats) -> float:
    pitch = 52.0
    phase = (along * 0.9 + across * 0.45 + 20.0 * wobble) / pitch
    number = math.floor(phase)
    bits = hash3(int(number), int(m[0]), int(m[1]))
    off = (phase - number - 0.5) * pitch
    side = 1.0 if bits & 1 else -1.0
    # a crista grows in from one side and ends somewhere
    if across * side > m[4] * (1.5 * unit(bits, 8) - 0.45):
        return grey
    grey = ink(grey, 0.6 * line(off, 5.0), 0.62)
    return ink(grey, 0.8 * line(abs(off) - 8.0, 3.5), 0.2)


@kernel
def vesicles(grey: float, x: float, y: float, side: float, crowd: float) -> float:
    """Return the grey with synaptic vesicles of 40 nm on it; ``crowd`` (0 to 1) is how many there are."""
    count = int(side / VESICLE_PITCH_NM)
    pitch = side / count
    cx, cy = math.floor(x / pitch), math.floor(y / pitch)
    for j in range(cy - 1, cy + 2):
        for i in range(cx - 1, cx + 2):
            bits = hash3(i % count, j % count, 7)
            if unit(bits, 24) > crowd:
                continue
            dx = x - (i + 0.2 + 0.6 * unit(bits, 0)) * pitch
            dy = y - (j + 0.2 + 0.6 * unit(bits, 8)) * pitch
            radius = 16.0 + 6.0 * unit(bits, 16)
            far = math.sqrt(dx * dx + dy * dy)
            if far < radius - 3.0:
                core = 0.2 if bits & 0x3F00 == 0x100 else 0.74
                grey = ink(grey, 0.75, core)
            grey = ink(grey, 0.8 * line(far - radius, 4.2), 0.24)
    return grey


@kernel
def tubules(grey: float, x: float, y: float, side: float, across: float, lengthwise: bool) -> float:
    """Return the grey with microtubules on it: rings of 24 nm, or pairs of lines where they lie flat."""
    if lengthwise:
        phase = across / TUBULE_PITCH_NM
        off = (phase - math.floor(phase) - 0.5) * TUBULE_PITCH_NM
        keep = 0.35 if hash3(math.floor(phase), 3, 5) & 3 else 0.0
        return ink(grey, keep * line(abs(off) - 10.0, 4.0), 0.3)
    count = int(side / TUBULE_PITCH_NM)
    pitch = side / count
    cx, cy = math.floor(x / pitch), math.floor(y / pitch)
    bits = hash3(cx % count, cy % count, 11)
    if unit(bits, 24) > 0.55:
        return grey
    dx = x - (cx + 0.25 + 0.5 * unit(bits, 0)) * pitch
    dy = y - (cy + 0.25 + 0.5 * unit(bits, 8)) * pitch
    return ink(grey, 0.55 * line(math.sqrt(dx * dx + dy * dy) - 10.0, 4.5), 0.3)


@kernel
def reticulum(grey: float, contour: float, mask: float, border: float) -> float:
    """Return the grey with a cistern of the endoplasmic reticulum along a contour (nm off it)."""
    fade = min(max((mask - 0.25) * 6.0, 0.0), 1.0) * min(max((border - 45.0) / 30.0, 0.0), 1.0)
    if fade <= 0.0:
        return grey
    grey = ink(grey, 0.5 * fade * line(contour, 9.0), 0.82)
    return ink(grey, 0.75 * fade * line(abs(contour) - 13.0, 4.2), 0.25)


@kernel
def specks(grey: float, x: float, y: float, side: float) -> float:
    """Return the grey with rare black grains of precipitated stain on it."""
    count = int(side / SPECK_PITCH_NM)
    pitch = side / count
    cx, cy = math.floor(x / pitch), math.floor(y / pitch)
    bits = hash3(cx % count, cy % count, 23)
    if bits & 0xF:
        return grey
    dx = x - (cx + 0.2 + 0.6 * unit(bits, 8)) * pitch
    dy = y - (cy + 0.2 + 0.6 * unit(bits, 16)) * pitch
    radius = 5.0 + 16.0 * unit(bits, 24) ** 2
    return ink(grey, line(math.sqrt(dx * dx + dy * dy), radius), 0.06)


@kernel
def synapse(grey: float, own: int, other: int, pair: int, off: float, border: float, grain: float) -> float:
    """Return the grey with a synaptic density on it, ``off`` nm away from the synapse's middle."""
    if pair % 100 > 55 or (own == BOUTON) == (other == BOUTON):
        return grey
    length = 90.0 + (pair >> 8) % 110
    fade = min(max((length - off) / 40.0, 0.0), 1.0)
    if own == BOUTON:
        return ink(grey, 0.5 * fade * line(border - 8.0, 9.0), 0.2)
    thick = 34.0 if own == DENDRITE else 26.0
    return ink(grey, fade * min(max((thick - border) / 14.0, 0.0), 1.0) * (0.85 + 0.1 * grain), 0.2)
