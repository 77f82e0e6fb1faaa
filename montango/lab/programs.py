"""The processes of a laboratory, worked out from its configuration."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from montango.config import Instrument, MontangoConfig
from montango.lab.ports import LOOPBACK, Ports
from montango.lab.state import STATE_VARIABLE, StateDirectory
from montango.lab.supervisor import Program

TANGO_DATABASE = "tangodb"
TILED = "tiled"
FACILITY = "facility"
INSTRUMENTS: tuple[str, ...] = ("column", "stage", "camera", "sequencer", "loader", "control")
"""Every instrument that a laboratory can have, in the order in which their servers start."""
SERVER_MODULES = {"control": "devices.montage_control.server"}
"""Modules of the servers that are not called after their instrument."""
TILED_KEY_VARIABLE = "TILED_SINGLE_USER_API_KEY"
DATABASE_VARIABLE, TABLES_VARIABLE = "MONTANGO_TILED_DATABASE", "MONTANGO_TILED_TABLES"
ACCESS_VARIABLE = "MONTANGO_TILED_ACCESS"
MONGO_VARIABLE = "MONTANGO_TILED_MONGO"


def instruments(config: MontangoConfig) -> dict[str, Instrument]:
    """Return the instruments that a laboratory has, by their names; a loader is not in every one."""
    found = ((name, getattr(config.instruments, name)) for name in INSTRUMENTS)
    return {name: instrument for name, instrument in found if instrument is not None}


def tango_host(config: MontangoConfig, ports: Ports) -> str:
    """Return host and port of the Tango database."""
    return config.services.tango.host or f"{LOOPBACK}:{ports.tango}"


def server_instance(config: MontangoConfig) -> str:
    """Return the instance name of the lab's device servers; a site's database has those of several labs."""
    return config.lab.name if config.services.tango.host else "sim"


def epics_environment(config: MontangoConfig, ports: Ports) -> dict[str, str]:
    """Return the variables by which servers and clients of this laboratory alone find each other."""
    if config.facility.ioc is None:
        return dict(config.facility.environment)
    return {
        "EPICS_CA_ADDR_LIST": LOOPBACK,
        "EPICS_CA_AUTO_ADDR_LIST": "NO",
        "EPICS_CA_SERVER_PORT": str(ports.epics),
        "EPICS_CA_REPEATER_PORT": str(ports.guard),
        "EPICS_CAS_INTF_ADDR_LIST": LOOPBACK,
        "EPICS_CAS_BEACON_ADDR_LIST": LOOPBACK,
        "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
        "EPICS_PVA_ADDR_LIST": LOOPBACK,
        "EPICS_PVA_AUTO_ADDR_LIST": "NO",
        "EPICS_PVA_SERVER_PORT": str(ports.pva),
        "EPICS_PVA_BROADCAST_PORT": str(ports.pva_broadcast),
        "EPICS_PVAS_INTF_ADDR_LIST": LOOPBACK,
        "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
        **config.facility.environment,
    }


def shared_environment(config: MontangoConfig, state: StateDirectory, ports: Ports) -> dict[str, str]:
    """Return the environment of every process: this one's, without another laboratory's settings."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("EPICS_", "TILED_", "TANGO_", "PYTANGO_"))
    }
    return {
        **inherited,
        **epics_environment(config, ports),
        "TANGO_HOST": tango_host(config, ports),
        STATE_VARIABLE: str(state.root),
        "PYTHONPATH": os.pathsep.join(_python_path(config)),
        "PYTHONUNBUFFERED": "1",
        # A folder that happens to hold a plans.py or devices.py must not shadow ours.
        "PYTHONSAFEPATH": "1",
    }


def _python_path(config: MontangoConfig) -> list[str]:
    ours = importlib.util.find_spec("devices")
    root = [str(Path(ours.origin).parents[1])] if ours and ours.origin else []
    inherited = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    return list(dict.fromkeys([*root, *map(str, config.paths.python_path), *inherited]))


def programs(
    config: MontangoConfig, state: StateDirectory, ports: Ports, data_dir: Path, secrets: Mapping[str, str]
) -> list[Program]:
    """Return the processes to supervise, in the order in which they start.

    Device servers do not start by themselves: they need their devices to be registered first.
    ``secrets`` holds the key of the lab's own catalog by the name of its variable.
    """
    found: list[Program] = []
    if config.services.tango.host is None:
        found.append(_tango_database(state, ports))
    if config.services.tiled.uri is None:
        found.append(_tiled(config, state, ports, data_dir, secrets))
    if config.facility.ioc is not None:
        command = [sys.executable, "-m", config.facility.ioc, "--prefix", config.facility.prefix]
        found.append(Program(FACILITY, command))
    for name, instrument in instruments(config).items():
        if instrument.supervised:
            module = SERVER_MODULES.get(name, f"devices.{name}.server")
            command = [sys.executable, "-m", module, server_instance(config)]
            endpoint = (
                ["-ORBendPoint", f"giop:tcp:{LOOPBACK}:0"] if config.services.tango.host is None else []
            )
            found.append(Program(name, [*command, *endpoint], autostart=False))
    return found


def _tango_database(state: StateDirectory, ports: Ports) -> Program:
    start = "from databaseds.database import main; main()"
    command = [sys.executable, "-c", start, "--host", LOOPBACK, "--port", str(ports.tango), "2"]
    return Program(TANGO_DATABASE, command, {"PYTANGO_DATABASE_NAME": str(state.tango / "tango.sqlite")})


def _tiled(
    config: MontangoConfig, state: StateDirectory, ports: Ports, data_dir: Path, secrets: Mapping[str, str]
) -> Program:
    command = [
        sys.executable,
        "-m",
        "tiled_server",
        "--state-dir",
        str(state.root),
        "--port",
        str(ports.tiled),
    ]
    for folder in (data_dir, *config.services.tiled.readable):
        command += ["--readable", str(folder)]
    # not as options, which every user of the machine can read
    environment = {
        variable: uri.replace("'", "%27").replace('"', "%22")
        for variable, uri in (
            (DATABASE_VARIABLE, config.services.tiled.database),
            (TABLES_VARIABLE, config.services.tiled.tables),
            (MONGO_VARIABLE, config.services.tiled.mongo),
        )
        if uri is not None
    }
    if config.services.tiled.access is not None:
        environment[ACCESS_VARIABLE] = str(config.services.tiled.access)
    return Program(TILED, command, {**secrets, **environment})
