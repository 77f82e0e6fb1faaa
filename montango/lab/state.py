"""The state directory of a laboratory: what is where, who may write, and what clients read.

::

    run/       supervisord.conf, supervisor.json (pid), lab.json, ports.json, api_key, montango.yaml, lock
    log/       one log a process, rotated
    data/      frames (unless paths.data_dir says otherwise)
    journal/   documents of every run
    catalog/   the catalog's databases
    tango/     the Tango database
    world      the virtual microscope
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from montango.config import MontangoConfig
from montango.lab.errors import LabError, LabNotRunning

STATE_VARIABLE = "MONTANGO_STATE"
SOCKET_PATH_LIMIT = 90
"""Longest path of a unix socket, with room for the suffix supervisord adds (the kernel's limit is 108)."""


@dataclass(frozen=True)
class LabInfo:
    """What a client needs to know of a laboratory: the contents of ``lab.json``.

    ``pid`` and ``started_at_s`` (Unix time) are those of the supervisor; ``config`` the file with the
    configuration in force, ``config_source`` the one it was read from, if any.
    """

    name: str
    pid: int
    started_at_s: float
    config: str
    config_source: str | None
    tango_host: str
    tiled: Mapping[str, str]
    epics: Mapping[str, str]
    facility_prefix: str
    devices: Mapping[str, str]
    data_dir: str
    journal_dir: str
    state_dir: str
    log_dir: str
    world: str | None

    def environment(self) -> dict[str, str]:
        """Return the variables with which Tango, EPICS and Montango clients find this laboratory."""
        return {"TANGO_HOST": self.tango_host, **self.epics, STATE_VARIABLE: self.state_dir}


def default_state_dir(config: MontangoConfig | None) -> Path:
    """Return ``$MONTANGO_STATE``, or what the configuration says, or a place in the home directory."""
    if chosen := os.environ.get(STATE_VARIABLE):
        return Path(chosen).expanduser().absolute()
    if config and config.paths.state_dir:
        return config.paths.state_dir
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser().absolute() / "montango" / (config.lab.name if config else "simulated")


class StateDirectory:
    """Paths and small files of one state directory."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.run = self.root / "run"
        self.log = self.root / "log"
        self.journal = self.root / "journal"
        self.catalog = self.root / "catalog"
        self.tango = self.root / "tango"
        self.world = self.root / "world"
        self.lab_file = self.run / "lab.json"
        self.supervisor_file = self.run / "supervisor.json"
        self.config_file = self.run / "montango.yaml"

    @property
    def digest(self) -> str:
        """A short name of this directory, unique on this machine."""
        return hashlib.sha256(str(self.root).encode()).hexdigest()[:12]

    @property
    def socket(self) -> Path:
        """The supervisor's socket; in the system's temporary folder where this path is too long for one."""
        path = self.run / "supervisor.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
            return path
        return Path(tempfile.gettempdir()) / f"montango-{os.getuid()}-{self.digest}" / "supervisor.sock"

    def prepare(self) -> None:
        """Make the directories, and show that they can be written to.

        Raises
        ------
        LabError
            They cannot.
        """
        try:
            for folder in (self.run, self.log, self.journal, self.catalog, self.tango):
                folder.mkdir(parents=True, exist_ok=True)
            self.run.chmod(0o700)
            probe = self.run / f".probe-{os.getpid()}"
            probe.write_bytes(b"\0")
            probe.unlink()
        except OSError as error:
            raise LabError(
                f"state directory {self.root} cannot be written to ({error.strerror or error}); choose "
                f"another with --state DIR or {STATE_VARIABLE}"
            ) from None

    @contextmanager
    def lock(self, timeout_s: float = 120) -> Iterator[None]:
        """Hold the right to start or stop this laboratory, across processes.

        Raises
        ------
        LabError
            Another process held it all the time.
        """
        with (self.run / "lock").open("a") as file:
            deadline = time.monotonic() + timeout_s
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise LabError(
                            f"another command has been starting or stopping the lab in {self.root} for "
                            f"{timeout_s:.0f} s; end it, then try again"
                        ) from None
                    time.sleep(0.1)
            yield

    def read_lab(self) -> LabInfo:
        """Return what ``lab.json`` says, whether or not the laboratory is alive.

        Raises
        ------
        LabNotRunning
            There is none.
        """
        fields = read_json(self.lab_file)
        try:
            return LabInfo(**fields)
        except TypeError:
            raise LabNotRunning(f"no lab is up in {self.root}; start one with `montango up`") from None

    def write_lab(self, info: LabInfo) -> None:
        """Publish a laboratory to its clients; only the user can read the file, it holds a key."""
        write_private(self.lab_file, json.dumps(asdict(info), indent=2) + "\n")

    def api_key(self) -> str:
        """Return the catalog's key of this state directory, made at its first use."""
        path = self.run / "api_key"
        if not path.exists():
            write_private(path, secrets.token_hex(24))
        return path.read_text()


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file, empty when there is none or it is broken."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step; only the user can read it."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    part.replace(path)


def make_own_folder(path: Path) -> None:
    """Make a folder that only this user can enter, unless it is there.

    Raises
    ------
    LabError
        One of another user's is in its place.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid != os.getuid():
        raise LabError(f"{path} belongs to another user; choose another state directory with --state DIR")
