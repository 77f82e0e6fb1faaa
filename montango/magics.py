"""The magics of Bluesky users, on Montango's devices (%mov, %movr, %ct, %wa), and those of a montage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bluesky.magics import BlueskyMagics
from bluesky.run_engine import RunEngine, call_in_bluesky_event_loop
from IPython.core.magic import Magics, line_magic, magics_class

from devices.stage.driver import AXES, axis_unit
from montango.cli.control import request_named, status_lines
from montango.onlooker import Onlooker
from montango.session import Session

COLUMN_SETTINGS = ("magnification", "pixel_size_nm", "defocus_um", "spot_size_index", "beam_blanked")


def register_magics(shell: Any, session: Session[Any] | Onlooker) -> None:
    """Register the magics in an IPython shell.

    ``%mov`` and ``%movr`` run on an engine of their own that shares the loop of the session's (Tango's
    client knows one event loop a process), so that moving about by hand leaves no runs in the catalog. A
    session that only looks on has none that move.
    """

    @magics_class
    class MontageMagics(Magics):
        @line_magic
        def wa(self, line: str) -> None:
            """Show where everything is: stage with limits, column, facility. [where all]."""
            print("\n".join(where_all(session.devices)))

        @line_magic
        def montage_status(self, line: str) -> None:
            """Show how far the montage is that this or another session runs."""
            print("\n".join(status_lines(session.control.status())))

        @line_magic
        def montage_control(self, line: str) -> None:
            """Steer the montage: pause, pause-now, resume, abort, skip-roi, ... (see montango control)."""
            session.control.ask(request_named(line.strip()))

    if isinstance(session, Session):
        BlueskyMagics.RE = RunEngine({}, loop=session.RE.loop)
        shell.register_magics(BlueskyMagics)
    shell.register_magics(MontageMagics)


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
