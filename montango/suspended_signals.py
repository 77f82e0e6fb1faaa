"""The signals of a laboratory as suspenders watch them, and what happens at once when one trips."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Any

import tango

from devices._tango.errors import from_devfailed
from devices._tango.write import write_attribute
from devices.errors import MontangoError
from montango.lab import LabInfo
from plans.suspenders import Suspenders, SuspenderSpec, Watched

logger = logging.getLogger(__name__)

TIMEOUT_S = 3.0
TILE_LIMIT_S = 60.0
POLL_S = 0.05
HOLDER = "suspenders"


class FacilitySignal:
    """A signal of the building: classic ophyd over Channel Access, monitored."""

    def __init__(self, signal: Any) -> None:
        self._signal = signal
        self._changed: Callable[[float | None], None] | None = None

    def watch(self, changed: Callable[[float | None], None]) -> None:
        """Call ``changed`` with every value that comes, and with None when the connection is lost."""
        self._changed = changed
        self._signal.subscribe(self._on_value, event_type="value", run=True)
        self._signal.subscribe(self._on_meta, event_type="meta", run=False)

    def read(self) -> float | None:
        """Return the value that came last; None while it is not connected."""
        return float(self._signal.get()) if self._signal.connected else None

    def close(self) -> None:
        """Call no more."""
        self._changed = None
        self._signal.clear_sub(self._on_value, event_type="value")
        self._signal.clear_sub(self._on_meta, event_type="meta")

    def _on_value(self, *_: Any, value: Any = None, **__: Any) -> None:
        if self._changed is not None and value is not None:
            self._changed(float(value))

    def _on_meta(self, *_: Any, connected: bool | None = None, **__: Any) -> None:
        if self._changed is not None and connected is False:
            self._changed(None)


class ColumnSignal:
    """A signal of the column: events by ophyd-async, readings by a Tango client of its own.

    Parameters
    ----------
    signal
        The ophyd-async signal.
    device, attribute
        Where to read it anew: Tango name of the column, and of the attribute.
    loop
        The event loop of the signal.
    """

    def __init__(self, signal: Any, device: str, attribute: str, loop: asyncio.AbstractEventLoop) -> None:
        self._signal = signal
        self._device = device
        self._attribute = attribute
        self._loop = loop
        self._proxy: Any = None
        self._listener: Callable[[Any], None] | None = None

    def watch(self, changed: Callable[[float | None], None]) -> None:
        """Call ``changed`` with every event's value."""

        def listen(reading: Any) -> None:
            for item in reading.values():
                changed(float(item["value"]))

        self._listener = listen
        self._loop.call_soon_threadsafe(self._signal.subscribe_reading, listen)

    def read(self) -> float | None:
        """Return the value read from the column now; None when it does not answer."""
        try:
            if self._proxy is None:
                self._proxy = tango.DeviceProxy(self._device)
                self._proxy.set_timeout_millis(int(TIMEOUT_S * 1000))
            return float(self._proxy.read_attribute(self._attribute).value)
        except tango.DevFailed:
            self._proxy = None
            return None

    def close(self) -> None:
        """Listen no more."""
        if self._listener is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._signal.clear_sub, self._listener)
        self._listener = None


class BeamHold:
    """Pauses the sequencer and blanks the beam, by Tango calls of its own; lets the sequencer go on again.

    Pause first, so that no exposure begins; then the beam, in the middle of an exposure if need be; and again
    when the tile that ran has ended, because a sequencer may unblank for its exposure.

    Parameters
    ----------
    sequencer, column
        Tango names.
    wrapper
        The session's sequencer, which knows who else holds it.
    loop
        Its event loop.
    """

    def __init__(self, sequencer: str, column: str, wrapper: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._names = {"sequencer": sequencer, "column": column}
        self._proxies: dict[str, Any] = {}
        self._wrapper = wrapper
        self._loop = loop
        self._end = threading.Event()

    def hold(self) -> None:
        """Hold now, and return when no tile runs any more.

        Raises
        ------
        MontangoError
            A device does not answer; whatever else could be done was done.
        """
        paused = self._try("sequencer", lambda proxy: proxy.command_inout("Pause"))
        blanked = self._blank()
        self._begin(self._wrapper.hold(HOLDER))
        deadline = time.monotonic() + TILE_LIMIT_S
        while paused is None and self._tile_runs() and time.monotonic() < deadline:
            if self._end.wait(POLL_S):
                return
        blanked = self._blank() or blanked
        if failure := paused or blanked:
            raise failure

    def go_on(self) -> None:
        """Let the sequencer go on, unless somebody else holds it."""
        self._begin(self._wrapper.go_on(HOLDER))

    def close(self) -> None:
        """Wait for nothing any more."""
        self._end.set()

    def _blank(self) -> Exception | None:
        column = self._names["column"]
        return self._try("column", lambda proxy: write_attribute(proxy, column, "beam_blanked", True))

    def _tile_runs(self) -> bool:
        running: list[bool] = []
        lost = self._try("sequencer", lambda proxy: running.append(proxy.state() == tango.DevState.RUNNING))
        return lost is None and running[0]

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a call in the event loop; it is not waited for."""

        def ended(future: Future[None]) -> None:
            if not future.cancelled() and (error := future.exception()) is not None:
                logger.warning("%s", error)

        asyncio.run_coroutine_threadsafe(work, self._loop).add_done_callback(ended)

    def _try(self, kind: str, action: Callable[[Any], Any]) -> Exception | None:
        try:
            if kind not in self._proxies:
                proxy = tango.DeviceProxy(self._names[kind])
                proxy.set_timeout_millis(int(TIMEOUT_S * 1000))
                self._proxies[kind] = proxy
            action(self._proxies[kind])
        except tango.DevFailed as failure:
            self._proxies.pop(kind, None)
            return from_devfailed(failure, self._names[kind])
        except MontangoError as error:
            self._proxies.pop(kind, None)
            return error
        return None


def make_suspenders(
    specs: Sequence[SuspenderSpec], devices: Any, lab: LabInfo, loop: asyncio.AbstractEventLoop
) -> Suspenders:
    """Return the suspenders of a laboratory's configuration, not started."""
    host = f"tango://{lab.tango_host}/"

    def watched(spec: SuspenderSpec) -> Watched:
        device, _, name = spec.signal.partition(".")
        if device == "facility":
            return FacilitySignal(getattr(devices.facility, name))
        return ColumnSignal(getattr(devices.column, name), host + lab.devices["column"], name, loop)

    beam = BeamHold(host + lab.devices["sequencer"], host + lab.devices["column"], devices.sequencer, loop)
    return Suspenders([(spec, watched(spec)) for spec in specs], beam)
