"""A camera server whose counters push no event, in a process of its own.

``python -m tests.devices.silent_camera FOLDER``: started and not forked, since a fork of a process that has
used Tango cannot serve it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tango.test_context import MultiDeviceTestContext

from devices.camera.server import CameraServer
from sim.config import SimulationConfig
from sim.world import World

NAME = "em/camera/1"
SILENT = ("frames_written", "series_done")


class SilentCameraServer(CameraServer):
    """A camera server whose counters push no event."""

    def publish(self, **values: Any) -> None:
        """Push what is no counter."""
        super().publish(**{name: value for name, value in values.items() if name not in SILENT})


def serve(folder: Path) -> None:
    """Serve until standard input ends; says READY and the device's address when it answers."""
    config = {
        "timing": "fast",
        "camera": {"width_px": 64, "height_px": 64},
        "specimen": {"texture_px": 512},
    }
    World.create(folder / "world", SimulationConfig.model_validate(config)).close()
    properties = {
        "driver": "sim.camera:SimulatedCamera",
        "driver_options": json.dumps({"world": str(folder / "world")}),
        "state_file": str(folder / "counts"),
        "ring_dir": str(folder),
    }
    devices = [{"class": SilentCameraServer, "devices": [{"name": NAME, "properties": properties}]}]
    with MultiDeviceTestContext(devices, process=True, host="127.0.0.1", timeout=120) as context:
        print("READY", context.get_device_access(NAME), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
