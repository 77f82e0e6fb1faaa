"""The image-shift matrix: how far over the stage the image goes for a um of image shift."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import bluesky.plan_stubs as bps
import numpy as np
import numpy.typing as npt
from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.column.device import Column
from devices.column.settings import BY_NAME
from devices.stage.device import Stage
from plans.calibrate.chain import Chain, Field, read_field
from plans.calibrate.measurement import Calibrating, Measured, calibrate, check_between, compute, failed
from plans.calibrations import Calibration, CalibrationStore
from plans.stubs.snap import snap
from plans.stubs.view import read_setup
from processing.kernels.calibration import fit_matrix, rotation_and_scale

Reals = npt.NDArray[np.float64]
STEP = 0.35
"""Step of the image, fraction of the shorter side of the field."""


def calibrate_image_shift(
    camera: Camera,
    column: Column,
    stage: Stage,
    *,
    store: CalibrationStore,
    exposure_time_s: float = 0.1,
    binning: int = 1,
    range_um: float = 10.0,
    directions: int = 4,
    settle_s: float = 0.1,
    least_brightness: float = 0.8,
    linearity_um: float = 0.05,
    max_age_s: float = math.inf,
    md: dict[str, Any] | None = None,
) -> Generator[Msg, Any, Calibration]:
    """Measure the image-shift matrix with the stage at rest, and the radius within which it holds.

    Image shift goes along lines through 0, further at every step; each image is compared with the one
    before. The radius ends where the images get darker than ``least_brightness`` of those in the middle
    (vignetting) or lie further than ``linearity_um`` from where the matrix says.

    Parameters
    ----------
    camera, column, stage
        The instruments; the stage stays where it is, over something with structure, in focus.
    store
        Has the calibration ``stage_camera`` of this magnification, and keeps the new one.
    exposure_time_s
        Of an image, s.
    binning
        Of the images.
    range_um
        Image shift to go to in every direction, um, within the column's limits.
    directions
        Lines, 2 to 12, spread evenly over 180 deg.
    settle_s
        Wait after a change of image shift, s.
    least_brightness
        Fraction of the brightness in the middle, 0 to 1.
    linearity_um
        Largest distance between image and matrix, um.
    max_age_s
        Of the calibration ``stage_camera``, s.
    md
        Metadata of the run.

    Returns
    -------
    Calibration
        ``stage_per_shift`` (2 x 2, stage um for a um of image shift), ``limit_um``, ``rotation_deg``,
        ``scale``, ``brightness_at_limit``.

    Raises
    ------
    LimitError
        An argument is outside its range; nothing has changed.
    ConfigurationError
        There is no calibration ``stage_camera`` for this magnification and camera.
    InstrumentFault
        Too few images show what the one before showed.

    Examples
    --------
    >>> RE(calibrate_image_shift(camera, column, stage, store=store, range_um=10))  # doctest: +SKIP
    """
    allowed = BY_NAME["image_shift_um"].high or math.inf
    check_between("range_um", range_um, 0.01, allowed, "um")
    check_between("directions", directions, 2, 12)
    check_between("settle_s", settle_s, 0, 60, "s")
    check_between("least_brightness", least_brightness, 0.0, 1.0)
    check_between("linearity_um", linearity_um, 1e-4, 100, "um")
    setup = yield from read_setup(camera, column)
    known = store.require(
        "stage_camera", magnification=setup.magnification, camera=setup.camera, max_age_s=max_age_s
    )
    field = yield from read_field(store, camera, column, None)
    lines = [_line(range_um, field, np.pi * n / directions) for n in range(directions)]

    def measure() -> Generator[Msg, Any, Measured]:
        chain, bright = Chain(binning), []
        for line in lines:
            chain.begin()
            for shift in line:
                yield from bps.abs_set(column.image_shift_um, np.asarray(shift, float), wait=True)
                if settle_s:
                    yield from bps.sleep(settle_s)
                frame = yield from snap(camera, column, exposure_time_s, binning=binning)
                bright.append(float(np.mean(frame.data)))
                yield from chain.add(shift, frame.data)
        matrix = np.array(known.matrix("stage_per_px_um"))
        return (
            yield from compute(_fit, chain, np.array(bright), matrix, field, least_brightness, linearity_um)
        )

    settings = {
        "exposure_time_s": exposure_time_s,
        "range_um": range_um,
        "directions": directions,
        "settle_s": settle_s,
        "least_brightness": least_brightness,
        "linearity_um": linearity_um,
    }
    on = Calibrating(camera, column, stage, store, (known,), binning)
    restore = ("image_shift_um",)
    return (yield from calibrate("image_shift", on, measure, md=md, restore=restore, settings=settings))


def _line(range_um: float, field: Field, angle: float) -> Reals:
    """Return image shifts along a line through 0, (image, 2) um."""
    steps = max(2, math.ceil(range_um / (STEP * field.shorter_um)))
    along = np.linspace(-range_um, range_um, 2 * steps + 1)
    return np.outer(along, (math.cos(angle), math.sin(angle)))


def _fit(
    chain: Chain, bright: Reals, stage_per_px_um: Reals, field: Field, least: float, linearity_um: float
) -> Measured:
    if chain.linked < max(4, len(chain.pairs) / 2):
        raise failed(
            "image_shift",
            f"only {chain.linked} of {len(chain.pairs)} images show what the one before showed; check focus, "
            f"beam and exposure, or go to a place with structure",
        )
    shift, moved, track, distortion = chain.points(field.width_px / 2)
    try:
        fit = fit_matrix(shift, moved @ stage_per_px_um.T, track)
    except ValueError as error:
        raise failed("image_shift", str(error)) from error
    radius = np.linalg.norm(shift, axis=1)
    middle = float(np.median(bright[radius <= np.quantile(radius, 0.25)]))
    bad = (np.linalg.norm(fit.residual, axis=1) > linearity_um) | (bright < least * middle)
    limit = float(radius[~bad & (radius < radius[bad].min())].max()) if bad.any() else float(radius.max())
    rotation, scale, _ = rotation_and_scale(fit.matrix)
    return Measured(
        {
            "stage_per_shift": fit.matrix.tolist(),
            "limit_um": limit,
            "rotation_deg": rotation,
            "scale": scale,
            "brightness_at_limit": float(bright[radius <= limit].min()) / middle,
        },
        {
            "position_rms_um": fit.rms,
            "position_largest_um": fit.largest,
            "scale_percent": 100 * float(np.sqrt(np.mean(fit.error**2))) / scale,
            "patch_rms_px": distortion.rms_px,
            "images_linked": float(chain.linked),
            "images_out": float((~fit.used).sum()),
        },
    )
