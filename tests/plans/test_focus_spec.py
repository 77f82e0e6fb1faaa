"""The specification of focusing, and when it is due."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from plans.specs.focus import FocusSchedule, FocusSpec


class Place(NamedTuple):
    """A tile, as the schedule sees it."""

    x_um: float
    y_um: float = 0.0
    roi: int = 0


def run(spec: FocusSpec, tiles: list[Place], line: int = 4) -> list[int]:
    """Return before which tiles focus is measured; every ``line``-th begins a block."""
    schedule, measured = FocusSchedule(spec), []
    for i, tile in enumerate(tiles):
        if schedule.due(tile, block_begins=i % line == 0):
            measured.append(i)
            schedule.done(tile)
        schedule.acquired()
    return measured


TILES = [Place(7.0 * (i % 4), 7.0 * (i // 4), i // 8) for i in range(16)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [0]),
        ({"per": "once"}, [0]),
        ({"every_tiles": 5}, [0, 5, 10, 15]),
        ({"per": "block"}, [0, 4, 8, 12]),
        ({"per": "roi"}, [0, 8]),
        ({"per": "roi", "every_tiles": 5}, [0, 5, 8, 13]),
        ({"every_um": 15}, [0, 3, 4, 7, 8, 11, 12, 15]),
        ({"map": "plane"}, []),
    ],
)
def test_when_focus_is_due(fields: dict[str, Any], expected: list[int]) -> None:
    assert run(FocusSpec(**fields), TILES) == expected


@given(every=st.integers(1, 20), count=st.integers(1, 60))
def test_never_more_tiles_than_asked_for_without_focus(every: int, count: int) -> None:
    tiles = [Place(float(i)) for i in range(count)]
    measured = [*run(FocusSpec(every_tiles=every), tiles, line=1000), count]
    assert all(b - a <= every for a, b in pairwise(measured))
    assert measured[0] == 0


@given(every_um=st.floats(1, 100), steps=st.lists(st.floats(-30, 30), min_size=1, max_size=40))
def test_no_tile_is_farther_than_asked_for(every_um: float, steps: list[float]) -> None:
    tiles, x = [], 0.0
    for step in steps:
        x += step
        tiles.append(Place(x))
    measured = run(FocusSpec(every_um=every_um), tiles, line=1000)
    for i, tile in enumerate(tiles):
        last = max(at for at in measured if at <= i)
        assert abs(tile.x_um - tiles[last].x_um) < every_um or last == i


def test_a_focus_fault_is_a_reason_unless_switched_off() -> None:
    for wanted in (True, False):
        schedule = FocusSchedule(FocusSpec(after_focus_fault=wanted))
        schedule.done(TILES[0])
        assert bool(schedule.due(TILES[1], focus_fault=True)) is wanted
        assert schedule.due(TILES[1]) == ""


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "guess"}, "method"),
        ({"exposure_time_s": 0}, "exposure_time_s"),
        ({"accuracy_um": -1}, "accuracy_um"),
        ({"beam_tilt_mrad": 80}, "beam_tilt_mrad"),
        ({"target_defocus_um": float("nan")}, "target_defocus_um"),
        ({"map_points_um": ((0, 0), (1, 1), (0, 1))}, "map_points_um without map"),
        ({"map": "plane", "map_points_um": ((0, 0), (0, 0), (1, 1))}, "2 different points.*at least 3"),
        ({"map": "paraboloid", "map_points_um": ((0, 0), (1, 0), (0, 1))}, "at least 6"),
        ({"every_tile": 3}, "every_tile"),
    ],
)
def test_wrong_input_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        FocusSpec(**fields)


def test_json_both_ways() -> None:
    spec = FocusSpec(map="plane", map_points_um=((0, 0), (50, 0), (0, 50)), per="roi", offset_um=(20, 0))
    assert FocusSpec.model_validate_json(spec.model_dump_json()) == spec
