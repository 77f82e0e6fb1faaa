"""How a laboratory is: one look at every process, device and service."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from montango.lab.readiness import ask, ask_device
from montango.lab.state import LabInfo, StateDirectory
from montango.lab.supervisor import ProcessInfo, Supervisor

CPU_INTERVAL_S = 0.2
START_ALLOWANCE_S = 60
"""Time after its start in which a process that does not answer is called starting."""


@dataclass(frozen=True)
class ProcessStatus:
    """One process: ``state`` as supervisord calls it, ``restarts`` since the laboratory came up."""

    name: str
    state: str
    ready: bool
    answer: str
    pid: int
    uptime_s: float
    restarts: int
    cpu_percent: float
    memory_mb: float

    @property
    def word(self) -> str:
        """The state in one word for people."""
        if self.pid:
            return "ready" if self.ready else "starting" if self.uptime_s < START_ALLOWANCE_S else "silent"
        return {"BACKOFF": "restarting", "EXITED": "restarting", "FATAL": "failed"}.get(self.state, "stopped")


@dataclass(frozen=True)
class DeviceStatus:
    """One Tango device: ``state`` in Tango's words, empty when it does not answer."""

    name: str
    device: str
    state: str
    answer: str


@dataclass(frozen=True)
class LabStatus:
    """A laboratory that is up."""

    lab: LabInfo
    uptime_s: float
    processes: tuple[ProcessStatus, ...]
    devices: tuple[DeviceStatus, ...]

    @property
    def ready(self) -> bool:
        """Whether every process answers."""
        return all(process.ready for process in self.processes)

    def public(self) -> dict[str, Any]:
        """Return everything but the catalog's key, for JSON."""
        content = asdict(self)
        shown = {name: value for name, value in self.lab.tiled.items() if name not in ("api_key", "mongo")}
        content["lab"]["tiled"] = shown
        return content


def collect_status(info: LabInfo, state: StateDirectory, supervisor: Supervisor) -> LabStatus:
    """Ask everything, at the same time; takes about a second."""
    running = supervisor.processes()
    restarts = count_restarts(state.log / "supervisord.log", info.pid)
    loads = _loads(running)
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = list(pool.map(lambda one: ask(info, one.name), running))
        devices = list(
            pool.map(lambda item: (*item, *ask_device(info.tango_host, item[1])), info.devices.items())
        )
    now = time.time()
    return LabStatus(
        info,
        now - info.started_at_s,
        tuple(
            ProcessStatus(
                one.name,
                one.state,
                answer.ready,
                answer.text,
                one.pid,
                now - one.started_at_s if one.pid else 0.0,
                max(0, restarts.get(one.name, 1) - 1),
                *loads.get(one.name, (0.0, 0.0)),
            )
            for one, answer in zip(running, answers, strict=True)
        ),
        tuple(DeviceStatus(name, device, state, answer.text) for name, device, answer, state in devices),
    )


def count_restarts(log: Path, supervisor_pid: int) -> dict[str, int]:
    """Return how often each process was started since this supervisor started, from the supervisor's log."""
    counts: dict[str, int] = {}
    for line in _lines(log):
        if line.rstrip().endswith(f"supervisord started with pid {supervisor_pid}"):
            counts.clear()
        elif " spawned: '" in line:
            name = line.partition(" spawned: '")[2].partition("'")[0]
            counts[name] = counts.get(name, 0) + 1
    return counts


def _lines(log: Path) -> Iterator[str]:
    for path in (log.with_name(f"{log.name}.1"), log):
        try:
            with path.open(errors="replace") as file:
                yield from file
        except FileNotFoundError:
            continue


def _loads(running: list[ProcessInfo]) -> dict[str, tuple[float, float]]:
    """Return CPU (percent of one core) and memory (MB resident) of each process."""
    watched: dict[str, psutil.Process] = {}
    loads: dict[str, tuple[float, float]] = {}
    for one in running:
        try:
            watched[one.name] = psutil.Process(one.pid)
            watched[one.name].cpu_percent()
        except (psutil.Error, ValueError):
            watched.pop(one.name, None)
    time.sleep(CPU_INTERVAL_S)
    for name, process in watched.items():
        try:
            loads[name] = (process.cpu_percent(), process.memory_info().rss / 1e6)
        except psutil.Error:
            continue
    return loads
