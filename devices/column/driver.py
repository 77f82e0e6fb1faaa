"""What a column must be able to do: the Protocol that hardware and simulation implement."""

from __future__ import annotations

from typing import Protocol

from devices.column.settings import BY_NAME, Value
from devices.errors import LimitError, check_limit

LENS_GROUPS: tuple[str, ...] = ("SPOTSIZE", "INTENSITY", "CONDENSER", "OBJECTIVE", "PROJECTOR", "ALL")


class ColumnDriver(Protocol):
    """An electron column. Calls may come from any thread; the driver serialises them."""

    def open(self) -> None:
        """Connect to the hardware."""

    def close(self) -> None:
        """Disconnect; the column stays as it is."""

    def get(self, name: str) -> Value:
        """Return a setting or reading of `devices.column.settings.SETTINGS` as the hardware has it now.

        Raises
        ------
        ConfigurationError
            The value is a calibration (pixel size, rotation) that does not exist for this magnification.
        """

    def set(self, name: str, value: Value) -> None:
        """Change a setting and return when the hardware has taken it.

        Raises
        ------
        LimitError
            The value is outside its range; nothing is changed.
        InstrumentFault
            The column refuses.
        """

    def normalize(self, lens_group: str) -> None:
        """Normalise a lens group of `LENS_GROUPS` (remove its hysteresis).

        Raises
        ------
        LimitError
            There is no such group.
        """


def check_setting(name: str, value: Value) -> None:
    """Refuse a value that the table of settings does not allow.

    Raises
    ------
    LimitError
        Naming the setting, the value and what is allowed.
    """
    setting = BY_NAME.get(name)
    if setting is None:
        raise LimitError(f"column has no setting {name!r}; see devices.column.settings for the names")
    if not setting.writable:
        raise LimitError(f"column {name} can only be read")
    if setting.choices and value not in setting.choices:
        raise LimitError(f"column {name} = {value!r} is not one of {', '.join(setting.choices)}")
    numbers: tuple[float, ...] = ()
    if setting.kind == "pair" and isinstance(value, tuple):
        numbers = value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        numbers = (float(value),)
    if setting.low is not None and setting.high is not None:
        for number in numbers:
            check_limit(f"column {name}", number, setting.low, setting.high, setting.unit)
