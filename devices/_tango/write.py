"""Writing an attribute of a device whose server may be starting."""

from __future__ import annotations

from typing import Any

import tango

from devices._tango.errors import from_devfailed, server_name
from devices.errors import DeviceLost


def write_attribute(proxy: Any, device: str, name: str, value: Any) -> None:
    """Write an attribute.

    Raises
    ------
    MontangoError
        As the server says; `DeviceLost` where it does not answer, or is just starting: PyTango then reads a
        configuration of the attribute that is not there yet, and raises TypeError.
    """
    try:
        proxy.write_attribute(name, value)
    except tango.DevFailed as failure:
        raise from_devfailed(failure, device) from failure
    except TypeError as error:
        raise DeviceLost(
            f"{device} is starting and cannot take {name} yet ({error}); see `montango logs "
            f"{server_name(device)}`, then try again"
        ) from error
