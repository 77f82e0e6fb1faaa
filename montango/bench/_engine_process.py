"""The other side of `montango.bench._engine`: starts it, asks it, kills it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from montango.lab.errors import LabError
from montango.lab.processes import dies_with_parent

START_TIMEOUT_S = 120.0


class EngineProcess:
    """An engine in a process of its own.

    It is started without waiting, so that one can warm up while another works.
    """

    def __init__(self, state_dir: Path, log: Path) -> None:
        command = [*dies_with_parent(), sys.executable, "-m", "montango.bench._engine", str(state_dir)]
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self._log = log
        self._warm = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def open(self) -> None:
        """Wait until it is warm, and let it make its session."""
        if not self._warm:
            self.hear(START_TIMEOUT_S)
            self._warm = True
        self.tell(do="open")
        self.hear(START_TIMEOUT_S)

    def tell(self, **request: Any) -> None:
        """Send a request."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise LabError(f"the engine has died; its log is {self._log}") from None

    def hear(self, timeout_s: float) -> dict[str, Any]:
        """Return the next answer.

        Raises
        ------
        LabError
            It died, or does not answer.
        """
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise LabError(f"the engine did not answer in {timeout_s:g} s; its log is {self._log}")
        line = self._process.stdout.readline()
        if not line:
            raise LabError(f"the engine has died; its log is {self._log}")
        found: dict[str, Any] = json.loads(line)
        return found

    def answered(self) -> bool:
        """Whether an answer waits."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def kill(self) -> None:
        """Kill it at once, as a power cut would."""
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)
        self._end()

    def close(self, timeout_s: float = 60.0) -> None:
        """Let it end in order, kill it if it does not."""
        if self.alive and self._process.stdin is not None:
            self.tell(do="close")
            self._process.stdin.close()
            deadline = time.monotonic() + timeout_s
            while self.alive and time.monotonic() < deadline:
                time.sleep(0.05)
        self.kill()

    def _end(self) -> None:
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
