"""Pixel size and rotation: the matrix from camera pixels to stage coordinates."""

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
from plans.calibrate.chain import Chain, Field, read_field
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
from processing.kernels.calibration import fit_matrix, rotation_and_scale

STEPS = (0.25, 0.4, 0.3, 0.45)
"""Lengths of the steps in turn, fractions of the shorter side of the field."""
MIN_LINKED = 0.5
MIN_STEPS = 8


def calibrate_stage_camera(
    camera: Camera,
    column: Column,
    stage: Stage,
    *,
    store: CalibrationStore,
    exposure_time_s: float = 0.1,
    binning: int = 1,
    span_um: float = 100.0,
    max_images: int = 60,
    directions: int = 4,
    approach_um: float = 5.0,
    settle_s: float = 0.3,
    field_um: float | None = None,
    md: dict[str, Any] | None = None,
) -> Generator[Msg, Any, Calibration]:
    """Measure pixel size and rotation at the magnification in use.

    The stage goes along lines in several directions, always onwards, so that its backlash stays taken up,
    in steps of several lengths. Each image is compared, patch by patch, with the one before; what differs
    between the patches tells the distortion of the field, which is taken out, so the matrix is that of the
    middle of the frame. The whole lines, not the steps, are fitted to the stage's read-back: its errors that
    come again and again over some 10 um weigh little.

    Parameters
    ----------
    camera, column, stage
        The instruments; the stage is over something with structure, in focus.
    store
        Keeps the calibration.
    exposure_time_s
        Of an image, s.
    binning
        Of the images; the matrix is for unbinned pixels.
    span_um
        Length of a line, um: longer than what the stage's errors repeat themselves over. It is at least 8
        steps of about a third of the field.
    max_images
        Along a line, 9 to 500: makes it shorter where the field is small.
    directions
        Lines, 2 to 12, spread evenly over 180 deg.
    approach_um
        Length of the move that takes up the backlash before a line, um.
    settle_s
        Wait after the arrival, s.
    field_um
        Roughly the width that the whole sensor shows, um; None: from an earlier calibration or the column.
    md
        Metadata of the run.

    Returns
    -------
    Calibration
        ``stage_per_px_um`` (2 x 2), ``pixel_size_nm``, ``rotation_deg``, ``shear_deg``, and the distortion
        at half the sensor's width, ``distortion_radial`` and ``distortion_spiral``.

    Raises
    ------
    LimitError
        An argument is outside its range, or a line outside the stage's limits; nothing has moved.
    ConfigurationError
        Nothing is known of the magnification and ``field_um`` is None.
    InstrumentFault
        Fewer than half of the images show what the one before showed.

    Examples
    --------
    >>> RE(calibrate_stage_camera(camera, column, stage, store=store))  # doctest: +SKIP
    """
    check_between("span_um", span_um, 0, 2000, "um")
    check_between("max_images", max_images, 9, 500)
    check_between("directions", directions, 2, 12)
    check_between("approach_um", approach_um, 0, 100, "um")
    check_between("settle_s", settle_s, 0, 60, "s")
    check_between("exposure_time_s", exposure_time_s, 1e-6, 60, "s")
    field = yield from read_field(store, camera, column, field_um)
    centre = yield from position(stage)
    steps = math.ceil(span_um / (float(np.mean(STEPS)) * field.shorter_um))
    images = min(max(steps, MIN_STEPS) + 1, max_images)
    lines = [_line(centre, field, np.pi * n / directions, images) for n in range(directions)]
    starts = [np.round(line[0] - approach_um * _along(line), 6) for line in lines]
    yield from check_reach(stage, [*starts, *(line[-1] for line in lines)], "a line of stage positions")

    def measure() -> Generator[Msg, Any, Measured]:
        chain = Chain(binning)
        for line, start in zip(lines, starts, strict=True):
            chain.begin()
            yield from move(stage, start, 0.0)
            for target in line:
                yield from move(stage, target, settle_s)
                where = yield from position(stage)
                frame = yield from snap(camera, column, exposure_time_s, binning=binning)
                yield from chain.add(where, frame.data)
        yield from move(stage, centre, 0.0)
        return (yield from compute(_fit, chain, field))

    settings = {
        "exposure_time_s": exposure_time_s,
        "span_um": span_um,
        "images": images,
        "directions": directions,
        "approach_um": approach_um,
        "settle_s": settle_s,
    }
    on = Calibrating(camera, column, stage, store, binning=binning)
    return (yield from calibrate("stage_camera", on, measure, md=md, settings=settings))


def _line(
    centre: npt.NDArray[np.float64], field: Field, angle: float, images: int
) -> npt.NDArray[np.float64]:
    """Return the stage positions of a line about a centre, (image, 2) um."""
    steps = field.shorter_um * np.resize(STEPS, images - 1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    along -= along[-1] / 2
    # rounded, so that an axis across the line is not sent to places a hair apart, within its backlash
    return np.round(centre + np.outer(along, (np.cos(angle), np.sin(angle))), 6)


def _along(line: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    way = line[-1] - line[0]
    return np.asarray(way / np.linalg.norm(way))


def _fit(chain: Chain, field: Field) -> Measured:
    if chain.linked < max(4, MIN_LINKED * len(chain.pairs)):
        raise failed(
            "stage_camera",
            f"only {chain.linked} of {len(chain.pairs)} images show what the one before showed; check focus, "
            f"beam and exposure, go to a place with structure, or give field_um if the pixel size is far off",
        )
    where, moved, track, distortion = chain.points(field.width_px / 2)
    try:
        fit = fit_matrix(moved, where, track)
    except ValueError as error:
        raise failed("stage_camera", str(error)) from error
    rotation, scale, shear = rotation_and_scale(fit.matrix)
    return Measured(
        {
            "stage_per_px_um": fit.matrix.tolist(),
            "pixel_size_nm": 1e3 * scale,
            "rotation_deg": rotation,
            "shear_deg": shear,
            "distortion_radial": distortion.radial,
            "distortion_spiral": distortion.spiral,
            "sensor_width_px": float(field.width_px),
            "sensor_height_px": float(field.height_px),
        },
        {
            "position_rms_um": fit.rms,
            "position_largest_um": fit.largest,
            "pixel_size_percent": 100 * float(np.sqrt(np.mean(fit.error**2))) / scale,
            "rotation_deg": float(np.degrees(np.sqrt(np.mean(fit.error**2)) / scale)),
            "patch_rms_px": distortion.rms_px,
            "images_linked": float(chain.linked),
            "images_out": float((~fit.used).sum()),
        },
    )
