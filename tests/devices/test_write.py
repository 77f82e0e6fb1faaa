"""What a write to a device server that is dead, or just starting, fails with."""

from __future__ import annotations

import pytest
import tango

from devices._tango.write import plainly
from devices.errors import DeviceLost, LimitError

DEVICE = "montango/column/1"


def failure(reason: str) -> tango.DevFailed:
    entry = tango.DevError()
    entry.reason, entry.desc = reason, "as the server says"
    return tango.DevFailed(entry)


def raised(error: Exception) -> None:
    with plainly(DEVICE, "beam_blanked"):
        raise error


def test_a_dead_server_is_a_lost_device() -> None:
    with pytest.raises(DeviceLost, match="montango/column/1 does not answer"):
        raised(failure("API_DeviceNotExported"))


def test_what_ophyd_async_makes_of_a_failure_is_told_as_the_failure() -> None:
    error = RuntimeError("beam_blanked device failure")
    error.__cause__ = failure("API_WAttrOutsideLimit")
    with pytest.raises(LimitError, match="as the server says"):
        raised(error)


def test_a_starting_server_is_a_lost_device() -> None:
    with pytest.raises(DeviceLost, match="is starting and cannot take beam_blanked yet"):
        raised(TypeError("unsupported data_format."))


@pytest.mark.parametrize("error", [RuntimeError("another"), TypeError("a value of the wrong type")])
def test_other_errors_are_left_alone(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        raised(error)
