"""What `montango shell` runs: it fills the session's namespace.

Also usable on its own, with a laboratory up: ``ipython -i -m profiles.simulated.startup``.
"""

from __future__ import annotations

import atexit
import os
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
from bluesky.callbacks.best_effort import BestEffortCallback
from IPython.core.getipython import get_ipython

import montango as montango_package
import plans
from devices.errors import ConfigurationError
from montango.config import load_config
from montango.lab import Lab, LabInfo
from montango.magics import register_magics
from montango.session import LazyCatalog, Session
from plans.specs.montage import MontageSpec
from processing.callbacks.progress import Progress
from profiles.simulated.devices import Devices, make_devices

GREETING = """
RE(montage(sequencer, camera, column, stage, MontageSpec(rows=3, columns=3)))   a montage
RE(bp.scan([camera], stage.x, -5, 5, 3))                                        a stock plan
%mov stage.x 10        %wa        montage?        stage.x?                  magics, help
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


def start_session() -> tuple[LabInfo, Devices, Session[Devices]]:
    """Connect to the laboratory that is up and return it, its devices and a session.

    Raises
    ------
    LabNotRunning
        None is up.
    """
    check_packages()
    lab = (
        Lab(None, os.environ.get("MONTANGO_STATE"))
        if os.environ.get("MONTANGO_STATE")
        else Lab(load_config())
    )
    info = lab.connect()
    config = load_config(info.config)
    reserve_gb = config.paths.minimum_free_gb
    made = Session(info, make_devices, thresholds=config.qc, minimum_free_gb=reserve_gb)
    return info, made.devices, made


lab_info, devices, session = start_session()
atexit.register(session.close)
RE = session.RE
column, stage, camera, sequencer = devices.column, devices.stage, devices.camera, devices.sequencer
facility = devices.facility
montage = session.montage
catalog = LazyCatalog(lab_info.tiled["uri"], lab_info.tiled["api_key"])
bec = BestEffortCallback()
bec.disable_plots()
RE.subscribe(bec)
RE.subscribe(Progress())
shell: Any = get_ipython()  # type: ignore[no-untyped-call]
if shell is not None:
    register_magics(shell, RE, devices)
print(f"laboratory {lab_info.name}, catalog {lab_info.tiled['uri']}{GREETING}")

__all__ = ["RE", "MontageSpec", "bp", "bps", "catalog", "montage", "session"]
