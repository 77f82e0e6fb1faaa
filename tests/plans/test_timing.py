from __future__ import annotations

from dataclasses import astuple
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans.specs.grid import make_grid
from plans.specs.montage import MontageSpec
from plans.specs.view import View
from plans.timing import Duration, Timing, estimate_time

VIEW = View.from_nominal(2048, 2048, 4.0, 0.0)  # steps of 7.37 um


def estimate(timing: Timing | None = None, **options: Any) -> Duration:
    spec = MontageSpec(**{"rows": 10, "columns": 10, **options})
    return estimate_time(spec, make_grid(spec, VIEW, (0.0, 0.0)), timing or Timing())


def test_a_step_of_a_fast_stage() -> None:
    timing = Timing()
    assert timing.move_s(7.4) == pytest.approx(0.05 + 2 * (7.4 / 2000) ** 0.5)
    assert timing.move_s(0.0) == 0.0
    assert timing.move_s(80.0) == pytest.approx(0.05 + 0.4)  # where the highest speed is just reached
    assert timing.move_s(480.0) == pytest.approx(0.05 + 0.4 + 1.0)


def test_moves_hide_the_readout_but_for_the_last() -> None:
    made = estimate()
    step_s = Timing().move_s(0.9 * 8.192)
    assert made.move_s == pytest.approx(99 * step_s)
    assert made.readout_s == pytest.approx(0.15)
    assert (made.expose_s, made.settle_s) == pytest.approx((10.0, 5.0))
    assert made.total_s == pytest.approx(sum(astuple(made)))


def test_image_shift_is_limited_by_the_readout() -> None:
    alone, supertiles = estimate(), estimate(supertile=(2, 2))
    assert supertiles.move_s < 0.5 * alone.move_s
    assert supertiles.readout_s == pytest.approx(0.15 + 75 * (0.15 - 0.01 - 0.05))
    assert supertiles.total_s < alone.total_s


def test_an_approach_and_a_measured_settling_cost_time() -> None:
    assert estimate(approach_um=(3.0, 4.0)).move_s > estimate().move_s + 99 * Timing().move_s(5.0)
    assert estimate(settle_mode="drift").settle_s == pytest.approx(100 * (0.05 + 2 * 0.2))


@pytest.mark.parametrize(
    ("focus", "times"),
    [
        ({"per": "once"}, 1),
        ({"per": "block"}, 10),
        ({"every_tiles": 25}, 4),
        ({"map": "plane"}, 5),
        ({"map": "plane", "map_points_um": [(0, 0), (9, 0), (0, 9)]}, 3),
    ],
)
def test_focus_as_often_as_its_schedule_says(focus: dict[str, Any], times: int) -> None:
    once_s = 6 * (0.1 + 0.15)
    assert estimate(focus={"method": "beam_tilt", **focus}).focus_s == pytest.approx(times * once_s)


@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    readout=st.floats(0, 2),
    settle=st.floats(0, 1),
    order=st.sampled_from(("row_wise", "spiral")),
)
def test_a_montage_takes_at_least_its_exposures_and_at_most_everything_in_turn(
    rows: int, columns: int, readout: float, settle: float, order: str
) -> None:
    timing = Timing(readout_s=readout)
    made = estimate(timing, rows=rows, columns=columns, settle_s=settle, order=order)
    tiles = rows * columns
    fixed = made.expose_s + made.settle_s + made.move_s + made.software_s
    assert fixed + readout - 1e-9 <= made.total_s <= fixed + tiles * readout + 1e-9
