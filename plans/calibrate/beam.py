"""Beam centre and diameter: from frames that show the whole beam."""

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
from plans.calibrate.chain import read_field
from plans.calibrate.discs import find_disc, unsaturated
from plans.calibrate.measurement import Calibrating, Measured, calibrate, check_between, compute, failed
from plans.calibrations import Calibration, CalibrationStore
from plans.stubs.ask import read_now
from plans.stubs.view import read_setup, view_from
from processing.kernels.edges import EllipseFit

Reals = npt.NDArray[np.float64]
FILL = 0.5
"""Diameter that the beam is shrunk to, fraction of the shorter side of the field."""
PROBE = 0.15
"""Beam shift that tells the direction of its axes, fraction of the diameter."""


def calibrate_beam(
    camera: Camera,
    column: Column,
    *,
    store: CalibrationStore,
    exposure_time_s: float = 0.05,
    binning: int = 1,
    magnification: float | None = None,
    settle_s: float = 0.2,
    md: dict[str, Any] | None = None,
) -> Generator[Msg, Any, Calibration]:
    """Measure where the beam is, how wide it is, and the beam shift that centres it.

    A beam that does not fit into the frame is looked at with a lower ``magnification``, or else shrunk.
    Two small beam shifts tell how the beam's axes lie on the stage's. The shift that centres the beam is
    tried, and what is then left is a residual; the beam is put back.

    Parameters
    ----------
    camera, column
        The instruments; the specimen may be in the beam.
    store
        Keeps the calibration.
    exposure_time_s
        Of an image, s; shortened where it saturates, and then the current lowered by the spot size.
    binning
        Of the images.
    magnification
        To look at the beam with; None: the one in use.
    settle_s
        Wait after a change of the optics, s.
    md
        Metadata of the run.

    Returns
    -------
    Calibration
        ``offset_x_um``, ``offset_y_um`` (stage axes, from the image's centre, with no change of beam shift),
        ``beam_shift_x_um``, ``beam_shift_y_um`` (settings that centre it), ``stage_per_beam_shift`` (2 x 2),
        ``diameter_um`` at the setting ``illuminated_area_um``, ``diameter_ratio``, ``ellipticity``.

    Raises
    ------
    LimitError
        An argument is outside its range; nothing has changed.
    InstrumentFault
        No whole beam is seen, it does not follow the beam shift, or cannot be centred within its limits.

    Examples
    --------
    >>> RE(calibrate_beam(camera, column, store=store))  # doctest: +SKIP
    """
    check_between("exposure_time_s", exposure_time_s, 1e-3, 60, "s")
    check_between("settle_s", settle_s, 0, 60, "s")
    if magnification is not None:
        limits = BY_NAME["magnification"]
        check_between("magnification", magnification, limits.low or 0.0, limits.high or math.inf)
    (area_um,) = yield from read_now(column, "illuminated_area_um")

    def measure() -> Generator[Msg, Any, Measured]:
        if magnification is not None:
            yield from bps.abs_set(column.magnification, magnification, wait=True)
        field = yield from read_field(store, camera, column, None)
        setup = yield from read_setup(camera, column)
        view = yield from view_from(store, camera, column)
        nominal_um = min(float(area_um), FILL * field.shorter_um)
        yield from bps.abs_set(column.illuminated_area_um, nominal_um, wait=True)
        (before,) = yield from read_now(column, "beam_shift_um")
        start = np.asarray(before, float)
        um_per_px = np.array(view.stage_per_px_um) * binning / setup.binning
        time_s = exposure_time_s

        def see(shift: Reals) -> Generator[Msg, Any, tuple[Reals, EllipseFit]]:
            nonlocal time_s
            yield from bps.abs_set(column.beam_shift_um, shift, wait=True)
            if settle_s:
                yield from bps.sleep(settle_s)
            image, time_s = yield from unsaturated("beam", camera, column, time_s, binning)
            disc = yield from compute(lambda: find_disc("beam", image, circle=False))
            return um_per_px @ (disc.x, disc.y), disc

        offset, disc = yield from see(start)
        probe_um = PROBE * nominal_um
        moved = []
        for axis in np.eye(2):
            there, _ = yield from see(start - probe_um * axis * np.copysign(1.0, offset))
            moved.append(-np.copysign(1.0, offset @ axis) * (there - offset) / probe_um)
        matrix = np.stack(moved, axis=1)
        if np.linalg.cond(matrix) > 10:
            raise failed("beam", f"the beam does not follow its shift: matrix {matrix.round(3).tolist()}")
        centred = start - np.linalg.solve(matrix, offset)
        limit = BY_NAME["beam_shift_um"].high or math.inf
        if np.abs(centred).max() > limit:
            raise failed(
                "beam", f"centring needs beam_shift_um = {centred.round(2).tolist()}, over {limit:g}"
            )
        left, _ = yield from see(centred)
        pixel_um = math.sqrt(abs(float(np.linalg.det(um_per_px))))
        diameter_um = 2 * disc.radius * pixel_um
        return Measured(
            {
                "offset_x_um": float(offset[0]),
                "offset_y_um": float(offset[1]),
                "beam_shift_x_um": float(centred[0]),
                "beam_shift_y_um": float(centred[1]),
                "stage_per_beam_shift": matrix.tolist(),
                "diameter_um": diameter_um,
                "illuminated_area_um": nominal_um,
                "diameter_ratio": diameter_um / nominal_um,
                "ellipticity": disc.major / disc.minor - 1,
            },
            {
                "edge_rms_um": disc.rms * pixel_um,
                "edge_points": float(disc.used.sum()),
                "centred_um": float(np.hypot(*left)),
            },
        )

    settings = {
        "exposure_time_s": exposure_time_s,
        "binning": binning,
        "at_magnification": magnification or 0.0,
    }
    on = Calibrating(camera, column, None, store, binning=binning)
    restore = ("magnification", "spot_size_index", "illuminated_area_um", "beam_shift_um")
    return (yield from calibrate("beam", on, measure, md=md, restore=restore, settings=settings))
