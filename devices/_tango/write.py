"""Writing an attribute of a device whose server may be starting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tango

from devices._tango.errors import from_devfailed, server_name
from devices.errors import DeviceLost


def write_attribute(proxy: Any, device: str, name: str, value: Any) -> None:
    """Write an attribute.

    Raises
    ------
    MontangoError
        As for `plainly`.
    """
    with plainly(device, name):
        proxy.write_attribute(name, value)


@contextmanager
def plainly(device: str, name: str) -> Iterator[None]:
    """Give what PyTango and ophyd-async raise while an attribute is read or written in the words of Montango.

    Raises
    ------
    MontangoError
        As the server says; `DeviceLost` where it does not answer, or is just starting: PyTango then reads a
        configuration of the attribute that is not there yet, and raises TypeError.
    """
    try:
        yield
    except tango.DevFailed as failure:
        raise from_devfailed(failure, device) from failure
    except RuntimeError as error:  # how ophyd-async passes on a DevFailed
        if not isinstance(error.__cause__, tango.DevFailed):
            raise
        raise from_devfailed(error.__cause__, device) from error
    except TypeError as error:
        if "data_format" not in str(error):
            raise
        raise DeviceLost(
            f"{device} is starting and cannot take {name} yet ({error}); see `montango logs "
            f"{server_name(device)}`, then try again"
        ) from error
