"""Arguments of Tango commands, encoded here: `command_inout` asks the server for the type at each call."""

from __future__ import annotations

from typing import Any

import numpy as np
import tango


def encode(argument: Any) -> tango.DeviceData:
    """Return an argument as Tango carries it: int, str, or numbers as an array of float64.

    Raises
    ------
    TypeError
        Another type.
    """
    data = tango.DeviceData()
    if argument is None:
        return data
    if isinstance(argument, str):
        data.insert(tango.DevString, argument)
    elif isinstance(argument, int | np.integer):
        data.insert(tango.DevLong64, int(argument))
    elif isinstance(argument, tuple | list | np.ndarray):
        data.insert(tango.DevVarDoubleArray, np.asarray(argument, np.float64))
    else:
        raise TypeError(f"a command takes int, str or numbers, not {type(argument).__name__}")
    return data
