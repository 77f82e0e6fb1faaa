"""Aperture: centroid, edge and axes of a hole in its opaque frame, round or longer than wide."""

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
from devices.errors import ConfigurationError
from devices.stage.device import Stage
from plans.calibrate.chain import Field, read_field
from plans.calibrate.discs import unsaturated
from plans.calibrate.holes import Hole
from plans.calibrate.measurement import (
    Calibrating,
    Measured,
    calibrate,
    check_between,
    check_reach,
    compute,
    move,
    position,
)
from plans.calibrations import Calibration, CalibrationStore, Value
from plans.stubs.view import read_setup, view_from
from processing.kernels.slots import Slot

Reals = npt.NDArray[np.float64]
FITS = 0.8
"""Largest hole that is measured in one frame, fraction of the shorter side of the field."""
WHOLE_REACH = 0.2
"""How far from its outline the edge of a hole in one frame is looked for, fraction of its half width."""


def calibrate_aperture(
    camera: Camera,
    column: Column,
    stage: Stage,
    *,
    store: CalibrationStore,
    radius_um: float | None = None,
    size_um: tuple[float, float] | None = None,
    angle_deg: float = 0.0,
    magnification: float | None = None,
    exposure_time_s: float = 0.05,
    binning: int = 1,
    edge_images: int = 12,
    approach_um: tuple[float, float] | None = None,
    settle_s: float = 0.3,
    md: dict[str, Any] | None = None,
) -> Generator[Msg, Any, Calibration]:
    """Measure centroid, edge and axes of the hole about where the stage is: a disc, or a slot.

    A hole that fits into a frame is found, centred and measured in one; of a larger one, the edge is looked
    at in ``edge_images`` places around it, and the stage must be within a third of a field of its middle. An
    ellipse, or a rectangle with rounded corners, is fitted through the points of the edge, without those that
    specimen or dirt put elsewhere.

    Parameters
    ----------
    camera, column, stage
        The instruments; the stage is near the middle of the hole.
    store
        Keeps the calibration.
    radius_um
        Radius of a disc, roughly, um.
    size_um
        In place of it, both sides of a slot, roughly, um.
    angle_deg
        Direction of the first of them in stage coordinates, to 20 deg.
    magnification
        To look at it with; None: the one in use.
    exposure_time_s
        Of an image, s; shortened where it saturates, and then the current lowered by the spot size.
    binning
        Of the images.
    edge_images
        Places on the edge of a hole larger than the field, 6 to 100.
    approach_um
        The last part of every move goes this way, x and y with their signs, um, as in a montage's
        specification, so that backlash moves all places alike; (0, 0): any way. None: the way that the
        store's calibration ``backlash`` was measured with, from below; any way where there is none.
    settle_s
        Wait after a move, s.
    md
        Metadata of the run.

    Returns
    -------
    Calibration
        ``x_um``, ``y_um`` (stage position that shows the centroid, so approached), ``radius_um`` (of the
        circle of the same area), ``major_um`` and ``minor_um`` (half axes), ``angle_deg`` of the major,
        ``corner_um`` (of a slot), ``outline_um`` (72 points of the edge as it was seen), ``approach_x_um``,
        ``approach_y_um``.

    Raises
    ------
    LimitError
        An argument or a place is outside its range.
    ConfigurationError
        Not one of ``radius_um`` and ``size_um`` is given, or the magnification has no pixel size, measured or
        nominal.
    InstrumentFault
        No edge of about that size is seen.

    Examples
    --------
    >>> RE(calibrate_aperture(camera, column, stage, store=store, radius_um=50, magnification=200))
    ... # doctest: +SKIP
    >>> slot = {"size_um": (2000.0, 1000.0), "angle_deg": 30.0}
    >>> RE(calibrate_aperture(camera, column, stage, store=store, **slot))  # doctest: +SKIP
    """
    if (radius_um is None) == (size_um is None):
        raise ConfigurationError(
            f"an aperture with radius_um = {radius_um}, size_um = {size_um}: give the radius of a disc or "
            f"the two sides of a slot"
        )
    for name, value, low in (
        ("radius_um", radius_um, 0.1),
        *(("size_um", side, 0.2) for side in size_um or ()),
    ):
        if value is not None:
            check_between(name, value, low, 4000 if size_um else 2000, "um")
    check_between("angle_deg", angle_deg, -360, 360, "deg")
    check_between("edge_images", edge_images, 6, 100)
    check_between("settle_s", settle_s, 0, 60, "s")
    check_between("exposure_time_s", exposure_time_s, 1e-3, 60, "s")
    if magnification is not None:
        limits = BY_NAME["magnification"]
        check_between("magnification", magnification, limits.low or 0.0, limits.high or math.inf)
    backlash = store.newest("backlash") if approach_um is None else None
    if approach_um is None:
        way_um = backlash.number("approach_um") if backlash is not None else 0.0
        approach_um = (way_um, way_um)
    for value in approach_um:
        check_between("approach_um", value, -100, 100, "um")
    approach = np.array(approach_um, float)
    start = yield from position(stage)
    hole = Hole.of(radius_um, size_um, angle_deg)
    around, _ = hole.at(start).outline(edge_images)
    yield from check_reach(
        stage, [*around, *(around - approach), start - approach], "the edge of the aperture"
    )

    def arrive(place: npt.ArrayLike) -> Generator[Msg, Any, Reals]:
        """Go to a place from the side that is asked for; return where the stage says it is, um."""
        if approach.any():
            yield from move(stage, place - approach, 0.0)
        yield from move(stage, place, settle_s)
        return (yield from position(stage))

    def measure() -> Generator[Msg, Any, Measured]:
        if magnification is not None:
            yield from bps.abs_set(column.magnification, magnification, wait=True)
        field = yield from read_field(store, camera, column, None)
        setup = yield from read_setup(camera, column)
        view = yield from view_from(store, camera, column)
        um_per_px = np.array(view.stage_per_px_um) * binning / setup.binning
        if 2 * hole.slot.reach <= FITS * field.shorter_um:
            points, about = yield from whole(um_per_px)
        else:
            points, about = yield from parts(um_per_px, field)
        yield from move(stage, start, 0.0)
        fit = yield from compute(hole.fit, points, about)
        way: dict[str, Value] = {"approach_x_um": approach_um[0], "approach_y_um": approach_um[1]}
        return Measured(fit.values | way, fit.residuals)

    def whole(um_per_px: Reals) -> Generator[Msg, Any, tuple[Reals, Slot]]:
        """Find the hole, centre it, and return the points of its edge and its outline, stage um."""
        image, time_s = yield from unsaturated("aperture", camera, column, exposure_time_s, binning)
        about = yield from compute(hole.find, image, um_per_px, start)
        where = yield from arrive(np.array([about.x, about.y]))
        image, _ = yield from unsaturated("aperture", camera, column, time_s, binning)
        about = yield from compute(hole.find, image, um_per_px, where)
        reach = WHOLE_REACH * about.half_width
        points = yield from compute(hole.edge, image, about, um_per_px, where, reach)
        return points, about

    def parts(um_per_px: Reals, field: Field) -> Generator[Msg, Any, tuple[Reals, Slot]]:
        """Visit the edge and return its points, and the outline that is expected, stage um."""
        about, time_s = hole.at(start), exposure_time_s
        found = []
        for place in around:
            where = yield from arrive(place)
            image, time_s = yield from unsaturated("aperture", camera, column, time_s, binning)
            reach = min(0.5 * field.shorter_um, 0.9 * about.half_width)
            found.append((yield from compute(hole.edge, image, about, um_per_px, where, reach)))
        return np.concatenate(found), about

    settings = {
        "exposure_time_s": exposure_time_s,
        "binning": binning,
        "radius_um": radius_um or 0.0,
        "size_um": list(size_um or ()),
        "angle_deg": angle_deg,
        "approach_um": list(approach_um),
        "at_magnification": magnification or 0.0,
    }
    on = Calibrating(camera, column, stage, store, (backlash,) if backlash else (), binning)
    restore = ("magnification", "spot_size_index", "illuminated_area_um")
    return (yield from calibrate("aperture", on, measure, md=md, restore=restore, settings=settings))
