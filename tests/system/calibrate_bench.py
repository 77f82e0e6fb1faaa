"""A laboratory whose truth is not what its column says, for the tests of calibrations."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import tango
from bluesky.run_engine import RunEngine
from bluesky.utils import Msg

from montango.lab import Lab
from plans.calibrations import CalibrationStore
from sim.config import SimulationConfig
from sim.world import World

if TYPE_CHECKING:
    from profiles.simulated.devices import Devices

TRUTH: dict[str, Any] = {
    "column": {
        "pixel_size_error": 0.02,
        "rotation_error_deg": -1.0,
        "image_shift_matrix": [[0.95, -0.05], [0.04, 1.03]],
        "beam_offset_um": [0.11, -0.07],
        "beam_size_error": 0.1,
    },
    "stage": {"backlash_um": 0.2},
    "specimen": {"aperture": {"shape": "disc", "radius_um": 30.0, "centre_um": [2.0, -1.5]}},
}
SLOT: dict[str, Any] = {
    "shape": "slot",
    "size_um": [40.0, 20.0],
    "radius_um": 4.0,
    "centre_um": [2.0, -1.5],
    "rotation_deg": 35.0,
}
SAMPLES = [{"slot": 1, "seed": 1}, {"slot": 2, "seed": 1, "specimen": {"aperture": SLOT}}]
FRAME_PX = 384
SHORT: dict[str, Any] = {"span_um": 10.0, "max_images": 20, "directions": 2, "settle_s": 0.0}

Plan = Generator[Msg, Any, Any]


class Bench:
    """The laboratory, with a store and documents."""

    def __init__(self, lab: Lab, devices: Devices, engine: RunEngine, store: CalibrationStore) -> None:
        self.lab, self.devices, self.engine, self.store = lab, devices, engine, store
        self.documents: list[tuple[str, dict[str, Any]]] = []
        self.three = (devices.camera, devices.column, devices.stage)
        host = f"tango://{lab.info().tango_host}/"
        self.column, self.stage = (tango.DeviceProxy(f"{host}em/{name}/1") for name in ("column", "stage"))

    def run(self, plan: Plan) -> Any:
        """Run a plan, keep its documents, and return what it returns."""
        self.documents = []
        returned: list[Any] = []

        def keep() -> Plan:
            returned.append((yield from plan))

        self.engine(keep(), lambda name, doc: self.documents.append((name, doc)))
        return returned[0]

    def event(self) -> dict[str, Any]:
        """Return the data of the one event of the last run."""
        (event,) = (doc for name, doc in self.documents if name == "event")
        return dict(event["data"])

    @property
    def simulation(self) -> SimulationConfig:
        """The truth."""
        with World.open(str(self.lab.info().world)) as world:
            return world.config

    def is_safe(self) -> bool:
        """Whether the beam is blanked and the stage still."""
        return bool(self.column.beam_blanked) and self.stage.stage_state == "READY"

    def put(self, sample: int) -> None:
        """Lay one of `SAMPLES` on the stage, by its slot."""
        with World.open(str(self.lab.info().world)) as world:
            world.loader.write(world.loading().loaded(sample).pack())
