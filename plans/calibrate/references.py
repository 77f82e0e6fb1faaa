"""Dark and bright references: what the camera adds, and how unevenly it answers to light."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import numpy as np
import numpy.typing as npt
from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.column.device import Column
from devices.errors import LimitError
from devices.stage.device import Stage
from plans.calibrate.measurement import (
    Calibrating,
    Measured,
    calibrate,
    check_between,
    check_reach,
    compute,
    failed,
    move,
    position,
)
from plans.calibrations import Calibration, CalibrationStore, Value
from plans.stubs.ask import read_now
from plans.stubs.snap import snap
from plans.stubs.view import read_setup

Image = npt.NDArray[np.float32]
GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


class Mean:
    """The mean of frames, and how much its two halves (odd and even frames) differ."""

    def __init__(self) -> None:
        self._halves: list[npt.NDArray[np.float64] | None] = [None, None]
        self._counts = [0, 0]

    def add(self, frame: npt.NDArray[Any]) -> None:
        """Add a frame, (y, x)."""
        half = sum(self._counts) % 2
        before = self._halves[half]
        self._halves[half] = frame.astype(np.float64) if before is None else before + frame
        self._counts[half] += 1

    def result(self) -> tuple[npt.NDArray[np.float64], float]:
        """Return the mean of all frames and the rms error of one of its pixels."""
        odd, even = self._halves
        assert odd is not None
        assert even is not None
        difference = odd / self._counts[0] - even / self._counts[1]
        return (odd + even) / sum(self._counts), float(np.std(difference)) / 2


def calibrate_dark(
    camera: Camera,
    column: Column,
    *,
    store: CalibrationStore,
    exposure_time_s: float = 0.1,
    binning: int = 1,
    frames: int = 16,
    md: dict[str, Any] | None = None,
) -> Generator[Msg, Any, Calibration]:
    """Measure the dark reference: the mean of frames with the beam blanked.

    Parameters
    ----------
    camera, column
        The instruments.
    store
        Keeps the reference.
    exposure_time_s, binning
        Of the frames that it is for.
    frames
        How many, 2 to 1000.
    md
        Metadata of the run.

    Returns
    -------
    Calibration
        Array ``dark`` (y, x) float32, counts; ``mean_counts``, ``spread_counts`` (rms over the sensor),
        ``exposure_time_s``, ``frames``, ``width_px``, ``height_px`` (binned).

    Raises
    ------
    LimitError
        An argument is outside its range.
    InstrumentFault
        The frames are not dark: their mean is over a quarter of full scale.

    Examples
    --------
    >>> RE(calibrate_dark(camera, column, store=store, exposure_time_s=0.1))  # doctest: +SKIP
    """
    check_between("frames", frames, 2, 1000)
    check_between("exposure_time_s", exposure_time_s, 1e-6, 600, "s")

    def measure() -> Generator[Msg, Any, Measured]:
        mean = Mean()
        for _ in range(frames):
            frame = yield from snap(camera, column, exposure_time_s, binning=binning, dark=True)
            yield from compute(mean.add, frame.data)
        dark, error = mean.result()
        (bits,) = yield from read_now(camera, "bit_depth")
        if dark.mean() > 0.25 * 2 ** int(bits):
            raise failed("dark", f"a mean of {dark.mean():.0f} counts is not dark; is the beam blanked?")
        return Measured(
            {
                "mean_counts": float(dark.mean()),
                "spread_counts": float(dark.std()),
                "exposure_time_s": exposure_time_s,
                "frames": float(frames),
                **_size(dark),
            },
            {"pixel_rms_counts": error},
            {"dark": dark.astype(np.float32)},
        )

    settings = {"exposure_time_s": exposure_time_s, "binning": binning, "frames": frames}
    on = Calibrating(camera, column, None, store, binning=binning)
    return (yield from calibrate("dark", on, measure, md=md, settings=settings))


def calibrate_bright(
    camera: Camera,
    column: Column,
    stage: Stage,
    *,
    store: CalibrationStore,
    exposure_time_s: float = 0.1,
    binning: int = 1,
    frames: int = 64,
    reach_um: float = 50.0,
    max_age_s: float = math.inf,
    md: dict[str, Any] | None = None,
) -> Generator[Msg, Any, Calibration]:
    """Measure the bright reference: frames of as many places, so that the specimen averages out.

    The stage goes to another place for each frame, in a sunflower's pattern about where it is. Over an empty
    area a few frames do; over a specimen its structure is left, less the more frames there are: the residual
    tells. The dark reference is taken off, and each frame weighs the same however bright its place is.

    Parameters
    ----------
    camera, column, stage
        The instruments.
    store
        Has the dark reference of this exposure and binning, and keeps the new reference.
    exposure_time_s, binning
        Of the frames.
    frames
        How many, 4 to 1000.
    reach_um
        How far from where it is the stage goes, um.
    max_age_s
        Of the dark reference, s.
    md
        Metadata of the run.

    Returns
    -------
    Calibration
        Array ``bright`` (y, x) float32, mean 1: divide a frame less the dark reference by it;
        ``mean_counts``, ``spread`` (rms, relative), ``exposure_time_s``, ``frames``, ``width_px``,
        ``height_px`` (binned).

    Raises
    ------
    LimitError
        An argument or a place is outside its range, or the dark reference is of another exposure; nothing
        has moved.
    ConfigurationError
        There is no dark reference for this camera and binning, or it is stale.
    InstrumentFault
        The frames are dark or saturated.

    Examples
    --------
    >>> RE(calibrate_bright(camera, column, stage, store=store))  # doctest: +SKIP
    """
    check_between("frames", frames, 4, 1000)
    check_between("reach_um", reach_um, 0, 2000, "um")
    check_between("exposure_time_s", exposure_time_s, 1e-6, 600, "s")
    setup = yield from read_setup(camera, column)
    where: dict[str, Any] = {"camera": setup.camera, "binning": binning}
    newest = store.require("dark", **where)
    if store.newest("dark", **where, exposure_time_s=exposure_time_s) is None:
        raise LimitError(
            f"exposure_time_s = {exposure_time_s:g} is not that of the dark reference, "
            f"{newest.number('exposure_time_s'):g} s; run calibrate_dark with "
            f"exposure_time_s={exposure_time_s:g}, binning={binning}"
        )
    dark = store.require("dark", **where, exposure_time_s=exposure_time_s, max_age_s=max_age_s)
    offset = yield from compute(lambda: dark.load()["dark"])
    centre = yield from position(stage)
    radius = reach_um * np.sqrt((np.arange(frames) + 0.5) / frames)
    turn = GOLDEN_ANGLE * np.arange(frames)
    places = centre + np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)
    yield from check_reach(stage, list(places), "the area of the bright reference")
    (bits,) = yield from read_now(camera, "bit_depth")

    def measure() -> Generator[Msg, Any, Measured]:
        mean, levels = Mean(), []
        for place in places:
            yield from move(stage, place, 0.0)
            frame = yield from snap(camera, column, exposure_time_s, binning=binning)
            level = yield from compute(_add, mean, frame.data, offset, 2 ** int(bits) - 1)
            levels.append(level)
        yield from move(stage, centre, 0.0)
        bright, error = mean.result()
        scale = float(bright.mean())
        return Measured(
            {
                "mean_counts": float(np.mean(levels)),
                "spread": float(bright.std()) / scale,
                "exposure_time_s": exposure_time_s,
                "frames": float(frames),
                **_size(bright),
            },
            {"pixel_rms": error / scale, "brightness_rms": float(np.std(levels) / np.mean(levels))},
            {"bright": (bright / scale).astype(np.float32)},
        )

    settings = {
        "exposure_time_s": exposure_time_s,
        "binning": binning,
        "frames": frames,
        "reach_um": reach_um,
    }
    on = Calibrating(camera, column, stage, store, (dark,), binning)
    return (yield from calibrate("bright", on, measure, md=md, settings=settings))


def _add(mean: Mean, frame: npt.NDArray[Any], dark: Image, full: int) -> float:
    """Add a frame, divided by its own mean, and return that mean in counts."""
    if dark.shape != frame.shape:
        raise failed("bright", f"frames of {frame.shape} px and a dark reference of {dark.shape} px")
    if np.mean(frame >= full) > 0.01:
        raise failed("bright", "over 1 % of the pixels are saturated; shorten exposure_time_s")
    light = frame - dark
    level = float(light.mean())
    if level < 3 * max(float(dark.std()), 1.0):
        raise failed("bright", f"a frame has {level:.1f} counts over the dark reference; is the beam on?")
    mean.add(light / level)
    return level


def _size(image: npt.NDArray[Any]) -> dict[str, Value]:
    height, width = image.shape
    return {"width_px": float(width), "height_px": float(height)}
