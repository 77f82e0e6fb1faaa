"""Makes the microscope safe when the engine that drove it is gone: queue ended, beam blanked, stage still.

The tile that runs is finished, because its frame is good; the rest of the queue is dropped. A device that
does not answer is tried again at the next `step`: a column whose server restarts is blanked when it is back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import tango

from devices._tango.errors import from_devfailed
from devices._tango.write import write_attribute
from devices.errors import MontangoError

TIMEOUT_S = 3.0
TILE_LIMIT_S = 60.0
BUSY = (tango.DevState.RUNNING, tango.DevState.STANDBY)
"""States of a sequencer with tables in its queue: it runs them, or is paused."""


class Safety:
    """Steps towards a safe microscope, one `step` at a time; none waits longer than a device's answer.

    Parameters
    ----------
    devices
        Tango names of ``sequencer``, ``column`` and ``stage``; one that is absent is left out.
    tile_limit_s
        Longest time, in s, that the tile in progress may take before it is aborted.
    clock
        Returns seconds that only grow.
    """

    def __init__(
        self,
        devices: Mapping[str, str],
        tile_limit_s: float = TILE_LIMIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._devices = {kind: name for kind, name in devices.items() if name}
        self._tile_limit_s = tile_limit_s
        self._clock = clock
        self._proxies: dict[str, Any] = {}
        self._since: float | None = None
        self._stopped = False

    def begin(self) -> None:
        """Begin anew: the next steps end what runs."""
        self._since = self._clock()
        self._stopped = False

    def step(self) -> list[str]:
        """Do what can be done now; return what is missing, in words. Empty: the microscope is safe."""
        if self._since is None:
            self.begin()
        missing: list[str] = []
        if not self._try(missing, self._end_sequencer, "sequencer"):
            return missing  # blanking now would spoil the tile that runs
        self._try(missing, self._blank, "column")
        self._try(missing, lambda: self._call("stage", "Stop"), "stage")
        return missing

    def blank_idle_beam(self) -> None:
        """Blank the beam if it is on while no table runs.

        Raises
        ------
        MontangoError
            A device does not answer.
        """
        if "column" in self._devices and not self._read("column", "beam_blanked") and not self._running():
            self._blank()

    def _try(self, missing: list[str], action: Callable[[], None], kind: str) -> bool:
        """Take a step for a device; return False when what follows must wait for it."""
        if kind not in self._devices:
            return True
        try:
            action()
        except _NotYet as waiting:
            missing.append(str(waiting))
            return False
        except MontangoError as error:
            missing.append(str(error))
        return True

    def _end_sequencer(self) -> None:
        if not self._stopped:
            self._call("sequencer", "Stop")
            self._stopped = True
        if not self._running():
            return
        if self._clock() - (self._since or 0.0) > self._tile_limit_s:
            self._call("sequencer", "Abort")
        raise _NotYet("the sequencer finishes its tile")

    def _running(self) -> bool:
        return "sequencer" in self._devices and self._read("sequencer", "State") in BUSY

    def _blank(self) -> None:
        try:
            write_attribute(self._proxy("column"), self._devices["column"], "beam_blanked", True)
        except tango.DevFailed as failure:
            raise self._lost("column", failure) from failure
        except MontangoError:
            self._proxies.pop("column", None)
            raise

    def _call(self, kind: str, command: str) -> None:
        try:
            self._proxy(kind).command_inout(command)
        except tango.DevFailed as failure:
            raise self._lost(kind, failure) from failure

    def _read(self, kind: str, name: str) -> Any:
        try:
            return self._proxy(kind).read_attribute(name).value
        except tango.DevFailed as failure:
            raise self._lost(kind, failure) from failure

    def _proxy(self, kind: str) -> Any:
        if kind not in self._proxies:
            proxy = tango.DeviceProxy(self._devices[kind])
            proxy.set_timeout_millis(int(TIMEOUT_S * 1000))
            self._proxies[kind] = proxy
        return self._proxies[kind]

    def _lost(self, kind: str, failure: tango.DevFailed) -> MontangoError:
        self._proxies.pop(kind, None)
        return from_devfailed(failure, self._devices[kind])


class _NotYet(Exception):
    """A device is still at it."""
