"""The software sequencer's connections to the instruments' servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import tango

from devices._tango.arguments import encode
from devices._tango.errors import from_devfailed
from devices._tango.write import write_attribute
from devices.errors import MontangoError


class Links:
    """Tango clients by what they drive, made when first needed; any thread.

    Parameters
    ----------
    names
        Tango device name of each instrument.
    timeouts_s
        Longest time that a call to each may take, s.
    """

    def __init__(self, names: Mapping[str, str], timeouts_s: Mapping[str, float]) -> None:
        self._names = names
        self._timeouts_s = timeouts_s
        self._proxies: dict[str, Any] = {}

    def close(self) -> None:
        """Forget the connections."""
        self._proxies.clear()

    def call(self, kind: str, command: str, argument: Any = None) -> Any:
        """Run a command and return its result.

        Raises
        ------
        MontangoError
            As the server says, or `DeviceLost`.
        """
        try:
            # the raw call: command_inout reads ten telemetry variables of the environment, 0.15 ms each time
            return self._proxy(kind).command_inout_raw(command, encode(argument)).extract()
        except tango.DevFailed as failure:
            raise self._lost(kind, failure) from failure

    def read(self, kind: str, *names: str) -> list[Any]:
        """Return attribute values, all read in one call.

        Raises
        ------
        MontangoError
            As the server says, or `DeviceLost`.
        """
        try:
            readings = self._proxy(kind).read_attributes(list(names))
            for reading in readings:
                if reading.has_failed:
                    raise tango.DevFailed(*reading.get_err_stack())
            return [reading.value for reading in readings]
        except tango.DevFailed as failure:
            raise self._lost(kind, failure) from failure

    def write(self, kind: str, name: str, value: Any) -> None:
        """Write an attribute.

        Raises
        ------
        MontangoError
            As the server says, or `DeviceLost`.
        """
        try:
            write_attribute(self._proxy(kind), self._names[kind], name, value)
        except MontangoError:
            self._proxies.pop(kind, None)
            raise
        except tango.DevFailed as failure:  # of the proxy itself
            raise self._lost(kind, failure) from failure

    def _proxy(self, kind: str) -> Any:
        proxy = self._proxies.get(kind)
        if proxy is None:
            proxy = tango.DeviceProxy(self._names[kind])
            proxy.set_timeout_millis(int(self._timeouts_s[kind] * 1000))
            self._proxies[kind] = proxy
        return proxy

    def _lost(self, kind: str, failure: tango.DevFailed) -> MontangoError:
        with suppress(KeyError):
            del self._proxies[kind]  # a restarted server is found by a new proxy at once
        return from_devfailed(failure, self._names[kind])


def take_every(*steps: Callable[[], Any]) -> None:
    """Take every step, even if another fails.

    Raises
    ------
    MontangoError
        The first failure.
    """
    failures: list[MontangoError] = []
    for step in steps:
        try:
            step()
        except MontangoError as error:
            failures.append(error)
    if failures:
        raise failures[0]
