"""From a supervisor that runs to instruments that answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from montango.config import MontangoConfig
from montango.lab.errors import LabError
from montango.lab.programs import FACILITY, INSTRUMENTS, TANGO_DATABASE, TILED
from montango.lab.readiness import ask, ask_device, ask_tango_database
from montango.lab.registration import register
from montango.lab.state import LabInfo, StateDirectory
from montango.lab.supervisor import ProcessInfo, Supervisor, tail

Report = Callable[[str], None]
"""Takes one line of news."""

POLL_S = 0.1
DEATHS_ALLOWED = 1
"""Deaths of one process after which the start is not given up: a first one may be a passing trouble."""

TILED_TIMEOUT_S = 120
LOG_LINES = 15


class Startup:
    """Starts what the supervisor does not start by itself, and waits until processes answer."""

    def __init__(self, state: StateDirectory, supervisor: Supervisor, info: LabInfo, report: Report) -> None:
        self._state = state
        self._supervisor = supervisor
        self._info = info
        self._report = report
        self._deaths: dict[str, set[float]] = {}
        self._earlier: dict[str, float] = {}
        self._reported: set[str] = set()

    def start_instruments(self, config: MontangoConfig, ring_dir: Path) -> None:
        """Register the devices, start their servers and wait until everything but the catalog answers.

        Raises
        ------
        LabError
            A process ends again and again, does not answer in time, or its driver cannot be loaded.
        """
        names = [one.name for one in self._supervisor.processes()]
        timeout_s = config.lab.start_timeout_s
        if TANGO_DATABASE in names:
            self.wait_for([TANGO_DATABASE], timeout_s)
        elif not (answer := ask_tango_database(self._info.tango_host)).ready:
            raise LabError(f"the Tango database at {self._info.tango_host} does not answer ({answer.text})")
        register(config, self._state, self._info.tango_host, ring_dir)
        servers = [name for name in INSTRUMENTS if name in names]
        for name in servers:
            self._supervisor.start(name)
        self.wait_for([*servers, *(name for name in [FACILITY] if name in names)], timeout_s)
        self._check_devices()
        self._report("instruments are ready" + (", the catalog is still starting" if TILED in names else ""))

    def wait_everything(self) -> None:
        """Wait until every process answers, the catalog too."""
        self.wait_for([one.name for one in self._supervisor.processes()], TILED_TIMEOUT_S)

    def wait_for(self, names: Sequence[str], timeout_s: float) -> None:
        """Wait until processes answer.

        Raises
        ------
        LabError
            One has died too often, or does not answer in time: with the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        waiting = list(names)
        while waiting:
            self._look_for_deaths(waiting)
            name = waiting[0]
            answer = ask(self._info, name)
            if answer.ready:
                waiting.pop(0)
                if name not in self._reported:
                    self._report(f"{name} is ready")
                self._reported.add(name)
            elif time.monotonic() > deadline:
                raise self._failure(name, f"did not answer within {timeout_s:g} s ({answer.text})")
            else:
                time.sleep(POLL_S)

    def _look_for_deaths(self, names: Iterable[str]) -> None:
        for process in self._supervisor.processes():
            if process.name not in names:
                continue
            dead = process.state in ("BACKOFF", "EXITED", "FATAL")
            # one that lived for some seconds is started again at once, and never seen dead
            earlier_s = self._earlier.setdefault(process.name, 0.0 if dead else process.stopped_at_s)
            deaths = self._deaths.setdefault(process.name, set())
            if process.stopped_at_s != earlier_s:
                deaths.add(process.stopped_at_s)
            if len(deaths) > DEATHS_ALLOWED or process.state == "FATAL":
                raise self._failure(process.name, f"ended again and again{_status(process)}")

    def _failure(self, name: str, what: str) -> LabError:
        log = self._state.log / f"{name}.log"
        end = "\n".join(dict.fromkeys(tail(log, LOG_LINES).splitlines()))
        return LabError(
            f"{name} {what}; its log is {log}" + (f", which ends:\n{end}" if end else ", which is empty")
        )

    def _check_devices(self) -> None:
        """Report devices in FAULT; one whose driver cannot be loaded is a mistake in the configuration."""
        for name, device in self._info.devices.items():
            answer, state = ask_device(self._info.tango_host, device)
            if not answer.ready:
                self._report(
                    f"warning: {name} ({device}), which the site starts, does not answer: {answer.text}"
                )
            elif state == "FAULT" and answer.text.startswith("ConfigurationError"):
                raise LabError(f"{name} ({device}): {answer.text.partition(': ')[2]}")
            elif state == "FAULT":
                self._report(f"warning: {name} ({device}) is in FAULT: {answer.text}")


def _status(process: ProcessInfo) -> str:
    return f" (exit status {process.exit_status})" if process.exit_status else ""
