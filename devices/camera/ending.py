"""The end of exposures before their time: what was exposed already still goes to the file."""

from __future__ import annotations

import threading
import time
from typing import Final

from devices.camera.driver import CameraDriver
from devices.camera.pipeline import FramePipeline

END_POLL_S: Final = 0.02


def end_exposures(
    driver: CameraDriver, frames: FramePipeline, exposing: threading.Lock, patience_s: float
) -> int:
    """End the exposure that runs, wait for the frames exposed before, and let the camera expose again.

    Parameters
    ----------
    driver, frames
        The camera, and its frames on their way to the file.
    exposing
        Held by whoever makes an exposure.
    patience_s
        How long frames have to reach the file; they are given up then.

    Returns
    -------
    int
        How many were given up.
    """
    deadline = time.monotonic() + patience_s
    frames.end()
    ended = _end(driver, exposing, deadline)
    try:
        missing = frames.drain(max(0.0, deadline - time.monotonic()))
        driver.abort()
        frames.clear()
        return missing
    finally:
        if ended:
            exposing.release()


def _end(driver: CameraDriver, exposing: threading.Lock, deadline: float) -> bool:
    """End whatever exposes, and keep others from it; False where it has not ended in time."""
    while True:
        driver.end_exposure()
        if exposing.acquire(timeout=END_POLL_S):
            return True
        if time.monotonic() > deadline:
            return False
