"""What every column driver must do: add yours to `COLUMNS`.

An entry is a function that takes a fixture request and returns a driver, open, in its usual state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest

from devices.column.driver import LENS_GROUPS, ColumnDriver
from devices.column.settings import BY_NAME, SETTINGS, Setting, Value
from devices.errors import LimitError
from sim.column import SimulatedColumn

Maker = Callable[[pytest.FixtureRequest], ColumnDriver]


def simulated(request: pytest.FixtureRequest) -> ColumnDriver:
    """Return the simulated column."""
    return SimulatedColumn(request.getfixturevalue("make_world")().path)


COLUMNS = [pytest.param(simulated, id="simulated")]
WRITABLE = [setting for setting in SETTINGS if setting.writable]
KINDS = {"float": float, "int": int, "bool": bool, "str": str, "pair": tuple}


@pytest.fixture(params=COLUMNS)
def column(request: pytest.FixtureRequest) -> Iterator[ColumnDriver]:
    make: Maker = request.param
    driver = make(request)
    driver.open()
    yield driver
    driver.close()


def other_value(setting: Setting, now: Value) -> Value:
    """Return an allowed value that is not the present one."""
    if setting.kind == "bool":
        return not now
    if setting.kind == "str":
        return next(choice for choice in setting.choices if choice != now)
    if setting.kind == "pair":
        return 0.1, -0.05
    if setting.kind == "int":
        return 4 if now != 4 else 5
    return {"high_voltage_kv": 80.0, "magnification": 8000.0, "camera_length_mm": 500.0}.get(
        setting.name, 0.5
    )


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_reading_is_of_its_kind_and_in_its_range(column: ColumnDriver, setting: Setting) -> None:
    value = column.get(setting.name)
    assert type(value) is KINDS[setting.kind]
    if setting.choices:
        assert value in setting.choices
    if setting.low is not None and setting.high is not None:
        for number in value if isinstance(value, tuple) else (value,):
            assert setting.low <= float(number) <= setting.high
    if setting.alarm is not None and isinstance(value, float):
        assert setting.alarm[0] < value < setting.alarm[1]


@pytest.mark.parametrize("setting", WRITABLE, ids=lambda setting: setting.name)
def test_what_is_set_is_read(column: ColumnDriver, setting: Setting) -> None:
    value = other_value(setting, column.get(setting.name))
    column.set(setting.name, value)
    assert column.get(setting.name) == pytest.approx(value)


@pytest.mark.parametrize("setting", WRITABLE, ids=lambda setting: setting.name)
def test_what_is_not_allowed_changes_nothing(column: ColumnDriver, setting: Setting) -> None:
    before = column.get(setting.name)
    wrong: list[Value] = ["NO SUCH CHOICE"]
    if setting.low is not None and setting.high is not None:
        for bad in (setting.low - 1, setting.high + 1, math.nan):
            if setting.kind != "int" or bad == bad:
                number: Value = int(bad) if setting.kind == "int" else bad
                wrong.append((0.0, bad) if setting.kind == "pair" else number)
    for value in wrong:
        with pytest.raises(LimitError, match=setting.name):
            column.set(setting.name, value)
    assert column.get(setting.name) == before


def test_readings_cannot_be_set(column: ColumnDriver) -> None:
    for setting in SETTINGS:
        if not setting.writable:
            with pytest.raises(LimitError, match=setting.name):
                column.set(setting.name, 1.0)


def test_unknown_names_are_refused(column: ColumnDriver) -> None:
    assert "focus" not in BY_NAME
    with pytest.raises(LimitError, match="focus"):
        column.get("focus")
    with pytest.raises(LimitError, match="focus"):
        column.set("focus", 1.0)


@pytest.mark.parametrize("group", LENS_GROUPS)
def test_normalises_every_lens_group(column: ColumnDriver, group: str) -> None:
    column.normalize(group)


def test_unknown_lens_group_is_refused(column: ColumnDriver) -> None:
    with pytest.raises(LimitError, match="LENSES"):
        column.normalize("LENSES")


def test_magnification_and_its_index_agree(column: ColumnDriver) -> None:
    column.set("magnification_index", 3)
    magnification = column.get("magnification")
    column.set("magnification_index", 4)
    assert column.get("magnification") != magnification
    column.set("magnification", magnification)
    assert column.get("magnification_index") == 3


def test_no_current_with_the_valves_closed(column: ColumnDriver) -> None:
    column.set("column_valves_open", False)
    assert column.get("beam_current_na") == 0.0
    assert column.get("screen_current_na") == 0.0
