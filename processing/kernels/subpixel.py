"""The last fraction of a pixel between two filtered images: Gauss-Newton on what both show.

The gradient is that of the mean of both images, so that noise pulls to neither side; the Hessian is the
product of the gradients of one and the other, which noise does not swell. The error comes from how much
blocks of the image disagree (a sandwich estimate: White, Econometrica 48 (1980) 817, doi:10.2307/1912934), so
that coloured noise and a shift that varies over the overlap count as they are.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from processing.kernels.compiled import compiled

Floats = npt.NDArray[np.float32]
Reals = npt.NDArray[np.float64]
REACH_PX: Final = 3
"""Of the interpolation, on both sides."""
_LARGEST_BLOCK_PX: Final = 64
_STEPS: Final = 10
_ENOUGH_PX: Final = 2e-3
_LONGEST_STEP_PX: Final = 1.0


class Refined(NamedTuple):
    """The shift ``d`` (``second(p) = first(p + d)``), its covariance (xx, xy, yy), the NCC there."""

    dx_px: float
    dy_px: float
    covariance_px2: tuple[float, float, float]
    ncc: float
    settled: bool


UNSETTLED: Final = Refined(0.0, 0.0, (math.inf, 0.0, math.inf), 0.0, False)


def refine(
    first: Floats,
    second: Floats,
    reach_px: float,
    blocks: int = 24,
    begin_px: tuple[float, float] = (0.0, 0.0),
) -> Refined:
    """Return the shift between two images that lie close to each other.

    Parameters
    ----------
    first, second
        (y, x) float32 of one shape, free of slow variations and of what lies beyond 0.3 cycles a pixel.
    reach_px
        The longest shift that is believed, each axis.
    blocks
        About how many blocks, 8 to 64 px wide, tell the error; 1 where it is not needed.
    begin_px
        Shift (x, y) from which to begin.
    """
    margin = REACH_PX + 1 + math.ceil(reach_px)
    height, width = first.shape[0] - 2 * margin, first.shape[1] - 2 * margin
    if min(height, width) < 4:
        return UNSETTLED
    block = int(min(_LARGEST_BLOCK_PX, max(8.0, math.sqrt(height * width / blocks))))
    out = np.zeros(7)
    out[0], out[1] = begin_px
    _climb(first, second, margin, reach_px, block, out)
    if not out[3]:
        return UNSETTLED._replace(ncc=float(out[2]))
    return Refined(
        float(out[0]), float(out[1]), (float(out[4]), float(out[5]), float(out[6])), float(out[2]), True
    )


@compiled
def _climb(first: Floats, second: Floats, margin: int, reach: float, block: int, out: Reals) -> None:
    """Fill ``out``, where the shift to begin with is: dx, dy, NCC, settled, covariance xx, xy, yy."""
    down = (first.shape[0] - 2 * margin + block - 1) // block
    across = (first.shape[1] - 2 * margin + block - 1) // block
    scores = np.zeros((down, across, 2))
    sums = np.zeros(15)
    light = np.zeros(3)
    dx, dy, det = out[0], out[1], 0.0
    for step in range(_STEPS):
        _sums(first, second, dx, dy, margin, block, light, scores, sums)
        hxx, hxy, hyy = sums[0], sums[1], sums[2]
        det = hxx * hyy - hxy * hxy
        mm, ee = sums[5], sums[14]
        out[2] = (mm - ee / 4) / max(mm + ee / 4, 1e-30)
        if hxx <= 0.0 or hyy <= 0.0 or det <= 1e-6 * hxx * hyy:
            return
        sx = (hyy * sums[3] - hxy * sums[4]) / det
        sy = (hxx * sums[4] - hxy * sums[3]) / det
        longest = max(abs(sx), abs(sy))
        shrink = min(1.0, _LONGEST_STEP_PX / max(longest, 1e-12))
        dx += shrink * sx
        dy += shrink * sy
        if abs(dx) > reach or abs(dy) > reach:
            return
        if step > 0 and longest < _ENOUGH_PX:
            out[3] = 1.0
            break
        if longest < 0.5:
            _balance(sums, light)
    out[0], out[1] = dx, dy
    mxx, mxy, myy = 0.0, 0.0, 0.0
    for j in range(down):
        for i in range(across):
            ux, uy = scores[j, i, 0], scores[j, i, 1]
            mxx += ux * ux
            mxy += ux * uy
            myy += uy * uy
    few = down * across / max(1.0, down * across - 1.0)
    ixx, ixy, iyy = sums[2] / det, -sums[1] / det, sums[0] / det
    out[4] = few * (ixx * ixx * mxx + 2 * ixx * ixy * mxy + ixy * ixy * myy)
    out[5] = few * (ixx * ixy * mxx + (ixx * iyy + ixy * ixy) * mxy + ixy * iyy * myy)
    out[6] = few * (ixy * ixy * mxx + 2 * ixy * iyy * mxy + iyy * iyy * myy)


@compiled
def _balance(sums: Reals, light: Reals) -> None:
    """Add to ``light`` half of what the contrasts still differ by: a constant, along x, along y."""
    a, b, d, c, e, f = sums[5], sums[6], sums[7], sums[8], sums[9], sums[10]
    p, q, r = 0.5 * sums[11], 0.5 * sums[12], 0.5 * sums[13]
    # the symmetric system (a b c; b d e; c e f) by its cofactors
    aa, ab, ac = d * f - e * e, c * e - b * f, b * e - c * d
    bb, bc, cc = a * f - c * c, b * c - a * e, a * d - b * b
    det = a * aa + b * ab + c * ac
    if det <= 1e-9 * a * d * f:
        return
    light[0] += (aa * p + ab * q + ac * r) / det
    light[1] += (ab * p + bb * q + bc * r) / det
    light[2] += (ac * p + bc * q + cc * r) / det
    for n in range(3):
        light[n] = min(0.3, max(-0.3, light[n]))


@compiled
def _lagrange(fraction: float, weights: Floats) -> None:
    """Fill ``weights`` with those of the polynomial through six samples: exact where images are smooth.

    It shifts structure of 0.2 cycles a pixel by 0.002 px at most, slower less (a normalised Lanczos kernel of
    six samples: even the slowest by 0.017).
    """
    for n in range(6):
        value = 1.0
        for m in range(6):
            if m != n:
                value *= (fraction + 2.0 - m) / (n - m)
        weights[n] = value


@compiled
def _down(image: Floats, y: int, x: int, k: Floats, out: Floats) -> None:
    """Fill ``out`` with row ``y`` + fraction, from column ``x`` on."""
    n = out.size
    r0, r1, r2 = image[y - 2, x : x + n], image[y - 1, x : x + n], image[y, x : x + n]
    r3, r4, r5 = image[y + 1, x : x + n], image[y + 2, x : x + n], image[y + 3, x : x + n]
    a, b, c, d, e, f = k[0], k[1], k[2], k[3], k[4], k[5]
    for i in range(n):
        out[i] = a * r0[i] + b * r1[i] + c * r2[i] + d * r3[i] + e * r4[i] + f * r5[i]


@compiled
def _along(line: Floats, k: Floats, out: Floats) -> None:
    """Fill ``out`` with ``line`` + fraction, from its third value on."""
    n = out.size
    r0, r1, r2, r3, r4, r5 = line[0:], line[1:], line[2:], line[3:], line[4:], line[5:]
    a, b, c, d, e, f = k[0], k[1], k[2], k[3], k[4], k[5]
    for i in range(n):
        out[i] = a * r0[i] + b * r1[i] + c * r2[i] + d * r3[i] + e * r4[i] + f * r5[i]


@compiled
def _sums(
    first: Floats,
    second: Floats,
    dx: float,
    dy: float,
    margin: int,
    block: int,
    light: Reals,
    scores: Reals,
    sums: Reals,
) -> None:
    """Fill ``sums``: Hessian xx, xy, yy, scores x, y, moments of the mean image and of the difference.

    The moments: mm, mmx, mmxx, mmy, mmxy, mmyy, me, mex, mey, ee, with x and y from -1 to 1 over the image.
    """
    iy, ix = math.floor(dy), math.floor(dx)
    ky, kx = np.empty(6, np.float32), np.empty(6, np.float32)
    _lagrange(dy - iy, ky)
    _lagrange(dx - ix, kx)
    height, width = first.shape
    n = width - 2 * margin
    line = np.empty(n + 7, np.float32)
    rows = np.empty((3, n + 2), np.float32)
    sums[:] = 0.0
    scores[:] = 0.0
    per_x, per_y = 2.0 / (n - 1), 2.0 / (height - 2 * margin - 1)
    for y in range(margin - 1, height - margin + 1):
        _down(first, y + iy, margin - 1 + ix - 2, ky, line)
        _along(line, kx, rows[y % 3])
        if y < margin + 1:
            continue
        m = y - 1
        v0, v1, v2 = rows[(m - 1) % 3], rows[m % 3], rows[y % 3]
        w0, w1, w2 = second[m - 1], second[m], second[m + 1]
        at = (m - margin) * per_y - 1.0
        for part in range(scores.shape[1]):
            i0 = part * block
            size = min(n, i0 + block) - i0
            k = margin + i0
            t = _row(
                v1[i0:], v1[i0 + 1 :], v1[i0 + 2 :], v0[i0 + 1 :], v2[i0 + 1 :],
                w1[k - 1 :], w1[k:], w1[k + 1 :], w0[k:], w2[k:],
                size, light[0] + light[2] * at, light[1], i0 * per_x - 1.0, per_x,
            )  # fmt: skip
            sums[0] += 0.25 * t[0]
            sums[1] += 0.125 * t[1]
            sums[2] += 0.25 * t[2]
            sums[3] += 0.25 * t[3]
            sums[4] += 0.25 * t[4]
            sums[5] += t[5]
            sums[6] += t[6]
            sums[7] += t[7]
            sums[8] += at * t[5]
            sums[9] += at * t[6]
            sums[10] += at * at * t[5]
            sums[11] += t[8]
            sums[12] += t[9]
            sums[13] += at * t[8]
            sums[14] += t[10]
            scores[(m - margin) // block, part, 0] += 0.25 * t[3]
            scores[(m - margin) // block, part, 1] += 0.25 * t[4]


@compiled
def _row(
    v_left: Floats,
    v: Floats,
    v_right: Floats,
    v_above: Floats,
    v_below: Floats,
    w_left: Floats,
    w: Floats,
    w_right: Floats,
    w_above: Floats,
    w_below: Floats,
    size: int,
    light: float,
    light_x: float,
    x0: float,
    per_x: float,
) -> tuple[float, ...]:
    """Return the sums over a piece of a row; gradients are twice what they are."""
    zero, half = np.float32(0.0), np.float32(0.5)
    hxx, hxy, hyy, ux, uy = zero, zero, zero, zero, zero
    mm, mmx, mmxx, me, mex, ee = zero, zero, zero, zero, zero, zero
    base, slope = np.float32(light + light_x * x0), np.float32(light_x * per_x)
    first_x, step_x = np.float32(x0), np.float32(per_x)
    for i in range(size):
        n = np.float32(i)
        x = first_x + step_x * n
        gain = base + slope * n
        vx, vy = v_right[i] - v_left[i], v_below[i] - v_above[i]
        wx, wy = w_right[i] - w_left[i], w_below[i] - w_above[i]
        a, b = v[i] + gain * v[i], w[i] - gain * w[i]
        e, m = b - a, half * (a + b)
        hxx += vx * wx
        hyy += vy * wy
        hxy += vx * wy + vy * wx
        ux += (vx + wx) * e
        uy += (vy + wy) * e
        mm += m * m
        mmx += m * m * x
        mmxx += m * m * x * x
        me += m * e
        mex += m * e * x
        ee += e * e
    return (hxx, hxy, hyy, ux, uy, mm, mmx, mmxx, me, mex, ee)  # type: ignore[return-value]
