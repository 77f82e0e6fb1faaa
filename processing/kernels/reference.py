"""Dark and bright reference taken out of a frame: what the camera adds, how unevenly it answers to light.

``corrected = (image - dark) / bright``, where ``bright`` is a frame of even light with the dark reference
taken off, divided by its mean: counts stay counts. A pixel that cannot be corrected gets the median of its
neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import cv2
import numpy as np
import numpy.typing as npt

from processing.kernels.compiled import njit

Floats = npt.NDArray[np.float32]
ODD_RESPONSE: Final = 2.0
"""A pixel that answers to light this many times more, or less, than those about it is bad."""
HOT_SIGMAS: Final = 100.0
"""So is one whose dark counts are this many robust standard deviations of the sensor's off its median."""
MOST_BAD: Final = 0.02
_WIDEST: Final = 15
_MAD_TO_SIGMA: Final = 1.4826


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """A dark and a bright reference, ready to be taken out of frames; make it with `of`.

    Attributes
    ----------
    dark
        (y, x) float32, counts.
    gain
        (y, x) float32: what a pixel's light is multiplied by, 1 / bright; 1 where it is bad.
    bad
        (n, 2) intp: row and column of the pixels that are replaced.
    """

    dark: Floats
    gain: Floats
    bad: npt.NDArray[np.intp]

    @classmethod
    def of(cls, dark: npt.ArrayLike, bright: npt.ArrayLike) -> Self:
        """Return the reference of a camera.

        Parameters
        ----------
        dark
            (y, x): mean of frames without beam, counts.
        bright
            (y, x): mean of evenly lit frames, the dark reference taken off, in any scale.

        Raises
        ------
        ValueError
            They are of different sizes, or over 2 % of the pixels are bad: no reference of a camera.
        """
        dark = np.array(dark, np.float32)
        bright = np.array(bright, np.float32)
        if dark.ndim != 2 or dark.shape != bright.shape:
            raise ValueError(
                f"dark and bright reference must be of one size, not {dark.shape}, {bright.shape}"
            )
        bad = _bad_pixels(dark, bright)
        if bad.mean() > MOST_BAD:
            raise ValueError(
                f"{bad.mean():.1%} of the pixels are bad, over {MOST_BAD:.0%}: measure the references again"
            )
        dark[bad] = 0.0
        bright[bad] = 1.0
        mean = np.float32(bright[~bad].mean(dtype=np.float64))
        gain = np.where(bad, np.float32(1.0), mean / bright)
        return cls(dark, np.ascontiguousarray(gain, np.float32), np.argwhere(bad))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the frames it is for, px."""
        height, width = self.dark.shape
        return height, width

    def apply(
        self,
        image: npt.NDArray[Any],
        *,
        dtype: npt.DTypeLike | None = None,
        saturation_counts: float | None = None,
    ) -> npt.NDArray[Any]:
        """Return a frame corrected.

        Parameters
        ----------
        image
            (y, x) counts.
        dtype
            Of the answer: float32, uint8 or uint16 (rounded, and clipped to its range); None: the image's.
        saturation_counts
            Value at which the sensor saturates: pixels that reach it stay there and no others come to it, so
            that a saturated frame is still seen to be one (bad pixels are replaced before). None: none.

        Returns
        -------
        numpy.ndarray
            (y, x). A line whose pixels are all the same is no picture and stays as it is.

        Raises
        ------
        ValueError
            The frame is of another size.
        """
        if image.shape != self.dark.shape:
            raise ValueError(f"a frame of {image.shape} px and a reference of {self.dark.shape} px")
        kind = np.dtype(image.dtype if dtype is None else dtype)
        whole = np.issubdtype(kind, np.integer)
        low, high = (np.iinfo(kind).min, np.iinfo(kind).max) if whole else (-np.inf, np.inf)
        full = np.float32(np.inf if saturation_counts is None else saturation_counts)
        top = min(high, full - 1) if np.isfinite(full) else high
        out = np.empty(image.shape, kind)
        _correct(
            np.ascontiguousarray(image),
            self.dark,
            self.gain,
            full,
            np.float32(low),
            np.float32(top),
            np.float32(0.5 if whole else 0.0),
            out,
        )
        if len(self.bad):
            _replace(self.bad, _mask(self.bad, self.shape), out)
        return out


def _bad_pixels(dark: Floats, bright: Floats) -> npt.NDArray[np.bool_]:
    finite = np.isfinite(dark) & np.isfinite(bright)
    if not finite.any():
        return ~finite
    level = float(np.median(dark[finite]))
    sigma = _MAD_TO_SIGMA * float(np.median(np.abs(dark[finite] - level)))
    hot = np.abs(dark - level) > HOT_SIGMAS * max(sigma, 1.0)
    known = np.where(finite, bright, np.float32(0.0))
    about = cv2.medianBlur(known, 5)
    odd = (known * ODD_RESPONSE < about) | (known > ODD_RESPONSE * about) | (known <= 0)
    return np.asarray(~finite | hot | odd)


def _mask(bad: npt.NDArray[np.intp], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    mask = np.zeros(shape, np.bool_)
    mask[bad[:, 0], bad[:, 1]] = True
    return mask


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz", "arcp"})
def _correct(
    image: npt.NDArray[Any],
    dark: Floats,
    gain: Floats,
    full: np.float32,
    low: np.float32,
    high: np.float32,
    half: np.float32,
    out: npt.NDArray[Any],
) -> None:
    height, width = image.shape
    for i in range(height):
        line, offsets, factors, to = image[i], dark[i], gain[i], out[i]
        same = True
        for j in range(1, width):
            if line[j] != line[0]:
                same = False
                break
        if same:
            for j in range(width):
                to[j] = line[j]
            continue
        for j in range(width):
            counts = np.float32(line[j])
            value = (counts - offsets[j]) * factors[j] + half
            value = min(max(value, low), high)
            to[j] = counts if counts >= full else value


@njit(cache=True, nogil=True)
def _replace(bad: npt.NDArray[np.intp], mask: npt.NDArray[np.bool_], out: npt.NDArray[Any]) -> None:
    """Give bad pixels the median of the good ones in 3 x 3, or in as much more as it takes to have three."""
    height, width = out.shape
    near = np.empty(_WIDEST * _WIDEST, out.dtype)
    for k in range(len(bad)):
        row, column = bad[k, 0], bad[k, 1]
        count = 0
        for reach in range(1, _WIDEST // 2 + 1):
            count = 0
            for i in range(max(0, row - reach), min(height, row + reach + 1)):
                for j in range(max(0, column - reach), min(width, column + reach + 1)):
                    if not mask[i, j]:
                        near[count] = out[i, j]
                        count += 1
            if count >= 3:
                break
        if count:
            out[row, column] = np.sort(near[:count])[count // 2]
