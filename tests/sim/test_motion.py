from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.config import SimulationConfig, StageConfig
from sim.motion import (
    RING_SEEN,
    SLOW_SEEN,
    Axes,
    Motion,
    move_duration_s,
    next_motion,
    readback,
    stopped_motion,
    stuck_motion,
    true_position,
)

IDEAL = StageConfig(
    step_noise_um=0,
    readback_noise_um=0,
    backlash_um=0,
    cyclic_amplitude_um=0,
    skew_deg=0,
    drift_nm_s=0,
    ring_um=0,
)
lengths = st.floats(-900, 900)


def go(config: StageConfig, last: Motion, x_um: float, y_um: float = 0.0, at_s: float = 0.0) -> Motion:
    return next_motion(config, last, (x_um, y_um, 0, 0, 0), seed=1, now_s=at_s, delay_factor=1.0)


@given(x_um=lengths, y_um=lengths, part=st.floats(0, 1))
def test_a_move_stays_on_its_way(x_um: float, y_um: float, part: float) -> None:
    motion = go(IDEAL, Motion(), x_um, y_um, at_s=10.0)
    x, y, *_ = motion.encoder(10.0 + part * motion.duration_s)
    assert min(0, x_um) - 1e-9 <= x <= max(0, x_um) + 1e-9
    assert x * y_um == pytest.approx(y * x_um, abs=1e-6)
    assert motion.encoder(10.0)[:2] == (0.0, 0.0) or motion.duration_s == 0.0
    assert motion.encoder(motion.ends_s)[:2] == (x_um, y_um)


@given(values=st.lists(lengths, min_size=15, max_size=15), moves=st.integers(0, 2**40), stopped=st.booleans())
def test_packing_keeps_everything(values: list[float], moves: int, stopped: bool) -> None:
    target, origin, goal = (tuple(values[i : i + 5]) for i in (0, 5, 10))
    motion = Motion(
        moves,
        3,
        4,
        5,
        6,
        12.5,
        math.inf,
        target,  # type: ignore[arg-type]
        origin,  # type: ignore[arg-type]
        goal,  # type: ignore[arg-type]
        (0.1, 0.2),
        (0.3, 0.4),
        (-1.5, 2.5),
        0.5,
        50.0,
        stopped,
    )
    assert Motion.unpack(motion.pack()) == motion


@pytest.mark.parametrize(
    ("step_um", "low_s", "high_s"), [(7.4, 0.165, 0.178), (0.5, 0.06, 0.09), (300, 0.9, 1.1)]
)
def test_time_of_a_move_depends_on_its_length(step_um: float, low_s: float, high_s: float) -> None:
    origin: Axes = (0, 0, 0, 0, 0)
    assert low_s < move_duration_s(StageConfig(), origin, (step_um, 0, 0, 0, 0)) < high_s
    assert move_duration_s(StageConfig(), origin, (0, 0, 0, 20, 0)) > 2.0


def test_a_tile_takes_what_a_fast_microscope_takes() -> None:
    config = SimulationConfig()
    tile_um = 0.9 * config.camera.width_px * 4e-3
    move_s = move_duration_s(config.stage, (0, 0, 0, 0, 0), (tile_um, 0, 0, 0, 0))
    assert max(move_s + 0.05, config.readout_time_s) + 0.1 == pytest.approx(0.32, abs=0.01)


def test_the_miss_has_its_spread_and_follows_from_the_seed() -> None:
    config = IDEAL.model_copy(update={"step_noise_um": 0.05})
    motion, misses = Motion(), []
    for step in range(400):
        motion = go(config, motion, float(step % 2), at_s=10.0 * step)
        misses.append(motion.goal[0] - motion.target[0])
    assert statistics.stdev(misses) == pytest.approx(0.05, rel=0.15)
    assert statistics.mean(misses) == pytest.approx(0.0, abs=0.01)
    assert go(config, motion, 5.0).goal == go(config, motion, 5.0).goal
    other = next_motion(config, motion, (5.0, 0, 0, 0, 0), seed=2, now_s=0.0, delay_factor=1.0)
    assert other.goal != go(config, motion, 5.0).goal


def test_an_axis_that_is_not_asked_to_move_does_not() -> None:
    first = go(StageConfig(), Motion(), 5.0, 3.0)
    second = go(StageConfig(), first, 9.0, 3.0, at_s=100.0)
    assert second.goal[1] == first.goal[1]


def test_backlash_depends_on_the_direction_of_approach() -> None:
    config = IDEAL.model_copy(update={"backlash_um": 0.2})
    from_left = go(config, go(config, Motion(), -5.0), 0.0, at_s=50.0)
    from_right = go(config, go(config, Motion(), 5.0), 0.0, at_s=50.0)
    left = true_position(config, from_left, 100.0, settled=True).x_um
    right = true_position(config, from_right, 100.0, settled=True).x_um
    assert right - left == pytest.approx(0.2)


def test_skew_and_cyclic_error() -> None:
    config = IDEAL.model_copy(update={"skew_deg": 1.0})
    assert true_position(config, go(config, Motion(), 0, 100), 99, settled=True).x_um == pytest.approx(
        1.7455, abs=1e-3
    )
    config = IDEAL.model_copy(update={"cyclic_amplitude_um": 0.3, "cyclic_period_um": (40.0, 40.0)})
    assert true_position(config, go(config, Motion(), 10), 99, settled=True).x_um == pytest.approx(10.3)
    assert true_position(config, go(config, Motion(), 20), 99, settled=True).x_um == pytest.approx(20.0)


def test_creep_and_ringing_decay_after_the_arrival() -> None:
    config = StageConfig(step_noise_um=0, drift_nm_s=100)
    motion = go(config, Motion(), 7.4)

    def error_um(after_s: float) -> float:
        now_s = motion.ends_s + after_s
        settled = true_position(config, motion, now_s, settled=True).x_um
        return abs(true_position(config, motion, now_s, settled=False).x_um - settled)

    assert max(error_um(0.001 * i) for i in range(20)) > 0.05
    assert error_um(0.5) < max(error_um(0.1 + 0.001 * i) for i in range(20))
    assert error_um(10.0) < 1e-4


def test_stopped_and_stuck_stages_stay() -> None:
    motion = go(StageConfig(), Motion(), 100.0)
    half_s = motion.duration_s / 2
    stopped = stopped_motion(motion, half_s)
    assert not stopped.moving(half_s + 1e-6)
    assert stopped.encoder(1e6) == motion.encoder(half_s)
    stuck = stuck_motion(stopped, (50, 0, 0, 0, 0), 5.0)
    assert stuck.moving(1e9)
    assert stuck.encoder(1e9) == stopped.encoder(1e6)
    assert stuck.stuck_moves == 1


def test_a_time_of_another_boot_finds_the_move_done() -> None:
    motion = replace(go(IDEAL, Motion(), 10.0), started_s=1e6)
    assert not motion.moving(5.0)
    assert motion.encoder(5.0) == motion.goal


def test_encoders_see_a_part_of_the_vibration_and_nothing_of_the_usual_creep() -> None:
    ringing = StageConfig(step_noise_um=0, drift_nm_s=0)
    motion = go(ringing, Motion(), 7.4)
    seen = [readback(ringing, motion, motion.ends_s + 0.001 * i, settled=False)[0] - 7.4 for i in range(60)]
    true = [true_position(ringing, motion, motion.ends_s + 0.001 * i, settled=False).x_um for i in range(60)]
    still = true_position(ringing, motion, 1e6, settled=False).x_um
    assert max(seen) > 0.02
    assert seen == pytest.approx([RING_SEEN * (x - still) for x in true], abs=1e-4)
    creeping = StageConfig(step_noise_um=0, ring_um=0)
    motion = go(creeping, Motion(), 7.4)
    assert readback(creeping, motion, motion.ends_s + 0.1, settled=False)[0] == 7.4
    assert true_position(creeping, motion, motion.ends_s + 0.1, settled=False).x_um < still - 0.01


def test_a_slow_stage_creeps_far_and_the_encoders_see_half_of_it() -> None:
    motion = next_motion(
        IDEAL.model_copy(update={"drift_nm_s": 40.0}), Motion(), (20, 0, 0, 0, 0),
        seed=1, now_s=0.0, delay_factor=1.0, slow=1.0,
    )  # fmt: skip
    config = IDEAL.model_copy(update={"drift_nm_s": 40.0})
    assert (motion.slow_moves, motion.missed_moves) == (1, 0)
    at_s = motion.ends_s + 0.5
    for settled in (False, True):
        step_um = (
            true_position(config, motion, at_s + 0.1, settled=settled).x_um
            - true_position(config, motion, at_s, settled=settled).x_um
        )
        assert step_um > 0.05  # 500 nm/s at least
        seen_um = (
            readback(config, motion, at_s + 0.1, settled=settled)[0]
            - readback(config, motion, at_s, settled=settled)[0]
        )
        assert seen_um == pytest.approx(SLOW_SEEN * step_um, rel=0.1)


def test_a_miss_lands_off_and_the_next_move_there_lands_well() -> None:
    config = StageConfig()
    missed = next_motion(
        config, Motion(), (20, 10, 0, 0, 0), seed=1, now_s=0.0, delay_factor=1.0, miss_um=3.0
    )
    assert math.hypot(missed.goal[0] - 20, missed.goal[1] - 10) == pytest.approx(3.0, abs=0.3)
    assert missed.missed_moves == 1
    again = go(config, missed, 20, 10, at_s=1e3)
    assert math.hypot(again.goal[0] - 20, again.goal[1] - 10) < 0.3
    # an axis that landed well stays when only the other is sent on
    along = go(config, again, 25, 10, at_s=2e3)
    assert along.goal[1] == again.goal[1]


def test_a_stage_that_was_stuck_moves_to_the_same_target() -> None:
    stuck = stuck_motion(Motion(), (20, 0, 0, 0, 0), 5.0)
    assert go(StageConfig(step_noise_um=0), stuck, 20, at_s=10.0).goal[0] == 20


def test_faster_time_makes_the_stage_settle_faster() -> None:
    config = StageConfig(step_noise_um=0, ring_um=0)
    motion = next_motion(config, Motion(), (9, 0, 0, 0, 0), seed=1, now_s=0.0, delay_factor=0.02)
    assert motion.rate == pytest.approx(50.0)
    still = true_position(config, motion, 1e6, settled=False).x_um
    early = true_position(config, motion, motion.ends_s + 0.6 / 50, settled=False).x_um
    # one decay time of 0.6 s has passed
    assert still - early == pytest.approx(0.024 * math.exp(-1.0), rel=0.01)
