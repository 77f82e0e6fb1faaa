"""Commands that start, stop and watch a laboratory."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from montango.cli.options import chosen
from montango.cli.table import duration, table

if TYPE_CHECKING:
    from montango.lab import LabInfo, LabStatus

FOLLOW_PERIOD_S = 0.2


def up(
    context: typer.Context,
    wait: Annotated[
        bool, typer.Option("--wait", help="return only when the catalog answers too (10 to 20 s)")
    ] = False,
) -> None:
    """Start the lab; returns when the instruments answer."""
    started = time.monotonic()
    lab = chosen(context).lab()
    info = lab.up(wait=wait, report=_say)
    _say(f"lab {info.name} is up after {time.monotonic() - started:.1f} s; stop it with `montango down`")
    _where(info)


def down(context: typer.Context) -> None:
    """Stop everything that the lab started."""
    started = time.monotonic()
    lab = chosen(context).existing_lab()
    if lab.down():
        _say(f"the lab in {lab.state.root} is down after {time.monotonic() - started:.1f} s")
    else:
        _say(f"no lab was up in {lab.state.root}")


def status(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON, without the key")] = False,
) -> None:
    """Show every process, device and service."""
    found = chosen(context).existing_lab().status()
    if as_json:
        _say(json.dumps(found.public(), indent=2))
        return
    _say(f"lab {found.lab.name}, up for {duration(found.uptime_s)}, supervisor pid {found.lab.pid}\n")
    _say(_process_table(found))
    _say("")
    _say(
        table(
            ("DEVICE", "NAME", "STATE", ""),
            [(one.name, one.device, one.state or "-", _note(one.answer)) for one in found.devices],
        )
    )
    _say("")
    _where(found.lab)


def _process_table(found: LabStatus) -> str:
    head = ("PROCESS", "STATE", "PID", "UPTIME", "RESTARTS", "CPU %", "MB", "ANSWER")
    rows = [
        (
            one.name,
            one.word,
            one.pid or "-",
            duration(one.uptime_s) if one.pid else "-",
            one.restarts,
            round(one.cpu_percent),
            round(one.memory_mb),
            "yes" if one.ready else _note(one.answer),
        )
        for one in found.processes
    ]
    return table(head, rows)


def _note(answer: str) -> str:
    return "" if answer == "answers" else " ".join(answer.split())


def _where(info: LabInfo) -> None:
    _say(f"state    {info.state_dir}")
    _say(f"data     {info.data_dir}")
    _say(f"tango    TANGO_HOST={info.tango_host}")
    _say(f"catalog  {info.tiled['uri']}")
    _say(f"access   {_access(info.tiled.get('access', ''))}")
    _say(f"key      in {Path(info.state_dir) / 'run' / 'lab.json'}")


def _access(how: str) -> str:
    if how == "single user":
        return "single user: whoever has the key may read and write everything"
    return "as the site's server has it" if how in ("site", "") else f"several users: people of {how}"


def logs(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="process, as `montango status` names it; also supervisord")],
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="lines to show")] = 40,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="go on as the log grows, until Ctrl-C")
    ] = False,
) -> None:
    """Show the end of a process's log."""
    path = chosen(context).existing_lab().log_path(name)
    with path.open(errors="replace") as file:
        for line in file.readlines()[-lines:] if lines else []:
            sys.stdout.write(line)
    if follow:
        sys.stdout.flush()
        _follow(path)


def _follow(path: Path) -> None:
    """Write what is appended; goes on in the new file after the log was rotated."""
    file = path.open(errors="replace")
    file.seek(0, 2)
    try:
        while True:
            if text := file.read():
                sys.stdout.write(text)
                sys.stdout.flush()
                continue
            time.sleep(FOLLOW_PERIOD_S)
            if path.exists() and (
                path.stat().st_size < file.tell()
                or path.stat().st_ino != Path(f"/dev/fd/{file.fileno()}").stat().st_ino
            ):
                file.close()
                file = path.open(errors="replace")
    finally:
        file.close()


def restart(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="process, as `montango status` names it")],
) -> None:
    """Stop one process and start it again; returns when it answers."""
    started = time.monotonic()
    chosen(context).existing_lab().restart(name)
    _say(f"{name} is ready again after {time.monotonic() - started:.1f} s")


def _say(line: str) -> None:
    print(line, flush=True)
