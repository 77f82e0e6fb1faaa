"""Looking for a disc (a beam, a hole) in a frame that is not saturated."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import bluesky.plan_stubs as bps
import numpy as np
import numpy.typing as npt
from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.column.device import Column
from devices.column.settings import BY_NAME
from plans.calibrate.measurement import failed
from plans.calibrations import CalibrationKind
from plans.stubs.ask import read_now
from plans.stubs.snap import snap
from processing.kernels.edges import EllipseFit, disc_guess, edge_points, fit_ellipse

SATURATED_SHARE = 1e-3
SHORTEST_S = 1e-3
"""The shortest exposure that is tried, s."""


def unsaturated(
    kind: CalibrationKind, camera: Camera, column: Column, exposure_time_s: float, binning: int
) -> Generator[Msg, Any, tuple[npt.NDArray[np.uint16], float]]:
    """Return a frame that is not saturated, and its exposure (s): as asked for, or a quarter of it, ...

    Where the shortest exposure saturates, ``spot_size_index`` rises: less current. The caller restores it.

    Raises
    ------
    InstrumentFault
        Even the shortest exposure with the smallest spot saturates.
    """
    (bits,) = yield from read_now(camera, "bit_depth")
    smallest = int(BY_NAME["spot_size_index"].high or 1)
    full = 2 ** int(bits) - 1
    time_s = exposure_time_s
    while True:
        frame = yield from snap(camera, column, time_s, binning=binning)
        if float(np.mean(frame.data >= full)) <= SATURATED_SHARE:
            return frame.data, time_s
        if time_s > SHORTEST_S:
            time_s = max(time_s / 4, SHORTEST_S)
            continue
        (spot,) = yield from read_now(column, "spot_size_index")
        if spot >= smallest:
            raise failed(kind, f"a frame of {time_s:.2g} s is saturated; lower the beam current")
        yield from bps.abs_set(column.spot_size_index, int(spot) + 1, wait=True)


def find_disc(kind: CalibrationKind, image: npt.NDArray[Any], *, circle: bool) -> EllipseFit:
    """Return the edge of the bright disc in a frame; px from the middle of the frame.

    Raises
    ------
    InstrumentFault
        There is no disc, or it does not lie within the frame.
    """
    guess = disc_guess(image)
    if guess is None:
        raise failed(kind, "nothing bright stands out of the frame; is the beam on?")
    x, y, radius = guess
    height, width = image.shape
    if radius < 8:
        raise failed(kind, f"what stands out has a radius of {radius:.1f} px; use a higher magnification")
    try:
        fit = fit_ellipse(edge_points(image, (x, y), radius), circle=True)
        fit = fit_ellipse(edge_points(image, (fit.x, fit.y), fit.radius, reach=0.2), circle=circle)
    except ValueError as error:
        raise failed(kind, f"{error}; the whole disc must be seen, at a lower magnification") from error
    if abs(fit.x) + fit.major > 0.52 * width or abs(fit.y) + fit.major > 0.52 * height:
        raise failed(
            kind,
            f"the disc of {2 * fit.radius:.0f} px does not lie within the frame of {width} x {height} px; "
            f"centre it, or use a lower magnification",
        )
    return fit
