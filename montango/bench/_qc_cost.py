"""What the metrics cost, beside the same numbers in plain NumPy and SciPy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.ndimage

from processing.kernels.quality import measure_tile
from processing.kernels.quality_pass import one_pass
from processing.kernels.quality_regions import regions
from processing.kernels.quality_spectrum import measure_spectrum, spectrum

LIMIT_MS_PER_MPX: Final = 4.0
_PSD_SIDE: Final = 256


class Cost(NamedTuple):
    """Milliseconds of one core a megapixel, ours and plain; NaN where there is no plain counterpart."""

    what: str
    ours: float
    plain: float


def costs(frame: npt.NDArray[np.unsignedinteger[Any]], repeats: int = 5) -> list[Cost]:
    """Return the processor time of the metrics of a frame, (y, x) counts: the least of several times.

    Plain is what one writes without numba and OpenCV: moments, histogram, gradients and Laplacian, power
    spectra of all blocks, line means, a smoothed copy for dark regions.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        full, dark = float(np.iinfo(frame.dtype).max), 300.0
        pairs: list[tuple[str, Callable[[], object], Callable[[], object] | None]] = [
            ("moments, structure, lines", lambda: one_pass(frame, full, dark), lambda: _plain_pass(frame)),
            (
                "power spectrum, directions",
                lambda: measure_spectrum(spectrum(frame)),
                lambda: _plain_spectrum(frame),
            ),
            ("dark regions, folds, shading", lambda: regions(frame, dark), lambda: _plain_regions(frame)),
            ("everything", lambda: measure_tile(frame, None, dark), lambda: _plain(frame)),
        ]
        return [
            Cost(what, _least(ours, frame.size, repeats), _least(plain, frame.size, 2) if plain else np.nan)
            for what, ours, plain in pairs
        ]
    finally:
        cv2.setNumThreads(threads)


def _least(action: Callable[[], object], pixels: int, repeats: int) -> float:
    action()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return 1e3 * min(times) / (pixels / 1e6)


def _plain(frame: npt.NDArray[Any]) -> None:
    _plain_pass(frame)
    _plain_spectrum(frame)
    _plain_regions(frame)


def _plain_pass(frame: npt.NDArray[Any]) -> tuple[object, ...]:
    values = frame.astype(np.float32)
    laplacian = scipy.ndimage.laplace(values)
    across = [float(((values[:, lag:] - values[:, :-lag]) ** 2).mean()) for lag in (1, 2, 4, 8, 32)]
    down = [float(((values[lag:] - values[:-lag]) ** 2).mean()) for lag in (1, 2, 4, 8, 32)]
    lines = np.diff(values, axis=0).var(axis=1)
    return (
        *(values.mean(), values.std(), (frame == frame.max()).mean(), (frame < 300).mean()),
        *(laplacian.var(), across, down, lines, values.mean(axis=1)),
    )


def _plain_spectrum(frame: npt.NDArray[Any]) -> npt.NDArray[Any]:
    side = _PSD_SIDE
    window = np.outer(np.hanning(side), np.hanning(side)).astype(np.float32)
    total = np.zeros((side, side // 2 + 1), np.float32)
    for y in range(0, frame.shape[0] - side + 1, side):
        for x in range(0, frame.shape[1] - side + 1, side):
            block = frame[y : y + side, x : x + side].astype(np.float32)
            total += np.abs(scipy.fft.rfft2((block - block.mean()) * window)) ** 2
    return total


def _plain_regions(frame: npt.NDArray[Any]) -> tuple[object, ...]:
    smooth = scipy.ndimage.uniform_filter(frame.astype(np.float32), 31)
    dark = smooth < 0.6 * np.median(smooth)
    labels, count = scipy.ndimage.label(dark)
    return count, np.bincount(labels.ravel())
