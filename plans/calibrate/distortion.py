"""Distortion of the camera's field, from a montage of 3 x 3 images with 60 % overlap."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.column.device import Column
from devices.stage.device import Stage
from plans.calibrate.chain import read_field
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
from plans.stubs.view import read_setup, view_from
from processing.kernels.distortion import DistortionKernel, PolynomialDistortion

SIDE = 3
OVERLAP = 0.6


def calibrate_distortion(
    camera: Camera,
    column: Column,
    stage: Stage,
    *,
    store: CalibrationStore,
    exposure_time_s: float = 0.1,
    settle_s: float = 0.5,
    kernel: DistortionKernel | None = None,
    md: dict[str, Any] | None = None,
) -> Generator[Msg, Any, Calibration]:
    """Measure the distortion of the field at the magnification in use.

    Parameters
    ----------
    camera, column, stage
        The instruments; the stage is over something with structure, in focus.
    store
        Keeps the calibration.
    exposure_time_s
        Of an image, s; images are not binned.
    settle_s
        Wait after a move, s.
    kernel
        The fit; None: a polynomial, `processing.kernels.distortion.PolynomialDistortion`.
    md
        Metadata of the run.

    Returns
    -------
    Calibration
        What the kernel finds; by default ``radial`` and ``spiral`` (relative at half the sensor's width),
        ``at_half_width_px`` and ``largest_px``, the field itself in the arrays, and the error on
        matches held out in the residuals. `processing.kernels.distortion.stored_field` makes the model that
        stitching takes.

    Raises
    ------
    LimitError
        An argument, or the montage, is outside its range; nothing has moved.
    ConfigurationError
        The magnification has no pixel size, measured or nominal.
    InstrumentFault
        The images do not tell the distortion.

    Examples
    --------
    >>> RE(calibrate_distortion(camera, column, stage, store=store))  # doctest: +SKIP
    """
    check_between("settle_s", settle_s, 0, 60, "s")
    check_between("exposure_time_s", exposure_time_s, 1e-6, 60, "s")
    field = yield from read_field(store, camera, column, None)
    setup = yield from read_setup(camera, column)
    view = yield from view_from(store, camera, column)
    centre = yield from position(stage)
    steps = (np.arange(SIDE) - (SIDE - 1) / 2) * (1 - OVERLAP)
    grid_px = np.array([(u * field.width_px, v * field.height_px) for v in steps for u in steps])
    places = centre + view.to_stage(grid_px / setup.binning)
    yield from check_reach(stage, list(places), "the montage of the distortion")
    chosen = kernel or PolynomialDistortion()

    def measure() -> Generator[Msg, Any, Measured]:
        images = []
        for place in places:
            yield from move(stage, place, settle_s)
            frame = yield from snap(camera, column, exposure_time_s)
            images.append(frame.data)
        yield from move(stage, centre, 0.0)
        try:
            found = yield from compute(chosen.fit, images, grid_px)
        except ValueError as error:
            raise failed("distortion", str(error)) from error
        return Measured(dict(found.values), found.residuals, dict(found.arrays))

    settings = {"exposure_time_s": exposure_time_s, "settle_s": settle_s, "kernel": chosen.name}
    on = Calibrating(camera, column, stage, store)
    return (yield from calibrate("distortion", on, measure, md=md, settings=settings))
