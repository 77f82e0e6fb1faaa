"""The command for scientists: an IPython session on the laboratory that is up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from montango.cli.options import chosen

PROFILE = "profiles.simulated"


def shell(
    context: typer.Context,
    command: Annotated[
        str | None, typer.Option("-c", "--command", help="run this and leave, instead of asking")
    ] = None,
    profile: Annotated[str, typer.Option(help="package with startup.py")] = PROFILE,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="look on while another session drives; nothing can be run")
    ] = False,
) -> None:
    """Open IPython with the RunEngine, the devices, the plans and the catalog ready."""
    from importlib.util import find_spec

    from IPython.terminal.ipapp import TerminalIPythonApp
    from traitlets.config import Config

    from devices.errors import ConfigurationError
    from montango.lab.state import STATE_VARIABLE
    from montango.onlooker import READ_ONLY_VARIABLE

    spec = find_spec(f"{profile}.startup")
    if spec is None or spec.origin is None:
        raise ConfigurationError(f"profile {profile!r} has no startup.py; give a package such as {PROFILE}")
    info = chosen(context).existing_lab().connect()
    os.environ[STATE_VARIABLE] = info.state_dir
    if read_only:
        os.environ[READ_ONLY_VARIABLE] = "1"
    config = Config()
    config.InteractiveShellApp.exec_files = [spec.origin]
    config.InteractiveShellApp.code_to_run = command or ""
    config.TerminalIPythonApp.force_interact = command is None
    config.TerminalInteractiveShell.banner1 = "Montango\n"
    config.HistoryAccessor.hist_file = str(Path(info.state_dir) / "run" / "history.sqlite")
    application = TerminalIPythonApp.instance(config=config)
    application.initialize(argv=[])
    try:
        if command is None:
            application.start()
    finally:
        session = application.shell.user_ns.get("session")  # type: ignore[union-attr]
        if session is not None:
            session.close()  # while threads can still be started: an exit handler comes too late
