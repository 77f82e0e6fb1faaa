"""What every stage driver must do: add yours to `STAGES`.

An entry is a function that takes a fixture request and returns an open driver whose stage is at rest at the
origin, a few um inside its limits.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from devices.errors import Aborted, LimitError, OperationTimeout
from devices.stage.driver import AXES, StageDriver, StagePosition, StageState
from sim.stage import SimulatedStage

TOLERANCE_UM = 1.0
Maker = Callable[[pytest.FixtureRequest], StageDriver]


def simulated(request: pytest.FixtureRequest) -> StageDriver:
    """Return the simulated stage, moving in real time."""
    world = request.getfixturevalue("make_world")(timing="real")
    return SimulatedStage(world.path, limits={"x_um": [-500, 500]})


STAGES = [pytest.param(simulated, id="simulated")]


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest) -> Iterator[StageDriver]:
    make: Maker = request.param
    driver = make(request)
    driver.open()
    yield driver
    driver.stop()
    driver.close()


def near(position: StagePosition, x_um: float, y_um: float) -> bool:
    return math.hypot(position.x_um - x_um, position.y_um - y_um) < TOLERANCE_UM


def test_reaches_the_target(stage: StageDriver) -> None:
    stage.start_move({"x_um": 5.0, "y_um": -3.0})
    assert near(stage.wait_still(5.0), 5.0, -3.0)
    assert stage.state() is StageState.READY
    assert near(stage.position(), 5.0, -3.0)


def test_axes_left_out_stay(stage: StageDriver) -> None:
    stage.start_move({"x_um": 5.0, "y_um": -3.0, "z_um": 2.0})
    stage.wait_still(5.0)
    stage.start_move({"x_um": 0.0})
    position = stage.wait_still(5.0)
    assert near(position, 0.0, -3.0)
    assert position.z_um == pytest.approx(2.0, abs=0.1)


def test_start_returns_before_the_arrival(stage: StageDriver) -> None:
    stage.start_move({"x_um": 60.0})
    assert stage.state() is StageState.MOVING
    assert not near(stage.position(), 60.0, 0.0)
    stage.wait_still(5.0)


@pytest.mark.parametrize("axis", AXES)
def test_beyond_a_limit_nothing_moves(stage: StageDriver, axis: str) -> None:
    low, high = getattr(stage.limits, axis)
    for value in (low - 1e-3, high + 1e-3, math.nan, math.inf):
        with pytest.raises(LimitError, match=axis):
            stage.start_move({"y_um": 1.0, "x_um": 1.0, axis: value})
    assert stage.state() is StageState.READY
    assert near(stage.position(), 0.0, 0.0)


def test_unknown_axis_is_refused(stage: StageDriver) -> None:
    with pytest.raises(LimitError, match="gamma"):
        stage.start_move({"gamma_deg": 1.0})


def test_stop_ends_the_move_at_once(stage: StageDriver) -> None:
    stage.start_move({"x_um": 400.0})
    errors: list[Exception] = []

    def wait() -> None:
        try:
            stage.wait_still(20.0)
        except Aborted as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    stage.stop()
    started = time.monotonic()
    waiting.join(5.0)
    assert time.monotonic() - started < 0.5
    assert len(errors) == 1
    assert stage.state() is StageState.READY
    where = stage.position()
    assert not near(where, 400.0, 0.0)
    assert near(stage.position(), where.x_um, where.y_um)


def test_moves_again_after_a_stop(stage: StageDriver) -> None:
    stage.start_move({"x_um": 400.0})
    stage.stop()
    stage.start_move({"x_um": 2.0, "y_um": 2.0})
    assert near(stage.wait_still(10.0), 2.0, 2.0)


def test_waiting_too_short_times_out(stage: StageDriver) -> None:
    stage.start_move({"x_um": 400.0})
    with pytest.raises(OperationTimeout, match="400"):
        stage.wait_still(0.01)


def test_opened_again_it_is_where_it_was(stage: StageDriver) -> None:
    stage.start_move({"x_um": 3.0, "y_um": 4.0})
    stage.wait_still(5.0)
    stage.close()
    stage.open()
    assert near(stage.position(), 3.0, 4.0)


def test_a_move_to_where_it_was_sent_already_stays_there(stage: StageDriver) -> None:
    for _ in range(3):
        stage.start_move({"x_um": 6.0, "y_um": -2.0})
        assert near(stage.wait_still(5.0), 6.0, -2.0)


def test_noise_of_the_read_back_is_what_the_driver_says(stage: StageDriver) -> None:
    stage.start_move({"x_um": 6.0})
    stage.wait_still(5.0)
    time.sleep(0.3)  # vibration and creep are over: only noise is left
    readings = [stage.position().x_um * 1e3 for _ in range(300)]
    noise_nm = statistics.stdev(readings)
    assert noise_nm <= 1.5 * stage.readback_noise_nm
    assert stage.readback_noise_nm < 1e3 * TOLERANCE_UM
