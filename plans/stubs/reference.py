"""Dark and bright reference: which of the store's hold for frames as they are taken now."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.column.device import Column
from plans.calibrations import Calibration, CalibrationStore
from plans.stubs.ask import read_now
from plans.stubs.view import Setup, read_setup
from processing.references import NEEDED, load_reference

if TYPE_CHECKING:
    from processing.kernels.reference import Reference

logger = logging.getLogger(__name__)


def references_for(
    store: CalibrationStore, setup: Setup, exposure_time_s: float, size_px: tuple[int, int]
) -> tuple[Calibration, Calibration] | None:
    """Return the newest dark and bright reference that hold for frames, or None where there are not both.

    Those of frames of another size are left out, and so is a bright reference that is more noise than
    pattern: to take it out of a frame would spoil it.

    Parameters
    ----------
    store
        The calibrations.
    setup
        Magnification, camera and binning of the frames.
    exposure_time_s
        Their exposure; a dark reference of another one does not hold.
    size_px
        Their width and height, binned.
    """
    dark, bright = (
        store.newest(
            kind,
            magnification=setup.magnification,
            camera=setup.camera,
            binning=setup.binning,
            exposure_time_s=exposure_time_s,
        )
        for kind in NEEDED
    )
    if dark is None or bright is None or dark.arrays is None or bright.arrays is None:
        return None
    reason = _unfit(dark, size_px) or _unfit(bright, size_px) or _noisy(bright)
    if reason:
        logger.warning("frames are not corrected: %s", reason)
        return None
    return dark, bright


def snap_reference(
    store: CalibrationStore | None, camera: Camera, column: Column, exposure_time_s: float, binning: int
) -> Generator[Msg, Any, Reference | None]:
    """Return the reference of frames of the whole sensor that `snap` takes now, or None where there is none.

    Raises
    ------
    ConfigurationError
        The arrays of one that holds are missing or damaged.
    """
    if store is None:
        return None
    setup = yield from read_setup(camera, column)
    width_px, height_px = yield from read_now(camera, "sensor_width_px", "sensor_height_px")
    size = int(width_px) // binning, int(height_px) // binning
    found = references_for(store, setup._replace(binning=binning), exposure_time_s, size)
    if found is None:
        return None
    dark, bright = (one.arrays for one in found)
    assert dark is not None
    assert bright is not None
    return load_reference(dark, bright)


def _unfit(one: Calibration, size_px: tuple[int, int]) -> str:
    if "width_px" not in one.values:
        return ""
    made_for = one.number("width_px"), one.number("height_px")
    if made_for == size_px:
        return ""
    return (
        f"the {one.kind} reference {one.uid} is of frames of {made_for[0]:g} x {made_for[1]:g} px, not of "
        f"{size_px[0]} x {size_px[1]}"
    )


def _noisy(bright: Calibration) -> str:
    noise, spread = bright.residuals.get("pixel_rms", 0.0), bright.values.get("spread", math.inf)
    if not isinstance(spread, int | float) or noise**2 <= spread**2 / 2:
        return ""
    return (
        f"the bright reference {bright.uid} is more noise ({noise:.1%}) than pattern; run calibrate_bright "
        f"with more frames, or over an empty area"
    )
