"""Processes of a measurement that start at once: forked off one that has imported all that is slow.

A catalog's server takes some ten seconds of a processor to start, nearly all of it imports. Forked off a
process that has done them, it is the same program, ready after a second: it can be killed often.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from montango.lab.errors import LabError
from processing.callbacks._catalog_run import is_up
from tiled_server.configuration import API_KEY_VARIABLE
from tiled_server.sockets import HOST, PORT_FILE

KEY: Final = "benchkey"
_SLOW: Final = (
    "bluesky_tiled_plugins",
    "montango.bench._catalog_readers",
    "montango.bench._catalog_writers",
    "tiled_server.service",
)
_DIES_WITH_PARENT: Final = 1
"""PR_SET_PDEATHSIG of Linux."""
_POLL_S: Final = 0.05

context = multiprocessing.get_context("forkserver")


def warm() -> None:
    """Import what is slow, in the process that the others are forked off."""
    context.set_forkserver_preload(list(_SLOW))


def started(target: Callable[..., object], *arguments: Any, log: Path) -> BaseProcess:
    """Run a function in a process of its own, which ends with this one."""
    process = context.Process(target=_run, args=(target, arguments, str(log)), daemon=True)
    process.start()
    return process


def _run(target: Callable[..., object], arguments: tuple[Any, ...], log: str) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    target(*arguments)


class CatalogProcess:
    """The server of a catalog, that is killed and started again on the same port.

    Parameters
    ----------
    state_dir
        Its state directory.
    log
        Where its words go.
    environment
        Variables of its own: databases.
    """

    def __init__(self, state_dir: Path, log: Path, environment: dict[str, str]) -> None:
        self._state_dir, self._log, self._environment = state_dir, log, environment
        self._process: BaseProcess | None = None
        self.starts: list[float] = []
        """Monotonic times at which it answered, s."""

    @property
    def uri(self) -> str:
        """Where it listens."""
        port = (self._state_dir / "run" / PORT_FILE).read_text().strip()
        return f"http://{HOST}:{port}"

    def start(self, timeout_s: float) -> float:
        """Start it; return how long it took to answer, s.

        Raises
        ------
        LabError
            It ended, or does not answer.
        """
        began = time.monotonic()
        self._process = started(_serve, str(self._state_dir), self._environment, log=self._log)
        port_file = self._state_dir / "run" / PORT_FILE
        while not (port_file.exists() and is_up(self.uri)):
            if not self._process.is_alive():
                raise LabError(f"the catalog's server ended ({self._process.exitcode}); see {self._log}")
            if time.monotonic() - began > timeout_s:
                raise LabError(f"the catalog's server does not answer after {timeout_s:g} s; see {self._log}")
            time.sleep(_POLL_S)
        self.starts.append(time.monotonic())
        return self.starts[-1] - began

    def kill(self) -> float:
        """Kill it at once; return when, monotonic time, s."""
        assert self._process is not None
        self._process.kill()
        when = time.monotonic()
        self._process.join()
        return when

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None and self._process.is_alive():
            self._process.terminate()
            self._process.join(15.0)
            self._process.kill()
            self._process.join()


def _serve(state_dir: str, environment: dict[str, str]) -> None:
    from tiled_server.__main__ import main

    os.environ.update(environment | {API_KEY_VARIABLE: KEY})
    sys.exit(main(["--state-dir", state_dir]))
