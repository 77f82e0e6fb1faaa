"""One frame beside the record, with beam only while it is exposed."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.camera.snap import Snap
from devices.column.device import Column
from plans.stubs.ask import ask


def snap(
    camera: Camera,
    column: Column,
    exposure_time_s: float,
    *,
    binning: int = 1,
    region_px: Sequence[int] | None = None,
    dark: bool = False,
) -> Generator[Msg, Any, Snap]:
    """Take one frame that goes into no file, and return it.

    The beam is unblanked before and blanked after, whatever happens; the camera's settings stay as they are.
    Works inside and outside a run. The sequencer must be idle: it blanks and unblanks the beam itself.

    Parameters
    ----------
    camera, column
        The instruments.
    exposure_time_s
        Exposure, in s.
    binning
        Pixels added along each axis.
    region_px
        Offset x, y and size x, y on the sensor, unbinned pixels; None is the whole sensor.
    dark
        Leave the beam blanked: a dark frame.

    Returns
    -------
    Snap
        ``data`` (y, x) uint16 in counts, and when and how it was exposed.

    Raises
    ------
    LimitError
        Exposure, binning or region outside what the camera can do; nothing is exposed.
    MontangoError
        An instrument failed; the error names it.
    """

    def expose() -> Generator[Msg, Any, Snap]:
        yield from bps.abs_set(column.beam_blanked, dark, wait=True)
        return (yield from ask(lambda: camera.snap(exposure_time_s, binning=binning, region_px=region_px)))

    def blank() -> Generator[Msg, Any, None]:
        yield from bps.abs_set(column.beam_blanked, True, wait=True)

    return (yield from bpp.finalize_wrapper(expose(), blank))  # type: ignore[no-any-return]
