"""One engine drives a laboratory at a time: a lock that the kernel gives back when its holder dies.

The lock is ``flock`` on ``<state>/engine.lock``; the file says who holds it. Beside it the sequencer
keeps a lease by name (`devices.sequencer`), so that an engine on another host, or one that was stopped and
wakes up, is refused there.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from devices.errors import ConfigurationError
from montango.lab.state import read_json

LOCK_FILE = "engine.lock"
TRIES, TRY_AGAIN_S = 5, 0.02


@dataclass(frozen=True)
class Holder:
    """Who drives a laboratory: process, user, host, and since when (Unix time, s)."""

    pid: int
    user: str
    host: str
    since_s: float

    @classmethod
    def this_process(cls) -> Holder:
        """Return this process as a holder from now on."""
        return cls(os.getpid(), getpass.getuser(), socket.gethostname(), time.time())

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since_s))
        return f"{self.user}@{self.host}, pid {self.pid}, since {since}"


class EngineBusy(ConfigurationError):
    """Another process drives this laboratory."""


class EngineLock:
    """The right to drive the laboratory of a state directory.

    It ends with `release` or with the process, however that ends.
    """

    def __init__(self, state_dir: Path | str) -> None:
        self.path = Path(state_dir) / LOCK_FILE
        self._file: TextIO | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._file is not None

    def acquire(self) -> Holder:
        """Take the lock and return what was written into it.

        Raises
        ------
        EngineBusy
            Another session holds it; the text names its pid, user and start.
        """
        file = self.path.open("a+")
        for _ in range(TRIES):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(TRY_AGAIN_S)  # who only asks for the holder has the lock for a moment
        else:
            file.close()
            holder_now = self._written() or "one that is just starting"
            raise EngineBusy(
                f"another session drives this lab: {holder_now}; end it, or look on without moving anything "
                f"with `montango shell --read-only`"
            )
        holder = Holder.this_process()
        file.seek(0)
        file.truncate()
        json.dump(asdict(holder), file)
        file.flush()
        self._file = file
        return holder

    def release(self) -> None:
        """Give the lock back. Twice is harmless."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def holder(self) -> Holder | None:
        """Return who holds the lock now; None where nobody does."""
        try:
            with self.path.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            return self._written()
        return None

    def _written(self) -> Holder | None:
        try:
            return Holder(**read_json(self.path))
        except TypeError:
            return None
