"""Ask a device something in the middle of a plan."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

import bluesky.plan_stubs as bps
from bluesky.utils import Msg

from devices._tango.wrapper import InstrumentDevice

T = TypeVar("T")


def ask(question: Callable[[], Awaitable[T]]) -> Generator[Msg, Any, T]:
    """Run a coroutine function in the RunEngine's loop and return its result.

    Raises what it raises; `bluesky.plan_stubs.wait_for` alone keeps that to itself.
    """
    (task,) = yield from bps.wait_for([question])
    return task.result()  # type: ignore[no-any-return]


def read_now(device: InstrumentDevice, *attributes: str) -> Generator[Msg, Any, list[Any]]:
    """Return attribute values read from a device's server, not from a cache.

    Raises
    ------
    MontangoError
        The server does not answer, or an attribute has no value (a calibration that does not exist).
    """
    return (yield from ask(lambda: device.read_now(*attributes)))
