"""The magics of Bluesky users, on Montango's devices: %mov, %movr, %ct, %wa."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bluesky.magics import BlueskyMagics
from bluesky.run_engine import RunEngine, call_in_bluesky_event_loop
from IPython.core.magic import Magics, line_magic, magics_class

from devices.stage.driver import AXES, axis_unit

COLUMN_SETTINGS = ("magnification", "pixel_size_nm", "defocus_um", "spot_size_index", "beam_blanked")


def register_magics(shell: Any, engine: RunEngine, devices: Any) -> None:
    """Register the magics in an IPython shell.

    ``%mov`` and ``%movr`` run on an engine of their own that shares the loop of ``engine`` (Tango's client
    knows one event loop a process), so that moving about by hand leaves no runs in the catalog.
    """

    BlueskyMagics.RE = RunEngine({}, loop=engine.loop)

    @magics_class
    class WhereMagics(Magics):
        @line_magic
        def wa(self, line: str) -> None:
            """Show where everything is: stage with limits, column, facility. [where all]."""
            print("\n".join(where_all(devices)))

    shell.register_magics(BlueskyMagics, WhereMagics)


def where_all(devices: Any) -> Iterator[str]:
    """Yield lines with the positions and settings that matter for a montage, read now."""
    position, _ = call_in_bluesky_event_loop(devices.stage.position_now())
    limits = call_in_bluesky_event_loop(devices.stage.limits()).as_tuple()
    yield f"{'':<30}{'value':>14}  {'limits':<20}"
    for axis, value, (low, high) in zip(AXES, position, limits, strict=True):
        yield f"{'stage ' + axis:<30}{value:>14.4f}  {low:g} to {high:g} {axis_unit(axis)}"
    for name in COLUMN_SETTINGS:
        value = call_in_bluesky_event_loop(getattr(devices.column, name).get_value())
        yield f"{'column ' + name:<30}{value!s:>14}"
    if devices.facility.connected:
        for name in devices.facility.component_names:
            yield f"{'facility ' + name:<30}{getattr(devices.facility, name).get():>14.6g}"
