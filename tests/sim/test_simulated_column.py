from __future__ import annotations

from collections.abc import Callable

import pytest

from devices.errors import ConfigurationError, InstrumentFault, LimitError
from sim.column import SimulatedColumn
from sim.faults import Fault, inject
from sim.world import World


@pytest.fixture
def column(make_world: Callable[..., World]) -> SimulatedColumn:
    return SimulatedColumn(make_world().path)


def test_calibrations_follow_the_magnification(column: SimulatedColumn) -> None:
    assert (column.get("pixel_size_nm"), column.get("image_rotation_deg")) == (4.0, 1.5)
    column.set("magnification", 10_000.0)
    assert column.get("pixel_size_nm") == 2.0


@pytest.mark.parametrize("magnification", [80_000.0, 5001.0])
def test_without_a_calibration_the_magnification_is_named(
    column: SimulatedColumn, magnification: float
) -> None:
    column.set("magnification", magnification)
    for name in ("pixel_size_nm", "image_rotation_deg"):
        with pytest.raises(ConfigurationError, match=f"{magnification:g}"):
            column.get(name)


def test_in_diffraction_there_is_no_pixel_size(column: SimulatedColumn) -> None:
    column.set("projection_mode", "DIFFRACTION")
    assert column.get("projection_submode") in ("LAD", "D")
    with pytest.raises(ConfigurationError, match="DIFFRACTION"):
        column.get("pixel_size_nm")


def test_an_index_over_the_table_is_refused(column: SimulatedColumn) -> None:
    with pytest.raises(LimitError, match="16 steps"):
        column.set("magnification_index", 17)


def test_intensity_and_area_are_one_lens(column: SimulatedColumn) -> None:
    column.set("intensity", 0.5)
    assert column.get("illuminated_area_um") == pytest.approx(5.0)
    column.set("illuminated_area_um", 500.0)
    assert column.get("intensity") == pytest.approx(1.0)


def test_the_beam_follows_the_magnification(column: SimulatedColumn) -> None:
    before = column.get("illuminated_area_um")
    column.set("magnification", 2500.0)
    assert column.get("illuminated_area_um") == pytest.approx(2 * before)  # type: ignore[operator]


def test_focus_in_micrometres_and_over_the_range(column: SimulatedColumn) -> None:
    column.set("absolute_focus", -0.002)
    assert column.get("defocus_um") == pytest.approx(-2.0)


def test_the_screen_sees_the_beam(column: SimulatedColumn) -> None:
    assert column.get("screen_current_na") == 0.0
    column.set("screen_position", "DOWN")
    assert column.get("screen_current_na") > 10.0  # type: ignore[operator]
    column.set("beam_blanked", True)
    assert column.get("screen_current_na") == 0.0


def test_valves_stay_closed_without_high_voltage(column: SimulatedColumn) -> None:
    column.set("column_valves_open", False)
    column.set("high_voltage_kv", 0.0)
    with pytest.raises(InstrumentFault, match="high_voltage_kv"):
        column.set("column_valves_open", True)


def test_a_lost_beam_is_read_as_no_current(make_world: Callable[..., World]) -> None:
    world = make_world()
    column = SimulatedColumn(world.path)
    inject(world, Fault("beam_loss", at_exposure=1))
    assert column.get("beam_current_na") > 0.0  # type: ignore[operator]
    world.count_exposure(0)
    assert column.get("beam_current_na") == 0.0
    world.count_exposure(1)
    assert column.get("beam_current_na") > 0.0  # type: ignore[operator]


def test_a_new_driver_finds_the_settings(make_world: Callable[..., World]) -> None:
    world = make_world()
    SimulatedColumn(world.path).set("image_shift_um", (1.0, -2.0))
    assert SimulatedColumn(world.path).get("image_shift_um") == (1.0, -2.0)
