"""The namespace of a scientist's shell: what a profile's ``startup.py`` fills its globals with."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
from bluesky.callbacks.best_effort import BestEffortCallback
from IPython.core.getipython import get_ipython
from pydantic import ValidationError

import montango as montango_package
import plans
from devices.errors import ConfigurationError, MontangoError
from montango.config import load_config
from montango.lab import Lab, LabInfo
from montango.lab.state import STATE_VARIABLE
from montango.lazy_catalog import LazyCatalog
from montango.magics import register_magics
from montango.onlooker import READ_ONLY_VARIABLE, Onlooker
from montango.session import Session, SessionDevices
from plans.specs.montage import MontageSpec
from processing.callbacks.progress import Progress

GREETING = """
RE(montage(sequencer, camera, column, stage, spec(rows=3, columns=3)))          a montage
RE(bp.scan([camera], stage.x, -5, 5, 3))                                        a stock plan
%mov stage.x 10        %wa        montage?        stage.x?                      magics, help
%montage_status        %montage_control pause     (from another terminal too)   while it runs
catalog                                                                         the runs so far
"""


def check_packages() -> None:
    """Refuse to start where a file of the user's shadows a package of Montango.

    Raises
    ------
    ConfigurationError
        Naming the file.
    """
    found = Path(plans.__file__ or "").parent
    ours = Path(montango_package.__file__ or "").parents[1] / "plans"
    if found.resolve() != ours.resolve():
        raise ConfigurationError(
            f"{found} hides Montango's own package plans; start the shell in another folder, or rename it"
        )


def log_to(path: Path) -> None:
    """Write the logs to a file, with tracebacks; warnings of Montango also to the terminal, a line each."""
    logging.basicConfig(filename=path, level=logging.INFO, force=True)
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.WARNING)
    terminal.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    for name in ("devices", "montango", "plans", "processing", "tiled_server"):
        logging.getLogger(name).addHandler(terminal)


def _explain(_shell: Any, kind: type[Exception], error: Exception, *_trace: Any, **_: Any) -> None:
    """Show a foreseen error as its message; the traceback is in the session's log, or with %debug."""
    print(f"{kind.__name__}: {error}", file=sys.stderr)


def session_namespace(make_devices: Callable[[LabInfo], SessionDevices]) -> dict[str, Any]:
    """Return everything that a scientist finds in the shell, connected to the laboratory that is up.

    ``RE``, the devices and plans by their names, ``MontageSpec``, ``spec`` (a specification on top of the
    configuration's defaults), ``control``, ``bp``, ``bps``, ``catalog``, ``session`` and ``lab_info``; the
    live table, the progress display and the magics are set up. With ``$MONTANGO_READ_ONLY`` nothing can be
    run: devices can be read, and the montage that another session runs watched and steered.

    Parameters
    ----------
    make_devices
        The profile's function that returns the devices of a laboratory.

    Raises
    ------
    LabNotRunning
        No laboratory is up.
    EngineBusy
        Another session drives it.
    """
    check_packages()
    state = os.environ.get(STATE_VARIABLE)
    info = (Lab(None, state) if state else Lab(load_config())).connect()
    session: Session[Any] | Onlooker
    if os.environ.get(READ_ONLY_VARIABLE):
        session = Onlooker(info, make_devices)
    else:
        session = _driving(info, make_devices)
    atexit.register(session.close)
    log_to(Path(info.log_dir) / "session.log")
    shell: Any = get_ipython()  # type: ignore[no-untyped-call]
    if shell is not None:
        register_magics(shell, session)
        shell.set_custom_exc((MontangoError, ValidationError), _explain)
    print(f"laboratory {info.name}, catalog {info.tiled['uri']}{GREETING}")
    return {
        **session.plans,
        **session.devices.named(),
        "RE": session.RE,
        "MontageSpec": MontageSpec,
        "bp": bp,
        "bps": bps,
        "catalog": LazyCatalog(info.tiled["uri"], info.tiled["api_key"]),
        "control": session.control,
        "lab_info": info,
        "session": session,
        "spec": session.spec,
    }


def _driving(info: LabInfo, make_devices: Callable[[LabInfo], SessionDevices]) -> Session[Any]:
    session = Session(info, make_devices)
    table = BestEffortCallback()
    table.disable_plots()
    session.RE.subscribe(table)
    session.RE.subscribe(Progress())
    return session
