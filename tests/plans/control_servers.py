"""A column, a stage and the montage-control server that watches them, in a process of their own.

``python -m tests.plans.control_servers FOLDER PORT LOST_AFTER_S``: started and not forked, since a fork of
a process that has used Tango cannot serve it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from tango.test_context import MultiDeviceTestContext

from devices.column.server import ColumnServer
from devices.montage_control.server import ControlServer
from devices.stage.server import StageServer


def addresses(port: int) -> dict[str, str]:
    """Return the addresses of the devices."""
    return {kind: f"tango://127.0.0.1:{port}/em/{kind}/1#dbase=no" for kind in ("column", "stage", "control")}


def serve(folder: str, port: int, lost_after_s: float) -> None:
    """Serve until standard input ends; says READY when the servers answer."""
    found = addresses(port)
    simulated = json.dumps({"world": f"{folder}/world"})
    board = json.dumps({"lost_after_s": lost_after_s, "state_file": f"{folder}/control.json"})
    properties: dict[str, tuple[type[Any], dict[str, str]]] = {
        "column": (ColumnServer, {"driver": "sim.column:SimulatedColumn", "driver_options": simulated}),
        "stage": (StageServer, {"driver": "sim.stage:SimulatedStage", "driver_options": simulated}),
        "control": (
            ControlServer,
            {
                "driver": "devices.montage_control.board:Board",
                "driver_options": board,
                "column_device": found["column"],
                "stage_device": found["stage"],
            },
        ),
    }
    devices = [
        {"class": server, "devices": [{"name": f"em/{kind}/1", "properties": one}]}
        for kind, (server, one) in properties.items()
    ]
    with MultiDeviceTestContext(devices, process=True, host="127.0.0.1", port=port, timeout=60):
        print("READY", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
