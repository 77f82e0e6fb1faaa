"""Errors over Tango: `MontangoError` to ``DevFailed`` in a server, and back in a client."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import tango

from devices.errors import (
    ERROR_CLASSES,
    DeviceLost,
    InstrumentFault,
    LimitError,
    MontangoError,
    OperationTimeout,
)

P = ParamSpec("P")
T = TypeVar("T")

REASON_PREFIX = "Montango_"
_LOST = ("API_CorbaException", "API_CantConnectToDevice", "API_DeviceNotExported", "DB_DeviceNotDefined")


def to_devfailed(error: Exception, origin: str) -> tango.DevFailed:
    """Return a ``DevFailed`` whose reason names the error's class."""
    kind = type(error).__name__ if isinstance(error, MontangoError) else InstrumentFault.__name__
    text = str(error) if isinstance(error, MontangoError) else f"{type(error).__name__}: {error}"
    entry = tango.DevError()
    entry.reason = REASON_PREFIX + kind
    entry.desc = text
    entry.origin = origin
    entry.severity = tango.ErrSeverity.ERR
    return tango.DevFailed(entry)


def translated(method: Callable[P, T]) -> Callable[P, T]:
    """Make a server's method raise ``DevFailed`` with the class of the `MontangoError` as reason."""

    @functools.wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except (MontangoError, OSError) as error:
            raise to_devfailed(error, method.__qualname__) from error

    return wrapper


def from_devfailed(failure: tango.DevFailed, device: str) -> MontangoError:
    """Return the `MontangoError` behind a ``DevFailed``, with the device's name and what to do."""
    errors: tuple[Any, ...] = failure.args
    for entry in errors:
        if entry.reason.startswith(REASON_PREFIX):
            cls = ERROR_CLASSES.get(entry.reason.removeprefix(REASON_PREFIX), MontangoError)
            return cls(entry.desc if device in entry.desc else f"{device}: {entry.desc}")
    reasons = {entry.reason for entry in errors}
    first = errors[0] if errors else None
    text = " ".join(first.desc.split()) if first else str(failure)
    if "API_DeviceTimedOut" in reasons:
        return OperationTimeout(f"{device} did not answer in time ({text}); see `montango status`")
    if reasons & set(_LOST) or isinstance(failure, tango.ConnectionFailed | tango.CommunicationFailed):
        name = server_name(device)
        return DeviceLost(
            f"{device} does not answer: its server has died or is restarting; see `montango status` and "
            f"`montango logs {name}`, then try again (`montango restart {name}` if it stays down)"
        )
    if "API_WAttrOutsideLimit" in reasons:
        return LimitError(f"{device}: {text}")
    return InstrumentFault(f"{device}: {text}")


def server_name(device: str) -> str:
    """Return the middle part of a Tango device name, which is how the lab calls the server."""
    parts = device.split("/")
    return parts[-2] if len(parts) >= 3 else device
