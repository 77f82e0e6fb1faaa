"""The command that watches and steers a montage that runs in another process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from montango.cli.options import chosen

if TYPE_CHECKING:
    from devices.montage_control.board import Request

STATUS = "status"
LINES = (
    ("montage", "{montage_id} {montage_state}"),
    ("tiles", "{current_tile} of {total_tiles}, {tiles_reimaged} acquired again{where}"),
    (
        "cycle",
        "{avg_cycle_time_s:.3f} s a tile: move {stage_move_time_s:.3f} s, capture {capture_time_s:.3f} s",
    ),
    ("throughput", "{throughput_per_min:.1f} tiles a minute, done in {eta_s:.0f} s"),
    ("verdict", "{qc_verdict}"),
    ("engine", "{engine}, reported {last_seen_s:.1f} s ago"),
)


def control(
    context: typer.Context,
    request: Annotated[
        str,
        typer.Argument(
            help="status, pause, pause-now, resume, abort, abort-at-end-of-row, abort-at-end-of-roi, "
            "skip-roi, retry or accept"
        ),
    ] = STATUS,
    as_json: Annotated[bool, typer.Option("--json", help="print the status as JSON")] = False,
) -> None:
    """Show how far the montage is, or steer it; returns when the montage has taken the request."""
    from plans.tango_control import TangoControl

    wanted = None if request == STATUS else request_named(request)
    info = chosen(context).existing_lab().info()
    server = TangoControl(f"tango://{info.tango_host}/{info.devices['control']}", drives=False)
    if wanted is None:
        status = server.status()
        print(json.dumps(status, default=list) if as_json else "\n".join(status_lines(status)))
    else:
        server.ask_and_wait(wanted)
        print(f"{request}: taken")


def status_lines(status: dict[str, Any]) -> list[str]:
    """Return the status of the montage in lines for people."""
    if not status["montage_id"]:
        return ["no montage has been acquired since the lab came up"]
    values = {**status, "where": f", in {status['roi']}" if status["roi"] else ""}
    lines = [f"{name:<11}{text.format(**values)}" for name, text in LINES]
    if status["reason"]:
        lines.append(f"{'reason':<11}{status['reason']}")
    return [*lines, *(f"{'held':<11}{reason}" for reason in status["holds"] or ())]


def request_named(name: str) -> Request:
    """Return the request of a name such as ``pause-now``.

    Raises
    ------
    ConfigurationError
        There is none; naming the nearest.
    """
    import difflib

    from devices.errors import ConfigurationError
    from devices.montage_control.board import Request

    known = {str(one).replace("_", "-"): one for one in Request}
    if name.replace("_", "-") in known:
        return known[name.replace("_", "-")]
    near = difflib.get_close_matches(name, [STATUS, *known], n=1, cutoff=0.4)
    hint = f"; the nearest is {near[0]!r}" if near else ""
    raise ConfigurationError(f"there is no request {name!r}{hint}; there are {', '.join([STATUS, *known])}")
