"""The control of a montage that other processes reach: a `LocalControl` joined to a montage-control server.

A thread reports to the server and brings its requests, five times a second. What the plan calls never waits
for it: the server may die, restart or be away, and the montage goes on.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import socket
import threading
import time
from typing import Any

import tango

from devices._tango.arguments import encode
from devices._tango.errors import from_devfailed
from devices.errors import MontangoError, OperationTimeout
from devices.montage_control.board import Progress, Request
from devices.montage_control.device import COMMANDS
from plans.control import LocalControl

logger = logging.getLogger(__name__)

PERIOD_S = 0.2
POLL_S = 0.05
TIMEOUT_S = 2.0


def engine_name() -> str:
    """Return who this process is, such as ``"user@host pid 71"``."""
    return f"{getpass.getuser()}@{socket.gethostname()} pid {os.getpid()}"


def host_of(engine: str) -> str:
    """Return the host in what `engine_name` returned there."""
    return engine.partition("@")[2].partition(" ")[0]


class TangoControl(LocalControl):
    """The control of this session's montages, joined to a montage-control server.

    Parameters
    ----------
    device
        Tango name of the server's device, with ``tango://host:port/`` where it is not that of TANGO_HOST.
    drives
        Whether this process runs montages. One that does not, such as a second terminal, only sends its
        requests to the server.
    """

    def __init__(self, device: str, *, drives: bool = True) -> None:
        super().__init__()
        self._device = device
        self._name = engine_name()
        self._proxy: Any = None
        self._taken = 0
        self._boot = 0
        self._away = ""
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="montage control", daemon=True)
        self._drives = drives
        if drives:
            self._thread.start()

    def publish(self, progress: Progress) -> None:
        """Show how far the montage is; a new state goes out at once, the rest with the next report."""
        news = (progress.montage_id, progress.state) != (self.progress.montage_id, self.progress.state)
        super().publish(progress)
        if news:
            self._wake.set()

    def ask(self, request: Request) -> None:
        """Make a request: of this process's montage, or by the server of the one that runs elsewhere.

        Raises
        ------
        MontangoError
            No montage runs, or the server does not answer.
        """
        if self._drives and self.progress.active:
            super().ask(request)
            return
        try:
            self._connected().command_inout(COMMANDS[request])
        except tango.DevFailed as failure:
            self._proxy = None
            raise from_devfailed(failure, self._short) from failure

    def ask_and_wait(self, request: Request, timeout_s: float = 10.0) -> None:
        """Make a request by the server, and wait until the engine has taken it.

        Raises
        ------
        MontangoError
            No montage runs, the server does not answer, or the engine has not taken it after ``timeout_s``.
        """
        try:
            proxy = self._connected()
            number = int(proxy.command_inout(COMMANDS[request]))
            deadline = time.monotonic() + timeout_s
            while int(proxy.read_attribute("requests_done").value) < number:
                if time.monotonic() > deadline:
                    raise OperationTimeout(
                        f"the engine has not taken {request} after {timeout_s:g} s; see "
                        f"`montango control status`"
                    )
                time.sleep(POLL_S)
        except tango.DevFailed as failure:
            self._proxy = None
            raise from_devfailed(failure, self._short) from failure

    def status(self) -> dict[str, Any]:
        """Return the server's attributes by their names.

        Raises
        ------
        MontangoError
            The server does not answer.
        """
        names = [*STATUS_ATTRIBUTES]
        try:
            return {one.name: one.value for one in self._connected().read_attributes(names)}
        except tango.DevFailed as failure:
            self._proxy = None
            raise from_devfailed(failure, self._short) from failure

    def close(self, timeout_s: float = 3.0) -> None:
        """Send the last report and end the thread."""
        self._closing = True
        self._wake.set()
        if self._drives and self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def _short(self) -> str:
        return "/".join(self._device.split("/")[-3:])

    def _run(self) -> None:
        while True:
            closing = self._closing
            try:
                self._report()
            except (MontangoError, OSError, ValueError) as error:
                self._note(str(error))
            else:
                self._note("")
            if closing:
                return
            self._wake.wait(PERIOD_S)
            self._wake.clear()

    def _report(self) -> None:
        report = {
            "engine": self._name,
            "progress": self.progress.as_dict() if self.progress.montage_id else None,
            "holds": self.holds,
            "taken": self._taken,
            "boot": self._boot,
        }
        try:
            answer = self._connected().command_inout_raw("Report", encode(json.dumps(report))).extract()
        except tango.DevFailed as failure:
            self._proxy = None
            raise from_devfailed(failure, self._short) from failure
        self._take_in(json.loads(answer))

    def _take_in(self, answer: dict[str, Any]) -> None:
        if answer["boot"] != self._boot:
            self._boot, self._taken = answer["boot"], 0
        for number, name in answer["requests"]:
            if number > self._taken:
                self._taken = number
                super().ask(Request(name))
                self._wake.set()  # whoever asked waits to hear that it was taken

    def _connected(self) -> Any:
        if self._proxy is None:
            proxy = tango.DeviceProxy(self._device)
            proxy.set_timeout_millis(int(TIMEOUT_S * 1000))
            self._proxy = proxy
        return self._proxy

    def _note(self, failure: str) -> None:
        """Log an outage once, and its end."""
        if failure and not self._away:
            logger.warning("the montage goes on, but cannot be steered from other processes: %s", failure)
        elif self._away and not failure:
            logger.warning("%s answers again", self._short)
        self._away = failure


STATUS_ATTRIBUTES = (
    "montage_id",
    "montage_state",
    "current_tile",
    "total_tiles",
    "tiles_reimaged",
    "roi",
    "avg_cycle_time_s",
    "stage_move_time_s",
    "capture_time_s",
    "throughput_per_min",
    "eta_s",
    "qc_verdict",
    "reason",
    "holds",
    "engine",
    "last_seen_s",
)
"""Attributes that `TangoControl.status` reads."""
