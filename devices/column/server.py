"""Tango device server of a column: one attribute for each row of `devices.column.settings.SETTINGS`."""

from __future__ import annotations

from typing import Any

from tango import Attribute, AttrWriteType
from tango.server import attribute, command

from devices._tango.errors import translated
from devices._tango.server import InstrumentServer, serve
from devices.column.driver import ColumnDriver, check_setting
from devices.column.settings import BY_NAME, SETTINGS, Setting, Value
from devices.errors import ConfigurationError

PERIOD_S = 1.0
DTYPES: dict[str, Any] = {"float": float, "int": "DevLong64", "bool": bool, "str": str, "pair": (float,)}


def tango_value(value: Value) -> Any:
    """Return a value as Tango carries it: a pair as a list."""
    return list(value) if isinstance(value, tuple) else value


def setting_value(setting: Setting, value: Any) -> Value:
    """Return a value from Tango as drivers take it.

    Raises
    ------
    LimitError
        The value is outside the setting's range.
    """
    result: Value
    if setting.kind == "pair":
        x, y = (float(number) for number in value)
        result = (x, y)
    else:
        result = {"float": float, "int": int, "bool": bool, "str": str}[setting.kind](value)
    check_setting(setting.name, result)
    return result


class ColumnServer(InstrumentServer):
    """An electron column."""

    DONE_ATTRIBUTE = "settings_done"

    settings_done = attribute(dtype="DevLong64", doc="settings changed since the server started")

    hardware: ColumnDriver

    def declare_attributes(self) -> None:
        """Declare an attribute for each setting, with unit, limits and alarm levels."""
        for setting in SETTINGS:
            self.add_attribute(_declare(setting), self.read_setting, self.write_setting)

    def start(self) -> None:
        self.every(PERIOD_S, self._publish_all, "watch")

    def read_settings_done(self) -> int:
        return self._done_id

    @translated
    def read_setting(self, attr: Attribute) -> Any:
        """Read one setting from the hardware."""
        setting = BY_NAME[attr.get_name()]
        return tango_value(self.hardware.get(setting.name))

    @translated
    def write_setting(self, attr: Attribute) -> None:
        """Change one setting and push its event when the hardware has taken it."""
        setting = BY_NAME[attr.get_name()]
        self.hardware.set(setting.name, setting_value(setting, attr.get_write_value()))
        self._publish_all()
        self.complete(self.begin())

    @command(
        dtype_in=str,
        doc_in="SPOTSIZE, INTENSITY, CONDENSER, OBJECTIVE, PROJECTOR or ALL",
        dtype_out="DevLong64",
        doc_out="id of the operation, which has ended",
    )
    @translated
    def Normalize(self, lens_group: str) -> int:
        """Normalise a lens group: remove its hysteresis."""
        self.hardware.normalize(lens_group)
        operation = self.begin()
        self.complete(operation)
        return operation

    def _publish_all(self) -> None:
        values = {}
        for setting in SETTINGS:
            try:
                values[setting.name] = tango_value(self.hardware.get(setting.name))
            except ConfigurationError:
                continue  # a calibration that does not exist for this magnification: reading it says so
        self.publish_changed(**values)


def _declare(setting: Setting) -> attribute:
    options: dict[str, Any] = {}
    if setting.low is not None and setting.writable:
        options["min_value"], options["max_value"] = str(setting.low), str(setting.high)
    if setting.alarm is not None:
        options["min_alarm"], options["max_alarm"] = (str(level) for level in setting.alarm)
    if setting.kind == "pair":
        options["max_dim_x"] = 2
    return attribute(
        name=setting.name,
        dtype=DTYPES[setting.kind],
        access=AttrWriteType.READ_WRITE if setting.writable else AttrWriteType.READ,
        unit=setting.unit,
        doc=setting.description,
        **options,
    )


if __name__ == "__main__":
    serve(ColumnServer, "MontangoColumn")
