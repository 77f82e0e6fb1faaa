"""What a frame shows now: from the calibrations where they are, else from the column's nominal figures."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import replace
from typing import Any, NamedTuple

from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.column.device import Column
from devices.errors import ConfigurationError
from plans.calibrations import CalibrationStore
from plans.specs.view import View
from plans.stubs.ask import read_now


class Setup(NamedTuple):
    """The settings that calibrations hold for."""

    magnification: float
    high_voltage_kv: float
    camera: str
    binning: int


def read_setup(camera: Camera, column: Column) -> Generator[Msg, Any, Setup]:
    """Return the settings that calibrations hold for, as column and camera have them now."""
    magnification, high_voltage_kv = yield from read_now(column, "magnification", "high_voltage_kv")
    (binning,) = yield from read_now(camera, "binning")
    return Setup(float(magnification), float(high_voltage_kv), camera.name, int(binning))


def view_from(
    store: CalibrationStore | None, camera: Camera, column: Column, *, max_age_s: float = math.inf
) -> Generator[Msg, Any, View]:
    """Return what a frame shows: measured where there is a calibration for these settings, else nominal.

    Parameters
    ----------
    store
        The calibrations; None takes the nominal figures.
    camera, column
        The instruments, as they are set now.
    max_age_s
        An older calibration is not used, s.

    Raises
    ------
    ConfigurationError
        The magnification has neither a calibration nor a nominal pixel size, or the calibration is of a
        sensor of another size.
    """
    setup = yield from read_setup(camera, column)
    width_px, height_px, sensor_px = yield from read_now(camera, "width_px", "height_px", "sensor_width_px")
    size = int(width_px), int(height_px)
    view = None
    if store is not None:
        view = _measured(store, setup, size, int(sensor_px), max_age_s)
    if view is None:
        pixel_nm, rotation_deg = yield from read_now(column, "pixel_size_nm", "image_rotation_deg")
        view = View.from_nominal(*size, float(pixel_nm) * setup.binning, float(rotation_deg))
    return _with_shift(store, setup, view, max_age_s) if store is not None else view


def measured_view(
    store: CalibrationStore,
    setup: Setup,
    size_px: tuple[int, int],
    sensor_px: int,
    max_age_s: float = math.inf,
) -> View | None:
    """Return what a frame shows as it was measured for these settings, or None where it was not.

    Raises
    ------
    ConfigurationError
        The calibration is of a sensor of another size.
    """
    view = _measured(store, setup, size_px, sensor_px, max_age_s)
    return None if view is None else _with_shift(store, setup, view, max_age_s)


def _measured(
    store: CalibrationStore, setup: Setup, size_px: tuple[int, int], sensor_px: int, max_age_s: float
) -> View | None:
    """Return the view of the newest fresh stage-camera calibration, without image shift, or None."""
    one = store.newest("stage_camera", magnification=setup.magnification, camera=setup.camera)
    if one is None or time.time() - one.made_at_s > max_age_s:
        return None
    made_for_px = one.number("sensor_width_px")
    if made_for_px != sensor_px:
        raise ConfigurationError(
            f"calibration stage_camera {one.uid} is of a sensor {made_for_px:g} px wide, but camera "
            f"{setup.camera} has {sensor_px}; run calibrate_stage_camera"
        )
    (a, b), (c, d) = one.matrix("stage_per_px_um")
    k = setup.binning
    return View(*size_px, stage_per_px_um=((k * a, k * b), (k * c, k * d)))


def _with_shift(store: CalibrationStore, setup: Setup, view: View, max_age_s: float) -> View:
    """Return a view with the measured image-shift matrix, where there is a fresh one."""
    one = store.newest("image_shift", magnification=setup.magnification, camera=setup.camera)
    if one is None or time.time() - one.made_at_s > max_age_s:
        return view
    return replace(
        view, stage_per_shift=one.matrix("stage_per_shift"), image_shift_limit_um=one.number("limit_um")
    )
