"""The record of what really was."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sim.camera import SimulatedCamera
from sim.column import SimulatedColumn
from sim.config import ColumnConfig
from sim.faults import FAULT_NAMES
from sim.truth import TrueExposure, dose_at
from sim.world import World

PLAIN = TrueExposure(3, 1.7e9, 1.0, 2.0, 3.0, -0.5, 0.01, 0.02, 4.0, 150.0, (), True)


def test_a_record_keeps_everything() -> None:
    whole = TrueExposure(
        2**40, 1.7e9, 1.0, 2.0, 3.0, -0.5, 0.01, 0.02, 4.0, 150.0, FAULT_NAMES, False, (0.1, -0.2), 5.0, 6.0,
        11.0, 12,
    )  # fmt: skip
    for exposure in (PLAIN, whole):
        assert len(exposure.pack()) == TrueExposure.SIZE
        assert TrueExposure.unpack(exposure.pack()) == exposure


def test_the_truth_has_the_beam_the_astigmatism_and_the_sample(make_world: Callable[..., World]) -> None:
    column = {"beam_offset_um": [2.0, -1.0], "beam_size_error": 0.1, "astigmatism_angle_deg": 0.0}
    world = make_world(column=column, samples=[{"slot": 7}], loaded_slot=7)
    camera = SimulatedCamera(world.path)
    camera.open()
    SimulatedColumn(world.path).set("objective_stigmator", (0.0, 0.05))
    camera.expose()
    truth = world.truth()[0]
    assert truth.slot == 7
    assert truth.astigmatism_um == pytest.approx((0.1, 0.5))
    assert (truth.beam_x_um - truth.x_um, truth.beam_y_um - truth.y_um) == pytest.approx((2.0, -1.0))
    assert truth.beam_radius_um == pytest.approx(12.1)


def test_dose_adds_up_where_the_beam_was(make_world: Callable[..., World]) -> None:
    world = make_world()
    column, camera = SimulatedColumn(world.path), SimulatedCamera(world.path)
    camera.open()
    for blanked in (False, True, False):
        column.set("beam_blanked", blanked)
        camera.expose()
        camera.read(5.0)
    one = world.truth()[0].dose_e_nm2
    config: ColumnConfig = world.config.column
    assert dose_at(world.truth(), config, 0.0, 0.0) == pytest.approx(2 * one, rel=1e-3)
    half_way = dose_at(world.truth(), config, 5.5, 0.0)
    assert half_way == pytest.approx(2 * one * (1 - 0.25 / 4), rel=0.01)
    assert dose_at(world.truth(), config, 15.0, 0.0) < 1e-3 * one
    assert dose_at(world.truth(), config, 0.0, 0.0, slot=1) == 0.0
