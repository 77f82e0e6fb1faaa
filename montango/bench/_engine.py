"""An engine in a process of its own, for `montango.bench.kill` to drive and to kill.

It reads one JSON object a line and answers with one: ``{"do": "open"}`` makes a session, ``{"do": "montage",
"spec": ..., "montage_id": ...}`` and ``{"do": "resume", "montage_id": ...}`` run a plan, ``{"do": "close"}``
ends.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from devices.errors import MontangoError
from montango.lab import Lab, LabInfo
from montango.session import Session
from plans.specs.montage import MontageSpec
from processing.callbacks.tile_qc import TileQC


def serve(state_dir: str) -> None:
    """Answer requests until the input ends."""
    os.environ.update(Lab(None, state_dir).info().environment())
    TileQC()  # compiles its kernels
    answer({"warm": os.getpid()})
    session: Session[Any] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "open":
            session = Session(Lab(None, state_dir).info(), instruments)
            answer({"open": True})
        elif request["do"] == "close":
            break
        elif session is not None:
            answer(attempt(lambda one=session, what=request: acquire(one, what)))  # type: ignore[misc]
    if session is not None:
        session.close()
    answer({"closed": True})


def instruments(info: LabInfo) -> Any:
    """Return the instruments by name; the facility's signals are not read."""
    from profiles.simulated.devices import make_instruments  # Channel Access reads its environment then

    return SimpleNamespace(**make_instruments(info)._asdict(), facility=SimpleNamespace(connected=False))


def acquire(session: Session[Any], request: dict[str, Any]) -> None:
    """Run a montage, or go on with one; return when its documents are in the journal."""
    devices = session.devices
    instruments = devices.sequencer, devices.camera, devices.column, devices.stage
    montage_id = request["montage_id"]
    if request["do"] == "montage":
        spec = MontageSpec.model_validate(request["spec"])
        plan = session.montage(*instruments, spec, {"montage_id": montage_id})
    else:
        plan = session.plans["resume_montage"](*instruments, montage_id)
    try:
        session.RE(plan)
    finally:
        session.journal.drain(60.0)


def attempt(action: Callable[[], None]) -> dict[str, Any]:
    """Return how an action ended, as an answer."""
    try:
        action()
    except MontangoError as error:
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}
    except Exception as error:
        logging.getLogger(__name__).exception("not a foreseen error")
        return {"ok": False, "error": f"unforeseen {type(error).__name__}: {error}"}
    return {"ok": True}


def answer(values: dict[str, Any]) -> None:
    """Write one answer."""
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    serve(sys.argv[1])
