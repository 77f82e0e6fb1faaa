"""Devices in the Tango database: which server has them, and the properties their servers read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from montango.config import Instrument, MontangoConfig
from montango.lab.errors import LabError
from montango.lab.programs import instruments, server_instance
from montango.lab.state import StateDirectory


def register(config: MontangoConfig, state: StateDirectory, tango_host: str, ring_dir: Path) -> None:
    """Enter every supervised instrument in the database; doing it again changes nothing.

    Raises
    ------
    LabError
        The database refuses.
    """
    import tango

    host, _, port = tango_host.partition(":")
    try:
        database = tango.Database(host, int(port))
        for name, instrument in instruments(config).items():
            if instrument.supervised:
                server = f"Montango{name.capitalize()}/{server_instance(config)}"
                _add(database, server, f"{name.capitalize()}Server", instrument.device)
                properties = device_properties(config, name, state, ring_dir)
                database.put_device_property(
                    instrument.device, {key: [text] for key, text in properties.items()}
                )
    except tango.DevFailed as failed:
        raise LabError(f"the Tango database at {tango_host} refuses: {failed.args[0].desc.strip()}") from None


def _add(database: Any, server: str, class_name: str, device: str) -> None:
    import tango

    for stale in _devices_of(database, server, class_name):
        if stale.lower() != device.lower():
            database.delete_device(stale)
    info = tango.DbDevInfo()
    info.name, info._class, info.server = device, class_name, server
    database.add_device(info)


def _devices_of(database: Any, server: str, class_name: str) -> Iterable[str]:
    return [str(name) for name in database.get_device_name(server, class_name).value_string]


def device_properties(
    config: MontangoConfig, name: str, state: StateDirectory, ring_dir: Path
) -> dict[str, str]:
    """Return the properties of an instrument's device, as texts."""
    instrument: Instrument = getattr(config.instruments, name)
    options: dict[str, Any] = {}
    if instrument.driver.startswith("sim.") and config.simulation is not None:
        options["world"] = str(state.world)
    if name == "stage":
        options["limits"] = config.instruments.stage.limits.model_dump(mode="json")
    if name == "control":
        options["state_file"] = str(state.root / "control.json")
    if name == "sequencer":
        options |= {part: getattr(config.instruments, part).device for part in ("stage", "camera", "column")}
    options |= instrument.options
    properties = {"driver": instrument.driver, "driver_options": json.dumps(options)}
    if name == "camera":
        properties |= {
            "ring_slots": str(config.instruments.camera.ring_slots),
            "readout_timeout_s": str(config.instruments.camera.readout_timeout_s),
            "ring_dir": str(ring_dir),
            "state_file": str(state.root / "camera.json"),
        }
    if name == "sequencer":
        properties |= {f"{part}_device": options[part] for part in ("stage", "camera", "column")}
    if name == "control":
        parts = ("sequencer", "column", "stage")
        properties |= {f"{part}_device": getattr(config.instruments, part).device for part in parts}
    return properties
