"""A real catalog server, started once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from montango.lab.processes import dies_with_parent
from processing.callbacks._catalog_run import connect, disconnect, is_up
from tests.tiled_server.postgres import Postgres, find_programs

if TYPE_CHECKING:
    from tests.tiled_server.access_lab import AccessLab
    from tests.tiled_server.catalogued import Catalogued

KEY = "secretkey1"


class Server:
    """One server process of a state directory, that a test may stop and start again."""

    def __init__(self, state_dir: Path, environment: Mapping[str, str] | None = None) -> None:
        self.state_dir = state_dir
        self.environment = dict(environment or {})
        self.log: Path | None = None
        self.data = state_dir / "data"
        self.key = KEY
        self.process: subprocess.Popen[str] | None = None
        self._clients: list[Any] = []

    @property
    def uri(self) -> str:
        """Where it listens, or will."""
        return f"http://127.0.0.1:{(self.state_dir / 'run' / 'tiled.port').read_text().strip()}"

    def start(self, *options: str, wait: bool = True) -> None:
        """Start the process, and wait until it answers."""
        command = [
            *dies_with_parent(),
            sys.executable,
            "-m",
            "tiled_server",
            "--state-dir",
            str(self.state_dir),
        ]
        with nullcontext() if self.log is None else self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, *options],
                env=os.environ | {"TILED_SINGLE_USER_API_KEY": KEY} | self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        assert "starting" in self.process.stdout.readline()  # the port file is there
        deadline = time.monotonic() + 180
        while wait and not is_up(self.uri):
            assert self.process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.1)

    def stop(self) -> int:
        """End it with SIGTERM; return its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self._ended()

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self._ended()

    def _ended(self) -> int:
        assert self.process is not None
        status = self.process.wait(120)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def client(self) -> Any:
        """Return a plain Tiled client."""
        self._clients.append(connect(self.uri, self.key))
        return self._clients[-1]

    def close(self) -> None:
        """Close every client, and end the process if it runs."""
        for client in self._clients:
            disconnect(client)
        if self.process is not None and self.process.poll() is None:
            self.stop()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("catalog"))
    server.start()
    yield server
    server.close()


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[Callable[[], Server]]:
    servers = []

    def make() -> Server:
        servers.append(Server(tmp_path / "state"))
        return servers[-1]

    yield make
    for made in servers:
        made.close()


@pytest.fixture(scope="session")
def catalogued(tmp_path_factory: pytest.TempPathFactory) -> Catalogued:
    """A montage of two runs and a mosaic, in the SQLite catalog of a state directory without a server."""
    from tests.tiled_server.catalogued import catalogue

    return catalogue(tmp_path_factory.mktemp("catalogued"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    programs = find_programs()
    if programs is None:
        pytest.skip("there is no PostgreSQL on this machine (Debian: apt-get install postgresql)")
    server = Postgres(programs)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def access_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AccessLab]:
    """A server with several users, shared: a test leaves the file of people as it was."""
    from tests.tiled_server.access_lab import AccessLab

    folder = tmp_path_factory.mktemp("access")
    lab = AccessLab(Server(folder), folder / "people.yaml")
    lab.server.log = folder / "log"
    lab.start()
    yield lab
    lab.close()
