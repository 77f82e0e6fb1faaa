"""The devices of the simulated laboratory, as ophyd-async and ophyd objects.

A site copies this module and adds its own devices; `make_devices` is what a session calls.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from bluesky.run_engine import call_in_bluesky_event_loop
from ophyd_async.core import init_devices

from devices.camera.device import Camera
from devices.column.device import Column
from devices.facility.device import Facility
from devices.loader.device import Loader
from devices.montage_control.device import MontageControl
from devices.sequencer.device import Sequencer
from devices.stage.device import Stage
from montango.lab import LabInfo

logger = logging.getLogger(__name__)

FACILITY_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Devices:
    """Everything a session can read and move."""

    column: Column
    stage: Stage
    camera: Camera
    sequencer: Sequencer
    montage_control: MontageControl
    loader: Loader | None
    facility: Facility

    def named(self) -> dict[str, Any]:
        """Return the devices that there are by their names."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: device for name, device in found.items() if device is not None}

    def disconnect(self) -> None:
        """Let go of the servers before they end: Tango and Channel Access would look for them for ever."""
        for name, device in self.named().items():
            if name != "facility":
                call_in_bluesky_event_loop(device.disconnect())
        self.facility.destroy()


class Instruments(NamedTuple):
    """The Tango devices of a laboratory, in the order of `Devices`; the loader is not in every laboratory."""

    column: Column
    stage: Stage
    camera: Camera
    sequencer: Sequencer
    montage_control: MontageControl
    loader: Loader | None


def make_instruments(lab: LabInfo, timeout_s: float = 20.0) -> Instruments:
    """Return the Tango devices of a laboratory, connected; see `make_devices`."""
    host = f"tango://{lab.tango_host}/"
    with init_devices(timeout=timeout_s):
        column = Column(host + lab.devices["column"])
        stage = Stage(host + lab.devices["stage"])
        camera = Camera(host + lab.devices["camera"], lab.data_dir)
        sequencer = Sequencer(host + lab.devices["sequencer"])
        montage_control = MontageControl(host + lab.devices["control"])
        loader = Loader(host + lab.devices["loader"]) if "loader" in lab.devices else None
    return Instruments(column, stage, camera, sequencer, montage_control, loader)


def make_devices(lab: LabInfo, timeout_s: float = 20.0) -> Devices:
    """Return the devices of a laboratory, connected.

    Parameters
    ----------
    lab
        The laboratory; this process must be connected to it (`montango.lab.Lab.connect`).
    timeout_s
        Longest time a device may take to answer.

    Raises
    ------
    ophyd_async.core.NotConnectedError
        A device server does not answer.
    """
    instruments = make_instruments(lab, timeout_s)
    facility = Facility(lab.facility_prefix, name="facility")
    try:
        facility.wait_for_connection(timeout=FACILITY_TIMEOUT_S)
    except TimeoutError as error:
        logger.warning("%s; runs go on without the facility's signals until they are there", error)
    return Devices(*instruments, facility)
