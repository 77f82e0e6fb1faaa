from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from devices.camera.driver import CameraSettings
from sim.beam_log import BeamEvent, BeamLog, stray_intervals, stray_s
from sim.camera import SimulatedCamera
from sim.column import SimulatedColumn
from sim.world import World

Make = Callable[..., World]


def test_what_is_appended_is_read_in_the_order_of_time(tmp_path: Path) -> None:
    log = BeamLog(tmp_path / "world.beam")
    events = [
        BeamEvent(3.0, "shutter", False),
        BeamEvent(1.0, "column", True),
        BeamEvent(2.0, "exposure", True, 0.5),
    ]
    for event in events:
        log.append(event)
    with (tmp_path / "world.beam").open("ab") as file:
        file.write(b"half of")
    assert log.events() == sorted(events, key=lambda event: event.time_s)
    log.close()


def blanked_between(gap_s: float) -> list[BeamEvent]:
    """Return the events of two exposures of 1 s, the column unblanked ``gap_s`` around each."""
    events = [BeamEvent(0.0, "column", False)]
    for start_s in (10.0, 20.0):
        events += [
            BeamEvent(start_s - gap_s, "column", True),
            BeamEvent(start_s, "exposure", True, 1.0),
            BeamEvent(start_s + 1.0, "exposure", False),
            BeamEvent(start_s + 1.0 + gap_s, "column", False),
        ]
    return events


@pytest.mark.parametrize("gap_s", [0.0, 0.25])
def test_stray_electrons_are_those_outside_exposures(gap_s: float) -> None:
    events = blanked_between(gap_s)
    assert stray_s(events, 0.0, 30.0) == pytest.approx(4 * gap_s)
    assert stray_s(events, 0.0, 15.0) == pytest.approx(2 * gap_s)


def test_without_any_event_the_beam_is_on() -> None:
    assert stray_intervals([], 5.0, 7.0) == [(5.0, 7.0)]


def test_a_shutter_keeps_electrons_off_between_exposures() -> None:
    events = [
        BeamEvent(0.0, "shutter", False),
        BeamEvent(10.0, "exposure", True, 1.0),
        BeamEvent(10.0, "shutter", True, 1.0),
        BeamEvent(11.0, "shutter", False),
        BeamEvent(11.0, "exposure", False),
    ]
    assert stray_intervals(events, 0.0, 30.0) == []


def test_what_a_dead_driver_began_ends_by_itself() -> None:
    events = [BeamEvent(0.0, "shutter", False), BeamEvent(10.0, "exposure", True, 1.0)]
    events += [BeamEvent(10.0, "shutter", True, 3.0)]
    assert stray_intervals(events, 0.0, 30.0) == [(11.0, 13.0)]
    assert stray_intervals([BeamEvent(1.0, "exposure", True, math.inf)], 2.0, 30.0) == []


def test_the_column_logs_when_electrons_may_pass(make_world: Make) -> None:
    world = make_world()
    column, start_s = SimulatedColumn(world.path), time.time()
    for name, value in (
        ("beam_blanked", True),
        ("column_valves_open", False),
        ("column_valves_open", True),
        ("beam_blanked", False),
        ("beam_blanked", False),
        ("column_valves_open", False),
    ):
        column.set(name, value)
    assert [(event.source, event.on) for event in world.beam_log()] == [
        ("column", False),
        ("column", True),
        ("column", False),
    ]
    assert all(start_s <= event.time_s <= time.time() for event in world.beam_log())


@pytest.mark.parametrize("shutter_mode", ["PRE_SPECIMEN", "NONE"])
def test_a_camera_with_a_shutter_lets_electrons_pass_while_it_exposes(
    make_world: Make, shutter_mode: Literal["PRE_SPECIMEN", "NONE"]
) -> None:
    """Of the beam that is on all the time, the sample gets what exposures need, or all of it."""
    world = make_world(timing="real", readout_time_s=0.05)
    camera = SimulatedCamera(world.path)
    camera.configure(CameraSettings(exposure_time_s=0.02, shutter_mode=shutter_mode))
    camera.open()
    start_s = time.time()
    for _ in range(3):
        camera.expose()
        camera.read(5.0)
    end_s = time.time()
    stray, whole = stray_s(world.beam_log(), start_s, end_s), end_s - start_s
    if shutter_mode == "PRE_SPECIMEN":
        assert stray < 0.2 * whole
    else:
        assert 0.5 * whole < stray < whole - 0.05


def test_a_new_world_has_an_empty_log(make_world: Make) -> None:
    make_world().log_beam("shutter", True)
    assert make_world().beam_log() == []
