"""The base of every ophyd-async wrapper of a device server."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, TypeVar

import tango
from bluesky.protocols import Reading
from ophyd_async.core import DEFAULT_TIMEOUT, Command, LazyMock, SignalR
from ophyd_async.core import StandardReadableFormat as Format
from ophyd_async.tango.core import DevStateEnum, TangoDevice

from devices._tango.arguments import encode
from devices._tango.counters import OperationState, wait_operation
from devices._tango.errors import from_devfailed
from devices._tango.subscriptions import kept_subscribed
from devices._tango.write import plainly
from devices.errors import OperationTimeout

__all__ = ["Format", "InstrumentDevice"]

T = TypeVar("T")


def _keep(_: Mapping[str, Reading[Any]]) -> None:
    """Listen for the life of the process, so that a signal's cache stays subscribed."""


class InstrumentDevice(TangoDevice):
    """A Tango device with persistent subscriptions, operations by id, and errors in the words of Montango.

    Every annotated signal is subscribed once, when the device connects, and stays so: subscribing for each
    operation loses events (cppTango gives no guarantee for those fired right after it).
    """

    DONE_ATTRIBUTE: ClassVar[str] = ""

    State: SignalR[DevStateEnum]
    failed_id: SignalR[int]
    Reset: Command[[], int]

    def __init__(self, trl: str, name: str = "") -> None:
        super().__init__(trl, support_events=True, auto_fill_signals=False, name=name)

    async def connect(
        self,
        mock: bool | LazyMock[Any] = False,
        timeout: float = DEFAULT_TIMEOUT,
        force_reconnect: bool = False,
    ) -> None:
        """Connect, and subscribe every signal for good."""
        if mock:
            await super().connect(mock=mock, timeout=timeout, force_reconnect=force_reconnect)
            return
        signals = {name: child for name, child in self.children() if isinstance(child, SignalR)}
        async with kept_subscribed(self.get_trl(), signals):
            await super().connect(mock=mock, timeout=timeout, force_reconnect=force_reconnect)
            for name, signal in signals.items():
                signal.subscribe_reading(_keep)
                self._plain_errors(name, signal)
            await asyncio.gather(*(signal.get_value(cached=True) for signal in signals.values()))

    async def disconnect(self) -> None:
        """End the subscriptions: before the server ends for good.

        Tango tries for ever to reach a server that it has a subscription to, and new ones wait for that.
        """
        for _, child in self.children():
            if isinstance(child, SignalR):
                child.clear_sub(_keep)

    def renew(self, signal: SignalR[Any]) -> None:
        """Subscribe a signal anew: a new subscription begins with the value that the server has now."""
        signal.clear_sub(_keep)
        signal.subscribe_reading(_keep)

    async def call(self, command: str, argument: Any = None, timeout_s: float = 10.0) -> Any:
        """Run a command of the server and return its result.

        Raises
        ------
        MontangoError
            As the server says; `DeviceLost` when it does not answer, `OperationTimeout` after ``timeout_s``.
        """
        proxy = self._connected_proxy()
        if proxy.get_timeout_millis() < 1e3 * timeout_s:
            proxy.set_timeout_millis(int(1e3 * timeout_s))  # Tango's own is 3 s
        try:
            return await asyncio.wait_for(proxy.command_inout(command, encode(argument)), timeout_s)
        except tango.DevFailed as failure:
            raise from_devfailed(failure, self.trl) from failure
        except TimeoutError as error:
            raise OperationTimeout(
                f"{self.trl}: {command} did not return in {timeout_s:g} s; see `montango status`"
            ) from error

    async def read_now(self, *attributes: str) -> list[Any]:
        """Return attribute values read from the server in one call, not from a cache.

        Raises
        ------
        MontangoError
            As for `call`.
        """
        try:
            readings = await asyncio.wait_for(self._connected_proxy().read_attributes(list(attributes)), 10.0)
            for reading in readings:
                if reading.has_failed:
                    raise from_devfailed(tango.DevFailed(*reading.get_err_stack()), self.trl)
            return [reading.value for reading in readings]
        except tango.DevFailed as failure:
            raise from_devfailed(failure, self.trl) from failure
        except TimeoutError as error:
            raise OperationTimeout(f"{self.trl} did not answer in 10 s; see `montango status`") from error

    async def run(self, command: str, argument: Any = None, *, timeout_s: float) -> None:
        """Start an operation with a command that returns its id, and wait for its end.

        Raises
        ------
        MontangoError
            As for `call` and `devices._tango.counters.wait_operation`.
        """
        operation = int(await self.call(command, argument))
        await self.wait_for(operation, timeout_s=timeout_s)

    async def wait_for(self, operation: int, *, timeout_s: float) -> None:
        """Wait until an operation has ended; see `devices._tango.counters.wait_operation`."""
        await wait_operation(
            self.trl,
            operation,
            done=getattr(self, self.DONE_ATTRIBUTE),
            failed=self.failed_id,
            read_state=self._operation_state,
            timeout_s=timeout_s,
        )

    def _plain_errors(self, name: str, signal: SignalR[Any]) -> None:
        """Let all access to a signal fail with a `MontangoError`; ophyd-async has no place for that."""
        backend: Any = signal._connector.backend

        def plain(method: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
            @functools.wraps(method)
            async def call(*args: Any) -> T:
                with plainly(self.trl, name):
                    return await method(backend, *args)

            return call

        for method in ("get_datakey", "get_reading", "get_value", "get_setpoint", "put"):
            setattr(backend, method, plain(getattr(type(backend), method)))

    @property
    def trl(self) -> str:
        """Tango name of the device, without the host of its database."""
        return "/".join(self.get_trl().split("/")[-3:])

    async def _operation_state(self) -> OperationState:
        names = (self.DONE_ATTRIBUTE, "failed_id", "newest_id", "boot_id", "last_error")
        return OperationState(*await self.read_now(*names))

    def _connected_proxy(self) -> Any:
        proxy = self.get_proxy()
        if proxy is None:
            raise OperationTimeout(f"{self.trl} is not connected; connect it first (init_devices, connect)")
        return proxy
