"""Examines installation, machine and laboratory: `montango doctor`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from devices.errors import ConfigurationError, DeviceLost
from montango.config import MontangoConfig
from montango.lab import processes
from montango.lab.errors import LabError
from montango.lab.findings import Finding, fail, ok, warn
from montango.lab.installation import examine_installation
from montango.lab.lab import Lab
from montango.lab.machine import examine_machine
from montango.lab.processes import ProcessId
from montango.lab.state import LabInfo, StateDirectory
from montango.lab.status import DeviceStatus, ProcessStatus


def examine(config: MontangoConfig, lab: Lab) -> Iterator[Finding]:
    """Look at everything that a laboratory needs, and at the laboratory if it is up."""
    yield from examine_installation()
    info = lab.find()
    yield from examine_machine(config, lab.state, lab_is_up=info is not None)
    yield from _databases(lab.state)
    yield from _remote_databases(config)
    if info is None:
        yield from _remains(lab.state)
    else:
        yield from _running(lab, info)


def _databases(state: StateDirectory) -> Iterator[Finding]:
    for subject, path in (
        ("Tango database", state.tango / "tango.sqlite"),
        ("catalog", state.catalog / "catalog.db"),
        ("catalog's tables", state.catalog / "tables.db"),
    ):
        if path.exists():
            yield _database(subject, path)


def _remote_databases(config: MontangoConfig) -> Iterator[Finding]:
    named = {
        "catalog's PostgreSQL": config.services.tiled.database,
        "PostgreSQL of its tables": config.services.tiled.tables,
    }
    for subject, uri in named.items():
        if uri is None or config.services.tiled.uri is not None:
            continue
        from tiled_server.databases import check_reachable, checked_uri, shown

        try:
            checked = checked_uri(f"services.tiled of {config.source}", uri)
            check_reachable("database", checked)
        except ConfigurationError as error:
            text, _, remedy = str(error).partition("; ")
            yield fail(subject, text, remedy)
        else:
            yield ok(subject, f"{shown(checked)} answers")
    if config.services.tiled.mongo is not None:
        yield _mongo(f"services.tiled.mongo of {config.source}", config.services.tiled.mongo)


def _mongo(name: str, uri: str) -> Finding:
    from tiled_server.mongo.addresses import check_mongo, checked_mongo, shown_mongo

    try:
        check_mongo("database", checked_mongo(name, uri))
    except (ConfigurationError, DeviceLost) as error:
        text, _, remedy = str(error).partition("; ")
        return fail("MongoDB", text, remedy)
    return ok("MongoDB", f"{shown_mongo(uri)} answers")


def _database(subject: str, path: Path) -> Finding:
    remedy = f"stop the lab and move {path} away; devices are registered again at the next `montango up`"
    if subject != "Tango database":
        remedy = f"stop the lab, move {path} away, start it, then `montango journal replay`"
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5) as connection:
            (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        connection.close()
    except sqlite3.Error as error:
        return fail(subject, f"{path} cannot be read ({error})", remedy)
    return ok(subject, f"{path} is sound") if result == "ok" else fail(subject, f"{path}: {result}", remedy)


def _remains(state: StateDirectory) -> Iterator[Finding]:
    orphans = processes.left_behind(state.root)
    if orphans:
        pids = ", ".join(str(one.pid) for one in orphans)
        yield fail("leftover processes", f"of a lab that ended badly: {pids}", "`montango down` ends them")
    elif ProcessId.read(state.supervisor_file):
        yield warn(
            "lab",
            "one was up and ended without `montango down`",
            "`montango up` or `montango down` cleans up",
        )
    else:
        yield ok("lab", "none is up, nothing was left behind")


def _running(lab: Lab, info: LabInfo) -> Iterator[Finding]:
    try:
        status = lab.status()
    except LabError as error:
        yield fail("supervisor", str(error), "`montango down`, then `montango up`")
        return
    yield ok("supervisor", f"pid {info.pid}")
    for process in status.processes:
        yield _process(process)
    for device in status.devices:
        yield _device(device)


def _process(process: ProcessStatus) -> Finding:
    subject = f"process {process.name}"
    if process.ready and process.restarts > 3:
        return warn(
            subject, f"was restarted {process.restarts} times", f"`montango logs {process.name}` says why"
        )
    if process.ready:
        return ok(subject, f"answers, {process.memory_mb:.0f} MB")
    if process.word == "starting":
        return warn(subject, f"is starting ({process.answer})", "wait a little")
    remedy = f"`montango logs {process.name}`, then `montango restart {process.name}`"
    return fail(subject, f"{process.word}: {process.answer}", remedy)


def _device(device: DeviceStatus) -> Finding:
    subject = f"device {device.device}"
    if not device.state:
        return fail(subject, f"does not answer: {device.answer}", f"`montango restart {device.name}`")
    if device.state == "FAULT":
        return fail(
            subject, f"FAULT: {device.answer}", f"mend the cause, then `montango restart {device.name}`"
        )
    if device.state in ("ALARM", "INIT"):
        return warn(subject, f"{device.state}: {device.answer}", "see its attributes with a Tango client")
    return ok(subject, device.state)
