"""The base of every device server: driver loading, operations with ids, events, errors.

An operation (a move, a series of frames, a table of tiles) has an id, returned by the command that starts
it. It has ended when the server's counter (`moves_done`, ...) reaches the id, or when `failed_id` does, and
then `last_error` says why. Both only grow; ids begin at 1 again, and
`boot_id` changes, when the server restarts.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from tango import AutoTangoMonitor, DevState, EnsureOmniThread, Util
from tango.server import Device, attribute, command, device_property, run

from devices._tango.errors import translated
from devices.errors import ConfigurationError, MontangoError


def load_driver(path: str, options: Mapping[str, Any]) -> Any:
    """Return ``Class(**options)`` for a path ``"module:Class"``.

    Raises
    ------
    ConfigurationError
        The module, the class or an option does not exist.
    """
    module_name, _, class_name = path.partition(":")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"driver {path!r} cannot be loaded ({error}); give it as 'module:Class' in montango.yaml"
        ) from error
    try:
        return cls(**options)
    except TypeError as error:
        raise ConfigurationError(f"driver {path!r} refuses its options {dict(options)}: {error}") from error


class InstrumentServer(Device):
    """A device server over a driver; subclasses add attributes and commands that only translate."""

    DONE_ATTRIBUTE: ClassVar[str] = ""

    driver = device_property(dtype=str, doc="driver class, 'module:Class'")
    driver_options = device_property(dtype=str, default_value="{}", doc="driver options, JSON")

    failed_id = attribute(dtype="DevLong64", doc="id of the newest operation that failed or was ended")
    newest_id = attribute(dtype="DevLong64", doc="id of the newest operation that has begun")
    boot_id = attribute(dtype="DevLong64", unit="us", doc="start of this server, Unix time")
    last_error = attribute(dtype=str, doc="class and text of the newest failure")

    def init_device(self) -> None:
        """Load and open the driver, and publish every attribute's events."""
        super().init_device()
        self._lock = threading.Lock()
        self._newest_id = 0
        self._done_id = 0
        self._failed_id = 0
        self._boot_id = time.time_ns() // 1000
        self._last_error = ""
        self._quit = threading.Event()
        self._workers: list[threading.Thread] = []
        self._published: dict[str, Any] = {}
        self.declare_attributes()
        for name in self._attribute_names():
            self.set_change_event(name, True, False)
        self.set_state(DevState.INIT)
        try:
            self.hardware = load_driver(self.driver, json.loads(self.driver_options))
            self.hardware.open()
            self.start()
        except Exception as error:  # noqa: BLE001  # shown as state FAULT, mended by Init or a restart
            self.set_state(DevState.FAULT)
            self.set_status(f"{type(error).__name__}: {error}")
            self.error_stream(f"{type(error).__name__}: {error}")
            return
        self.set_state(DevState.ON)

    def declare_attributes(self) -> None:
        """Add attributes that a table declares, not the class body."""

    def start(self) -> None:
        """Start what the subclass needs once its driver is open."""

    def delete_device(self) -> None:
        """Stop the worker threads and close the driver."""
        self._quit.set()
        self.wake()
        for worker in self._workers:
            worker.join(2)
        if hasattr(self, "hardware"):
            self.hardware.close()
        super().delete_device()

    def wake(self) -> None:
        """Make worker threads that wait look at ``self._quit``."""

    def read_failed_id(self) -> int:
        return self._failed_id

    def read_newest_id(self) -> int:
        return self._newest_id

    def read_boot_id(self) -> int:
        return self._boot_id

    def read_last_error(self) -> str:
        return self._last_error

    @command(dtype_out="DevLong64", doc_out="id of the newest operation")
    @translated
    def Reset(self) -> int:
        """Reopen the driver after a fault."""
        self.hardware.close()
        self.hardware.open()
        self.enter(DevState.ON)
        return self._newest_id

    def _attribute_names(self) -> list[str]:
        attributes = self.get_device_attr()
        return [attributes.get_attr_by_ind(i).get_name() for i in range(attributes.get_attr_nb())]

    def spawn(self, target: Callable[[], None], name: str) -> None:
        """Run ``target`` in a thread that may push events, until the device is deleted."""

        def body() -> None:
            with EnsureOmniThread():
                try:
                    target()
                except Exception as error:  # noqa: BLE001  # the thread's edge
                    if not self._quit.is_set():
                        self.error_stream(f"thread {name} ended: {type(error).__name__}: {error}")
                        self.enter(DevState.FAULT, f"thread {name} ended: {type(error).__name__}: {error}")

        worker = threading.Thread(target=body, name=name, daemon=True)
        self._workers.append(worker)
        worker.start()

    def every(self, period_s: float, action: Callable[[], None], name: str) -> None:
        """Run ``action`` in a thread, ``period_s`` apart, until the device is deleted.

        A failure of the hardware is logged, once until it is gone, and the next round tries again.
        """

        def body() -> None:
            failure = ""
            while not self._quit.wait(period_s):
                try:
                    action()
                    failure = ""
                except (MontangoError, OSError) as error:
                    text = f"{name}: {type(error).__name__}: {error}"
                    if text != failure:
                        self.warn_stream(text)
                    failure = text

        self.spawn(body, name)

    def publish(self, **values: Any) -> None:
        """Push change events, all under the device's monitor."""
        with AutoTangoMonitor(self):
            for name, value in values.items():
                self.push_change_event(name, value)

    def publish_changed(self, **values: Any) -> None:
        """Push change events for the values that differ from those pushed last by this method."""
        changed = {name: value for name, value in values.items() if self._published.get(name) != value}
        if changed:
            self._published.update(changed)
            self.publish(**changed)

    def enter(self, state: DevState, status: str = "") -> None:
        """Set and push the state."""
        with AutoTangoMonitor(self):
            self.set_state(state)
            self.set_status(status or f"The device is in {state} state.")
            self.push_change_event("State", state)

    def begin(self) -> int:
        """Return the id of a new operation."""
        with self._lock:
            self._newest_id += 1
            return self._newest_id

    def complete(self, operation: int, **values: Any) -> None:
        """Publish the end of an operation, with attribute values that changed by it."""
        self._done_id = max(self._done_id, operation)
        self.publish(**values, **{self.DONE_ATTRIBUTE: self._done_id})

    def fail(self, operation: int, error: Exception) -> None:
        """Publish the failure of an operation."""
        self._last_error = f"{type(error).__name__}: {error}"
        self._failed_id = max(self._failed_id, operation)
        self.warn_stream(f"operation {operation}: {self._last_error}")
        self.publish(last_error=self._last_error, failed_id=self._failed_id)


def serve(server_class: type[InstrumentServer], server_name: str) -> None:
    """Run one device server from the command line: ``python -m devices.X.server INSTANCE [omniORB options]``.

    The Tango server name is ``server_name/INSTANCE``; see `montango.lab` for how it is registered.
    """
    instance = sys.argv[1] if len(sys.argv) > 1 else "sim"
    run((server_class,), args=[server_name, instance, *sys.argv[2:]], post_init_callback=_announce)


def _announce() -> None:
    print(f"ready: {Util.instance().get_ds_name()}", flush=True)
