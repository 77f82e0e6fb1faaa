"""Processes by identity (pid and start time) instead of by name, and those a laboratory left behind."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from montango.lab.state import read_json

MARK_VARIABLE = "MONTANGO_LAB_PROCESS"
"""Set, to the state directory, in every process that a laboratory starts, and in no other."""

# Sets PR_SET_PDEATHSIG (1) to SIGKILL (9) and becomes the command, as setpriv does.
_DEATH_SIGNAL_PROGRAM = (
    "import ctypes,os,sys;"
    "ctypes.CDLL(None,use_errno=True).prctl(1,9,0,0,0);"
    "os.execvp(sys.argv[1],sys.argv[1:])"
)


@dataclass(frozen=True)
class ProcessId:
    """A process, told from a later one with the same pid by its start (Unix time, s)."""

    pid: int
    started_at_s: float

    @classmethod
    def of(cls, process: psutil.Process) -> ProcessId:
        """Return the identity of a process that runs."""
        return cls(process.pid, process.create_time())

    @classmethod
    def read(cls, path: Path) -> ProcessId | None:
        """Return the identity that a file holds, if any."""
        fields = read_json(path)
        return (
            cls(fields["pid"], fields["started_at_s"]) if {"pid", "started_at_s"} <= fields.keys() else None
        )

    def fields(self) -> dict[str, float]:
        """Return the identity for a JSON file."""
        return asdict(self)

    def process(self) -> psutil.Process | None:
        """Return the process while it is alive."""
        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started_at_s) > 0.05:
                return None
            # The first thread of a killed process is a zombie while others still hold its files and ports.
            ended = process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
            return None if ended else process
        except psutil.Error:
            return None


def dies_with_parent() -> list[str]:
    """Return the words to put before a command so that it is killed when the thread that starts it ends."""
    if not sys.platform.startswith("linux"):
        return []
    if setpriv := shutil.which("setpriv"):
        return [setpriv, "--pdeathsig", "KILL"]
    return [sys.executable, "-S", "-E", "-c", _DEATH_SIGNAL_PROGRAM]


def family(supervisor: ProcessId | None) -> list[ProcessId]:
    """Return a supervisor and everything below it, as far as it is alive."""
    process = supervisor.process() if supervisor else None
    if process is None:
        return []
    members: list[ProcessId] = []
    try:
        for one in (process, *process.children(recursive=True)):
            members.append(ProcessId.of(one))
    except psutil.Error:
        pass
    return members


def left_behind(state_dir: Path) -> list[ProcessId]:
    """Return the processes that carry the mark of this state directory."""
    found: list[ProcessId] = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK_VARIABLE) == str(state_dir):
                found.append(ProcessId.of(process))
        except psutil.Error:
            continue
    return found


def wait_gone(members: Iterable[ProcessId], timeout_s: float) -> list[ProcessId]:
    """Wait until processes have ended; return those that have not in time."""
    deadline = time.monotonic() + timeout_s
    remaining = list(members)
    while remaining := [one for one in remaining if one.process() is not None]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return remaining


def kill(members: Iterable[ProcessId]) -> None:
    """End processes at once and wait until they are gone (at most 2 s)."""
    members = list(members)
    for one in members:
        if process := one.process():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
    wait_gone(members, 2)
