"""Backlash: how far apart the image lies when one point is approached from both sides."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import numpy as np
import numpy.typing as npt
from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.column.device import Column
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
from plans.calibrations import Calibration, CalibrationStore
from plans.stubs.snap import snap
from plans.stubs.view import read_setup
from processing.kernels.calibration import patch_shifts

Reals = npt.NDArray[np.float64]


def calibrate_backlash(
    camera: Camera,
    column: Column,
    stage: Stage,
    *,
    store: CalibrationStore,
    exposure_time_s: float = 0.1,
    binning: int = 1,
    approach_um: float = 5.0,
    repeats: int = 4,
    settle_s: float = 3.0,
    max_age_s: float = math.inf,
    md: dict[str, Any] | None = None,
) -> Generator[Msg, Any, Calibration]:
    """Measure the backlash of the stage's x and y.

    Each axis comes to where the stage is now from below and from above, ``repeats`` times each in turn. What
    the image moved more than the read-back did is the backlash.

    Parameters
    ----------
    camera, column, stage
        The instruments; the stage is over something with structure, in focus.
    store
        Has the calibration ``stage_camera`` of this magnification, and keeps the new one.
    exposure_time_s
        Of an image, s.
    binning
        Of the images.
    approach_um
        Length of the way to the point, um: longer than the backlash.
    repeats
        Approaches from each side, 2 to 50.
    settle_s
        Wait after the arrival, s: what the stage creeps afterwards counts as backlash.
    max_age_s
        Of the calibration ``stage_camera``, s.
    md
        Metadata of the run.

    Returns
    -------
    Calibration
        ``x_um``, ``y_um``: positive where the specimen, approached from below, lies below its read-back.

    Raises
    ------
    LimitError
        An argument, or the way to the point, is outside its range; nothing has moved.
    ConfigurationError
        There is no calibration ``stage_camera`` for this magnification and camera, or it is stale.
    InstrumentFault
        The images from both sides show nothing in common.

    Examples
    --------
    >>> RE(calibrate_backlash(camera, column, stage, store=store))  # doctest: +SKIP
    """
    check_between("approach_um", approach_um, 0.1, 100, "um")
    check_between("repeats", repeats, 2, 50)
    check_between("settle_s", settle_s, 0, 60, "s")
    setup = yield from read_setup(camera, column)
    known = store.require(
        "stage_camera", magnification=setup.magnification, camera=setup.camera, max_age_s=max_age_s
    )
    centre = yield from position(stage)
    reach = [centre + sign * approach_um * axis for axis in np.eye(2) for sign in (-1, 1)]
    yield from check_reach(stage, reach, "the way to the point")
    matrix = np.array(known.matrix("stage_per_px_um"))

    def arrive(axis: int, sign: int) -> Generator[Msg, Any, tuple[Reals, npt.NDArray[np.uint16]]]:
        away = centre.copy()
        away[axis] -= sign * approach_um
        yield from move(stage, away, 0.0)
        yield from move(stage, centre, settle_s)
        where = yield from position(stage)
        frame = yield from snap(camera, column, exposure_time_s, binning=binning)
        return where, frame.data

    def one_axis(axis: int) -> Generator[Msg, Any, tuple[float, float]]:
        gaps = []
        for _ in range(repeats):
            below, first = yield from arrive(axis, 1)
            above, second = yield from arrive(axis, -1)
            seen = yield from compute(_seen, first, second, binning * matrix)
            gaps.append(float((seen - (above - below))[axis]))
        return float(np.mean(gaps)), float(np.std(gaps, ddof=1))

    def measure() -> Generator[Msg, Any, Measured]:
        x_um, x_spread = yield from one_axis(0)
        y_um, y_spread = yield from one_axis(1)
        return Measured(
            {"x_um": x_um, "y_um": y_um, "approach_um": approach_um, "settle_s": settle_s},
            {
                "x_um": x_spread / math.sqrt(repeats),
                "y_um": y_spread / math.sqrt(repeats),
                "x_spread_um": x_spread,
                "y_spread_um": y_spread,
            },
        )

    settings = {
        "exposure_time_s": exposure_time_s,
        "approach_um": approach_um,
        "repeats": repeats,
        "settle_s": settle_s,
    }
    on = Calibrating(camera, column, stage, store, (known,), binning)
    return (yield from calibrate("backlash", on, measure, md=md, settings=settings))


def _seen(first: npt.NDArray[Any], second: npt.NDArray[Any], stage_per_px_um: Reals) -> Reals:
    """Return how far over the specimen the second image lies from the first, stage um."""
    found = patch_shifts(first, second)
    if not len(found.at_px):
        raise failed(
            "backlash", "images of one point from both sides show nothing in common; check the focus"
        )
    return np.asarray(-stage_per_px_um @ np.median(found.shift_px, axis=0))
