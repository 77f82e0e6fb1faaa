"""The command line as a whole: options for every command, the commands, exit status.

Exit status: 0 done · 1 failed · 2 wrong usage or configuration · 3 no lab is up · 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from devices.errors import ConfigurationError, MontangoError
from montango.cli import catalog, configuration, diagnosis, journal, lab, versions
from montango.cli.options import CONFIG_VARIABLE, Choice

FAILED, USAGE, NOT_RUNNING, INTERRUPTED = 1, 2, 3, 130
DEBUG_VARIABLE = "MONTANGO_DEBUG"

app = typer.Typer(
    name="montango",
    help="Run an electron microscope the way a synchrotron beamline is run.",
    epilog="Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 no lab is up, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(envvar=CONFIG_VARIABLE, help="montango.yaml (default: the simulated lab)")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="state directory (default: $MONTANGO_STATE, or one a lab's name)")
    ] = None,
) -> None:
    """Take the options that every command has."""
    context.obj = Choice(config, state)


app.command()(lab.up)
app.command()(lab.down)
app.command()(lab.status)
app.command()(lab.logs)
app.command()(lab.restart)
app.command()(diagnosis.doctor)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(diagnosis.bench)
app.command()(versions.version)
app.add_typer(configuration.app, name="config")
app.add_typer(journal.app, name="journal")
app.add_typer(catalog.app, name="catalog")

for _name in ("demo", "shell", "preview", "resume", "control", "samples", "stitch", "export", "ingest"):
    try:
        app.command(name=_name)(getattr(importlib.import_module(f"montango.cli.{_name}"), _name))
    except ModuleNotFoundError as _error:
        if _error.name != f"montango.cli.{_name}":
            raise


def run() -> int:
    """Run the command that the arguments name; a foreseen error becomes one message and an exit status.

    A command that a signal ended is interrupted, whatever its last step made of that.
    """
    interrupts: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    status = _run()
    return INTERRUPTED if interrupts and status == FAILED else status


def _run() -> int:
    try:
        app(standalone_mode=True)
    except MontangoError as error:
        return _explain(error)
    except OSError as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        return _complain(f"{error.filename or 'system'}: {error.strerror or error}", FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else FAILED
    return 0


def _explain(error: MontangoError) -> int:
    from montango.lab.errors import LabNotRunning

    if os.environ.get(DEBUG_VARIABLE):
        raise error
    if isinstance(error, LabNotRunning):
        return _complain(str(error), NOT_RUNNING)
    return _complain(str(error), USAGE if isinstance(error, ConfigurationError) else FAILED)


def _complain(text: str, code: int) -> int:
    print(f"montango: {text}", file=sys.stderr)
    return code
