"""Has the machine what a laboratory needs: memory, disk, ports, a clock that makes sense?"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from montango.config import MontangoConfig
from montango.lab.errors import LabError
from montango.lab.findings import Finding, fail, ok, warn
from montango.lab.ports import reserved_ports
from montango.lab.rings import SHARED_MEMORY, ring_size_bytes
from montango.lab.state import StateDirectory, read_json

MEMORY_NEEDED_GB = 1.2
NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "9p", "fuse.sshfs", "afs")


def examine_machine(config: MontangoConfig, state: StateDirectory, *, lab_is_up: bool) -> Iterator[Finding]:
    """Look at the machine and the state directory."""
    yield _state_directory(state)
    data_dir = config.paths.data_dir or state.root / "data"
    for subject, folder in (("disk of the state", state.root), ("disk of the data", data_dir)):
        yield _disk(subject, folder, config.paths.minimum_free_gb)
    yield _file_system(data_dir)
    yield _memory()
    yield _shared_memory(config, lab_is_up)
    yield _death_signal()
    yield _clock(state)
    if not lab_is_up:
        yield _ports(config, state)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _state_directory(state: StateDirectory) -> Finding:
    folder = _existing(state.root)
    remedy = "choose another with --state DIR or MONTANGO_STATE, or mend its permissions"
    if not folder.is_dir():
        return fail("state directory", f"{folder} is not a directory", remedy)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return fail("state directory", f"{folder} cannot be written to ({error.strerror})", remedy)
    return ok("state directory", f"{state.root} can be written to")


def _disk(subject: str, folder: Path, minimum_gb: float) -> Finding:
    free_gb = shutil.disk_usage(_existing(folder)).free / 1e9
    text = f"{free_gb:.1f} GB free at {folder}"
    if free_gb < minimum_gb:
        return fail(
            subject,
            f"{text}, paths.minimum_free_gb asks for {minimum_gb:g}",
            "free some space or use another disk",
        )
    if free_gb < 3 * minimum_gb:
        return warn(
            subject, f"{text}, soon less than paths.minimum_free_gb = {minimum_gb:g}", "free some space"
        )
    return ok(subject, text)


def _file_system(folder: Path) -> Finding:
    path = str(_existing(folder).resolve())
    mounts = [one for one in psutil.disk_partitions(all=True) if Path(path).is_relative_to(one.mountpoint)]
    kind = max(mounts, key=lambda one: len(one.mountpoint)).fstype if mounts else "unknown"
    if kind.startswith(NETWORK_FILE_SYSTEMS):
        return warn(
            "file system",
            f"the data lie on {kind}",
            "set paths.data_dir to a local or parallel file system; others garble files being written",
        )
    return ok("file system", f"the data lie on {kind}")


def _memory() -> Finding:
    free_gb = psutil.virtual_memory().available / 1e9
    if free_gb < MEMORY_NEEDED_GB:
        return warn(
            "memory",
            f"{free_gb:.1f} GB available, a lab takes about {MEMORY_NEEDED_GB}",
            "end other programs",
        )
    return ok("memory", f"{free_gb:.1f} GB available")


def _shared_memory(config: MontangoConfig, lab_is_up: bool) -> Finding:
    needed_mb = ring_size_bytes(config) / 1e6
    if not SHARED_MEMORY.is_dir():
        return warn(
            "shared memory",
            f"there is no {SHARED_MEMORY}",
            "frame rings will be files in the state directory, slower",
        )
    free_mb = shutil.disk_usage(SHARED_MEMORY).free / 1e6
    text = f"{free_mb:.0f} MB free at {SHARED_MEMORY}, the camera's ring takes {needed_mb:.0f}"
    if free_mb < needed_mb and not lab_is_up:
        return warn(
            "shared memory",
            text,
            "make it larger (docker run --shm-size), or set instruments.camera.ring_slots lower",
        )
    return ok("shared memory", text)


def _death_signal() -> Finding:
    if not sys.platform.startswith("linux"):
        return warn(
            "supervision",
            "no parent-death signal here",
            "after a kill -9 of the supervisor run `montango down`",
        )
    if shutil.which("setpriv"):
        return ok("supervision", "setpriv is there: processes end with their supervisor")
    return ok("supervision", "no setpriv; Python sets the parent-death signal instead")


def _clock(state: StateDirectory) -> Finding:
    """Compare the clock with the date of this installation, and with that of the state's file server."""
    now = time.time()
    installed = Path(__file__).stat().st_mtime
    if now < installed - 3600:
        return fail(
            "clock",
            f"{time.ctime(now)} is before Montango was installed",
            "set the clock, or start a time service",
        )
    folder = _existing(state.root)
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            skew_s = os.fstat(file.fileno()).st_mtime - time.time()
    except OSError:
        skew_s = 0.0
    if abs(skew_s) > 2:
        return warn("clock", f"the file server of {folder} is {skew_s:+.1f} s off", "synchronise both clocks")
    return ok("clock", time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now)))


def _ports(config: MontangoConfig, state: StateDirectory) -> Finding:
    fixed = config.services
    base = read_json(state.run / "ports.json").get("base")
    try:
        with reserved_ports(base, tango=fixed.tango.port, tiled=fixed.tiled.port) as reservation:
            return ok("ports", f"{reservation.ports.base} to {reservation.ports.guard} on 127.0.0.1 are free")
    except LabError as error:
        return fail(
            "ports", str(error), "change services.*.port in montango.yaml, or end the program that holds it"
        )
