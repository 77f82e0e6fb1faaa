"""Aperture: centroid and edge of a hole in its opaque frame."""

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
from plans.calibrate.chain import Field, read_field
from plans.calibrate.discs import find_disc, unsaturated
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
from plans.stubs.view import read_setup, view_from
from processing.kernels.edges import edge_points, fit_ellipse

Reals = npt.NDArray[np.float64]
FITS = 0.8
"""Largest diameter that is measured in one frame, fraction of the shorter side of the field."""


def calibrate_aperture(
    camera: Camera,
    column: Column,
    stage: Stage,
    *,
    store: CalibrationStore,
    radius_um: float,
    magnification: float | None = None,
    exposure_time_s: float = 0.05,
    binning: int = 1,
    edge_images: int = 12,
    settle_s: float = 0.3,
    md: dict[str, Any] | None = None,
) -> Generator[Msg, Any, Calibration]:
    """Measure centroid and edge of the round hole about where the stage is.

    A hole that fits into a frame is found, centred and measured in one; of a larger one, the edge is looked
    at in ``edge_images`` places around it, and the stage must be within a third of a field of its middle.
    An ellipse is fitted through the points of the edge, without those that specimen or dirt put elsewhere.

    Parameters
    ----------
    camera, column, stage
        The instruments; the stage is near the middle of the hole.
    store
        Keeps the calibration.
    radius_um
        Radius of the hole, roughly, um.
    magnification
        To look at it with; None: the one in use.
    exposure_time_s
        Of an image, s; shortened where it saturates, and then the current lowered by the spot size.
    binning
        Of the images.
    edge_images
        Places on the edge of a hole larger than the field, 6 to 100.
    settle_s
        Wait after a move, s.
    md
        Metadata of the run.

    Returns
    -------
    Calibration
        ``x_um``, ``y_um`` (stage position that shows the centroid), ``radius_um`` (of the circle of the same
        area), ``major_um``, ``minor_um``, ``angle_deg``.

    Raises
    ------
    LimitError
        An argument or a place is outside its range.
    ConfigurationError
        The magnification has no pixel size, measured or nominal.
    InstrumentFault
        No edge of about that radius is seen.

    Examples
    --------
    >>> RE(calibrate_aperture(camera, column, stage, store=store, radius_um=50, magnification=200))
    ... # doctest: +SKIP
    """
    check_between("radius_um", radius_um, 0.1, 2000, "um")
    check_between("edge_images", edge_images, 6, 100)
    check_between("settle_s", settle_s, 0, 60, "s")
    check_between("exposure_time_s", exposure_time_s, 1e-3, 60, "s")
    if magnification is not None:
        limits = BY_NAME["magnification"]
        check_between("magnification", magnification, limits.low or 0.0, limits.high or math.inf)
    start = yield from position(stage)
    turns = 2 * np.pi * np.arange(edge_images) / edge_images
    around = start + radius_um * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    yield from check_reach(stage, list(around), "the edge of the aperture")

    def measure() -> Generator[Msg, Any, Measured]:
        if magnification is not None:
            yield from bps.abs_set(column.magnification, magnification, wait=True)
        field = yield from read_field(store, camera, column, None)
        setup = yield from read_setup(camera, column)
        view = yield from view_from(store, camera, column)
        um_per_px = np.array(view.stage_per_px_um) * binning / setup.binning
        if 2 * radius_um <= FITS * field.shorter_um:
            points = yield from whole(um_per_px)
        else:
            points = yield from parts(um_per_px, field)
        yield from move(stage, start, 0.0)
        try:
            fit = fit_ellipse(points)
        except ValueError as error:
            raise failed("aperture", str(error)) from error
        if not 0.7 <= fit.radius / radius_um <= 1.4:
            raise failed(
                "aperture", f"the edge found has a radius of {fit.radius:.2f} um, not about {radius_um:g} um"
            )
        return Measured(
            {
                "x_um": fit.x,
                "y_um": fit.y,
                "radius_um": fit.radius,
                "major_um": fit.major,
                "minor_um": fit.minor,
                "angle_deg": fit.angle_deg,
            },
            {
                "edge_rms_um": fit.rms,
                "edge_largest_um": fit.largest,
                "edge_points": float(fit.used.sum()),
                "points_out": float((~fit.used).sum()),
            },
        )

    def whole(um_per_px: Reals) -> Generator[Msg, Any, Reals]:
        """Find the hole, centre it, and return the points of its edge, stage um."""
        time_s = exposure_time_s
        for centring in (True, False):
            where = yield from position(stage)
            image, time_s = yield from unsaturated("aperture", camera, column, time_s, binning)
            disc = yield from compute(lambda image=image: find_disc("aperture", image, circle=False))
            if centring:
                yield from move(stage, where + um_per_px @ (disc.x, disc.y), settle_s)
        edge = yield from compute(lambda: edge_points(image, (disc.x, disc.y), disc.radius, reach=0.2))
        return where + edge @ um_per_px.T

    def parts(um_per_px: Reals, field: Field) -> Generator[Msg, Any, Reals]:
        """Visit the edge and return its points, stage um."""
        pixel_um = math.sqrt(abs(float(np.linalg.det(um_per_px))))
        time_s = exposure_time_s
        found = []
        for place in around:
            yield from move(stage, place, settle_s)
            where = yield from position(stage)
            image, time_s = yield from unsaturated("aperture", camera, column, time_s, binning)
            middle = np.linalg.solve(um_per_px, start - where)
            edge = yield from compute(
                lambda image=image, middle=middle: edge_points(
                    image,
                    (float(middle[0]), float(middle[1])),
                    radius_um / pixel_um,
                    reach=0.5 * field.shorter_um / radius_um,
                    rays=720,
                )
            )
            found.append(where + edge @ um_per_px.T)
        return np.concatenate(found)

    settings = {
        "exposure_time_s": exposure_time_s,
        "binning": binning,
        "radius_um": radius_um,
        "at_magnification": magnification or 0.0,
    }
    on = Calibrating(camera, column, stage, store, binning=binning)
    restore = ("magnification", "spot_size_index", "illuminated_area_um")
    return (yield from calibrate("aperture", on, measure, md=md, restore=restore, settings=settings))
