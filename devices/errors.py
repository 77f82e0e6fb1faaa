"""Errors of instruments, the same on both sides of Tango.

::

    MontangoError
    ├── LimitError          a request outside a limit: nothing has moved
    ├── ConfigurationError  a missing or contradictory setting or calibration
    ├── OperationTimeout    an operation did not end in its time
    ├── InstrumentFault     the hardware refused, failed or was lost
    │   └── DeviceLost      the device server does not answer (killed, unreachable, restarted)
    └── Aborted             ended by Stop or Abort

Drivers raise them; device servers map them to ``DevFailed`` with the class name as reason; wrappers map
them back, with the device's name and what to do.
"""

from __future__ import annotations


class MontangoError(Exception):
    """Base of every error that Montango raises for an instrument or a request to one."""


class LimitError(MontangoError):
    """A request outside a limit; raised before anything moves."""


class ConfigurationError(MontangoError):
    """A setting or calibration is missing or contradicts another."""


class OperationTimeout(MontangoError):
    """An operation did not end in its time."""


class InstrumentFault(MontangoError):
    """The hardware refused, failed or was lost."""


class DeviceLost(InstrumentFault):
    """The device server does not answer, or restarted while an operation ran."""


class Aborted(MontangoError):
    """The operation was ended by Stop or Abort."""


ERROR_CLASSES: dict[str, type[MontangoError]] = {
    cls.__name__: cls
    for cls in (
        MontangoError,
        LimitError,
        ConfigurationError,
        OperationTimeout,
        InstrumentFault,
        DeviceLost,
        Aborted,
    )
}


def check_limit(name: str, value: float, low: float, high: float, unit: str = "") -> None:
    """Refuse a value outside ``low <= value <= high`` (NaN is outside).

    Raises
    ------
    LimitError
        Naming the field, the value, the limits and what to do.
    """
    if not low <= value <= high:
        suffix = f" {unit}" if unit else ""
        raise LimitError(
            f"{name} = {value:g}{suffix} is outside its limits {low:g} to {high:g}{suffix}; "
            f"choose a value inside them, or change the limits in montango.yaml"
        )
