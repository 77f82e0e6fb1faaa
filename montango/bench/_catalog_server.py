"""A catalog server of a measurement's own."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from devices.errors import MontangoError
from montango.lab.processes import dies_with_parent
from processing.callbacks._catalog_run import is_up
from tiled_server.configuration import API_KEY_VARIABLE, DATABASE_VARIABLE, TABLES_VARIABLE
from tiled_server.sockets import PORT_FILE

_PATIENCE_S: Final = 300.0


@dataclass(frozen=True)
class Place:
    """Where a catalog lies: state directory, and addresses of its databases; None: SQLite there."""

    state_dir: Path
    database: str | None = None
    tables: str | None = None

    @property
    def data(self) -> Path:
        """The folder of the frames."""
        return self.state_dir / "data"


@dataclass(frozen=True)
class Running:
    """A server that answers: its process, its address and its key."""

    process: subprocess.Popen[bytes]
    uri: str
    key: str

    def cpu_s(self) -> float:
        """Return the processor time that the server has taken, s."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def http(self) -> httpx.Client:
        """Return a client for its routes."""
        headers = {"Authorization": f"Apikey {self.key}"}
        return httpx.Client(base_url=self.uri, headers=headers, timeout=_PATIENCE_S)


@contextmanager
def serving(place: Place) -> Iterator[Running]:
    """Run the server of a catalog until the end of the block; its index has all that the catalog has.

    Raises
    ------
    MontangoError
        It does not start, or its index does not come to an end.
    """
    place.data.mkdir(parents=True, exist_ok=True)
    key = secrets.token_hex(16)
    addresses = {DATABASE_VARIABLE: place.database, TABLES_VARIABLE: place.tables}
    environment = os.environ | {API_KEY_VARIABLE: key} | {k: v for k, v in addresses.items() if v}
    command = [*dies_with_parent(), sys.executable, "-m", "tiled_server", "--state-dir", str(place.state_dir)]
    log_path = place.state_dir / "server.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        running = _answering(place, process, key, log_path)
        wait_for_index(running)
        yield running
    finally:
        process.terminate()
        process.wait(_PATIENCE_S)


def _answering(place: Place, process: subprocess.Popen[bytes], key: str, log: Path) -> Running:
    port_file, deadline = place.state_dir / "run" / PORT_FILE, time.monotonic() + _PATIENCE_S
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            raise MontangoError(f"the catalog server does not start: {log.read_text()[-500:]}")
        if port_file.exists():
            uri = f"http://127.0.0.1:{port_file.read_text().strip()}"
            if is_up(uri):
                return Running(process, uri, key)
        time.sleep(0.1)


def wait_for_index(running: Running) -> dict[str, Any]:
    """Return the state of the index once it has everything.

    Raises
    ------
    MontangoError
        It does not come to an end.
    """
    deadline = time.monotonic() + _PATIENCE_S
    with running.http() as client:
        while True:
            answer = client.get("/custom/index")
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:  # not open yet
                state: dict[str, Any] = answer.raise_for_status().json()
                if state["complete"] and not state["waiting"]:
                    return state
            if time.monotonic() > deadline:
                raise MontangoError(f"the index is not complete after {_PATIENCE_S:g} s: {answer.text}")
            time.sleep(0.1)
