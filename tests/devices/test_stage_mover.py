"""The careful move: one-sided approach, tolerance and retries, settling by the read-back, Stop."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import Aborted, InstrumentFault, LimitError
from devices.stage.mover import StageMover
from devices.stage.moves import MoveRequest, MoveResult, SettleMode
from devices.stage.settling import SAMPLE_S, ReadbackSpeed, settle_floor_nm_s
from devices.stage.travel import Travel
from sim.config import SimulationConfig
from sim.faults import make_fault
from sim.stage import SimulatedStage
from sim.world import World

MakeMover = Callable[..., tuple[StageMover, World]]


@pytest.fixture
def make_mover(tmp_path: Path) -> Iterator[MakeMover]:
    """Return a function that makes a mover of a simulated stage, fast unless told otherwise."""
    worlds: list[World] = []

    def make(timing: str = "fast", **stage: Any) -> tuple[StageMover, World]:
        config = {"timing": timing, "stage": stage, "specimen": {"texture_px": 512}}
        worlds.append(World.create(tmp_path / "world", SimulationConfig.model_validate(config)))
        return StageMover(SimulatedStage(worlds[0].path), 30.0), worlds[0]

    yield make
    for world in worlds:
        world.close()


def moves(world: World) -> int:
    """Return how many moves the stage has made."""
    return world.motion().moves


def go(mover: StageMover, x_um: float, y_um: float = 0.0, **options: Any) -> MoveResult:
    """Move as the server does."""
    request = MoveRequest(x_um, y_um, **options)
    mover.check(request)
    mover.begin()
    return mover.move(request)


def test_request_travels_as_numbers() -> None:
    request = MoveRequest(1.0, -2.0, 0.1, 0.5, 2, 5.0, -5.0, SettleMode.READBACK, 20.0, 3.0)
    assert MoveRequest.unpack([float(number) for number in request]) == request
    assert MoveRequest.unpack([1.0, -2.0]) == MoveRequest(1.0, -2.0)
    result = MoveResult(1.0, 2.0, 3.0, 4.0, 5.0, 0.1, 0.2, 3, math.inf)
    assert MoveResult.unpack([float(number) for number in result]) == result


@pytest.mark.parametrize(
    ("numbers", "word"),
    [
        ([1.0], "2 to 10"),
        ([0.0] * 11, "2 to 10"),
        ([0, 0, -1.0], "settle_s"),
        ([0, 0, 0, math.nan], "tolerance_um"),
        ([0, 0, 0, 0, 21], "retries"),
        ([0, 0, 0, 0, 3, 101.0], "approach_x_um"),
        ([0, 0, 0, 0, 3, 0, 0, 2], "settle_mode"),
        ([0, 0, 0, 0, 3, 0, 0, 1, -5.0], "settle_limit_nm_s"),
    ],
)
def test_impossible_requests_are_refused(numbers: list[float], word: str) -> None:
    with pytest.raises(LimitError, match=word):
        MoveRequest.unpack(numbers)


def test_approach_overshoots_only_when_it_must(make_mover: MakeMover) -> None:
    mover, world = make_mover()
    made = []
    for x_um in (0.0, 7.0, 14.0, 10.0, 17.0):
        before = moves(world)
        go(mover, x_um, approach_x_um=5.0)
        made.append(moves(world) - before)
    # first: direction unknown; then on in the same direction; back: overshoot; on again
    assert made == [2, 1, 1, 2, 1]


def test_after_a_restart_or_a_stop_the_direction_is_not_known(make_mover: MakeMover) -> None:
    mover, world = make_mover()
    go(mover, 10.0, approach_x_um=5.0)
    again = StageMover(SimulatedStage(world.path), 30.0)
    for fresh in (again, mover):
        if fresh is mover:
            mover.stop()
        before = moves(world)
        go(fresh, 20.0 if fresh is again else 20.1, approach_x_um=15.0)
        assert moves(world) - before == 2


def test_backlash_is_taken_up_on_one_side(make_mover: MakeMover) -> None:
    mover, world = make_mover(backlash_um=2.0, step_noise_um=0.0)
    plays = set()
    for x_um in (10.0, 3.0, 8.0, -4.0):
        go(mover, x_um, approach_x_um=5.0)
        plays.add(world.motion().play(math.inf)[0])
    assert plays == {-1.0}
    go(mover, 3.0)
    go(mover, -4.0)
    assert world.motion().play(math.inf)[0] == 1.0


lengths = st.floats(-900, 900).filter(lambda length: abs(length) > 1e-3)


@given(targets=st.lists(lengths, min_size=1, max_size=8), approach=st.floats(0.5, 50), up=st.booleans())
def test_the_last_way_always_goes_in_the_approach_direction(
    targets: list[float], approach: float, up: bool
) -> None:
    signed = approach if up else -approach
    travel, here, way = Travel(), 0.0, 0.0

    def walk(to: float) -> None:
        nonlocal here, way
        travel.note({"x_um": to}, {"x_um": here})
        step = to - here
        way = way + step if way * step > 0 else step or way
        here = to

    for target in targets:
        first = travel.overshoot({"x_um": here}, {"x_um": target}, {"x_um": signed})
        for point in (*first.values(), target):
            walk(point)
        assert way * math.copysign(1.0, signed) >= approach - 1e-9


def test_a_miss_is_corrected_and_counted(make_mover: MakeMover) -> None:
    mover, world = make_mover()
    world.faults.append(make_fault("stage_miss", count=2))
    result = go(mover, 10.0, 5.0, tolerance_um=0.5)
    assert result.tries == 3
    assert (result.x_um, result.y_um) == pytest.approx((10.0, 5.0), abs=0.5)


def test_a_miss_that_stays_names_target_error_and_tolerance(make_mover: MakeMover) -> None:
    mover, world = make_mover()
    world.faults.append(make_fault("stage_miss", count=100))
    with pytest.raises(InstrumentFault, match=r"missed its target x = 10\.000.*0\.5 um after 3 moves"):
        go(mover, 10.0, 5.0, tolerance_um=0.5, retries=2)
    assert go(mover, 10.0, 5.0).tries == 1  # not checked


def test_limits_hold_for_the_point_that_is_approached_from(make_mover: MakeMover) -> None:
    mover, world = make_mover()
    go(mover, 988.0, approach_x_um=5.0)
    with pytest.raises(LimitError, match="approached"):
        go(mover, 988.0, approach_x_um=-5.0)
    assert world.motion().target[0] == 988.0


def test_a_limit_below_the_noise_of_the_read_back_is_refused(make_mover: MakeMover) -> None:
    mover, world = make_mover()
    floor = mover.settle_floor_nm_s
    assert 3.0 < floor < 10.0
    before = moves(world)
    with pytest.raises(LimitError, match=r"settle_limit_nm_s = 5 nm/s is below 5\.26"):
        go(mover, 1.0, settle_mode=SettleMode.READBACK, settle_limit_nm_s=5.0)
    assert moves(world) == before


def test_a_still_stage_passes_and_a_creeping_one_is_waited_for(make_mover: MakeMover) -> None:
    mover, world = make_mover()
    still = go(mover, 10.0, settle_mode=SettleMode.READBACK, settle_limit_nm_s=50.0)
    assert still.speed_nm_s <= 50.0
    world.faults.append(make_fault("slow_settle", count=1, severity=0.5))
    slow = go(mover, 20.0, settle_mode=SettleMode.READBACK, settle_limit_nm_s=50.0, settle_timeout_s=20.0)
    assert slow.speed_nm_s <= 50.0
    motion = world.motion()
    assert motion.slow == 0.5
    # of 12 times 40 nm/s the encoders see half, and that is above twice the limit for 0.92 s
    assert slow.settle_time_s > 0.8


def test_settling_ends_at_its_timeout_and_says_how_fast_it_still_is(make_mover: MakeMover) -> None:
    mover, world = make_mover()
    world.faults.append(make_fault("slow_settle", count=1))
    result = go(mover, 20.0, settle_mode=SettleMode.READBACK, settle_timeout_s=0.2)
    assert 100.0 < result.speed_nm_s < 600.0


@pytest.mark.parametrize("options", [{"settle_s": 60.0}, {"settle_mode": 1, "settle_timeout_s": 60.0}])
def test_stop_works_while_settling(make_mover: MakeMover, options: dict[str, Any]) -> None:
    mover, world = make_mover()
    world.faults.append(make_fault("slow_settle", count=1))
    errors: list[BaseException] = []

    def move() -> None:
        with pytest.raises(Aborted) as caught:
            go(mover, 20.0, **options)
        errors.append(caught.value)

    thread = threading.Thread(target=move)
    thread.start()
    while moves(world) == 0:
        pass
    mover.stop()
    thread.join(10.0)
    assert len(errors) == 1


def test_stop_between_two_ways_ends_the_move(make_mover: MakeMover) -> None:
    mover, world = make_mover("real")
    errors: list[BaseException] = []

    def move() -> None:
        with pytest.raises(Aborted) as caught:
            go(mover, 400.0, approach_x_um=50.0)
        errors.append(caught.value)

    thread = threading.Thread(target=move)
    thread.start()
    while moves(world) == 0:
        pass
    mover.stop()
    thread.join(10.0)
    assert len(errors) == 1
    assert moves(world) == 1
    assert world.motion().stopped


@pytest.mark.parametrize(("speed_nm_s", "least", "most"), [(0.0, 0.96, 1.0), (100.0, 0.0, 0.02)])
def test_the_limit_tells_still_from_moving(speed_nm_s: float, least: float, most: float) -> None:
    passed = 0
    for seed in range(200):
        noise = random.Random(seed)
        meter = ReadbackSpeed(4.0, 50.0)
        measured = None
        for i in range(80):
            x_um = speed_nm_s * 1e-3 * i * SAMPLE_S + noise.gauss(0.0, 0.004)
            measured = meter.add(i * SAMPLE_S, x_um, noise.gauss(0.0, 0.004))
        assert measured is not None
        passed += measured <= 50.0
    assert least <= passed / 200 <= most


def test_the_floor_follows_the_noise() -> None:
    assert settle_floor_nm_s(0.0) == 0.0
    assert settle_floor_nm_s(8.0) == 2 * settle_floor_nm_s(4.0)
