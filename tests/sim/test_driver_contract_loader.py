"""The driver contract of a loader, on the simulated one, as a cassette and as a tape."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devices.errors import Aborted, InstrumentFault, LimitError, OperationTimeout
from devices.loader.driver import Carrier, LoaderCounts, LoaderDriver, SlotState, loaded_slot
from sim.config import SampleConfig, SimulationConfig
from sim.faults import make_fault
from sim.loader import SimulatedLoader
from sim.motion import Motion
from sim.world import World

SAMPLES = tuple(SampleConfig(slot=slot, barcode=f"B{slot:02d}") for slot in (1, 2, 5))
Driver = Callable[..., LoaderDriver]


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """Return a world whose microscope is ready for a sample; parameters change its configuration."""
    changes = {"timing": "fast", "samples": SAMPLES, **getattr(request, "param", {})}
    with World.create(tmp_path / "world", SimulationConfig(**changes)) as made:
        ready(made)
        yield made


@pytest.fixture
def driver(world: World) -> Driver:
    """Return a function that makes a driver of the world's loader."""

    def make(**options: Any) -> LoaderDriver:
        made = SimulatedLoader(world.path, **{"slots": 6, **options})
        made.open()
        return made

    return make


def ready(world: World, **changes: Any) -> None:
    """Blank the beam and close the valves, with changes of the lenses."""
    state = replace(world.lenses(), **{"beam_blanked": True, "column_valves_open": False, **changes})
    world.column.write(state.pack())


def states(loader: LoaderDriver) -> str:
    """Return the first letters of the slots' states."""
    return "".join(slot.state[:2] + " " for slot in loader.slots()).strip()


@pytest.mark.parametrize("carrier", ["CASSETTE", "TAPE"])
def test_a_sample_there_another_and_back(driver: Driver, world: World, carrier: str) -> None:
    loader = driver(carrier=carrier)
    assert loader.carrier == Carrier(carrier)
    assert states(loader) == "OC OC EM EM OC EM"
    assert [slot.barcode for slot in loader.slots()] == ["B01", "B02", "", "", "B05", ""]
    loader.start_load(2)
    assert loader.wait(5) == 2
    assert states(loader) == "OC LO EM EM OC EM"
    assert world.placement().slot == 2
    loader.start_load(5)
    assert loader.wait(5) == 5
    assert states(loader) == "OC OC EM EM LO EM"
    loader.start_unload()
    assert loader.wait(5) == 0
    assert world.placement().slot == 0
    assert loader.counts() == LoaderCounts(loads=2, unloads=2, faults=0)


def test_counts_and_slots_are_the_hardwares(driver: Driver) -> None:
    loader = driver()
    loader.start_load(1)
    loader.wait(5)
    loader.close()
    again = driver()
    assert states(again) == "LO OC EM EM OC EM"
    assert again.counts() == LoaderCounts(loads=1)


@pytest.mark.parametrize(
    ("slot", "error", "words"),
    [
        (0, LimitError, "slot = 0 is outside 1 to 6"),
        (7, LimitError, "slot = 7 is outside 1 to 6"),
        (3, InstrumentFault, "slot 3 is EMPTY"),
    ],
)
def test_what_cannot_be_loaded_is_refused(
    driver: Driver, slot: int, error: type[Exception], words: str
) -> None:
    loader = driver()
    with pytest.raises(error, match=words):
        loader.start_load(slot)
    assert states(loader) == "OC OC EM EM OC EM"


def test_what_is_loaded_cannot_be_loaded_nor_nothing_unloaded(driver: Driver) -> None:
    loader = driver()
    with pytest.raises(InstrumentFault, match="no sample"):
        loader.start_unload()
    loader.start_load(1)
    loader.wait(5)
    with pytest.raises(InstrumentFault, match="slot 1 is LOADED"):
        loader.start_load(1)


@pytest.mark.parametrize(
    ("lenses", "stage", "words"),
    [
        ({"beam_blanked": False}, {}, "beam_blanked = false, must be true"),
        ({"column_valves_open": True}, {}, "column_valves_open = true, must be false"),
        ({}, {"goal": (30.0, 0.0, 0.0, 0.0, 0.0)}, "x_um = 30 um, must be 0"),
        ({}, {"goal": (0.0, 0.0, 0.0, 12.0, 0.0)}, "alpha_deg = 12 deg, must be 0"),
        ({}, {"duration_s": 1e9, "started_s": 1.0}, "stage_state = MOVING, must be READY"),
    ],
)
def test_interlocks_refuse_by_name(
    driver: Driver, world: World, lenses: dict[str, Any], stage: dict[str, Any], words: str
) -> None:
    loader = driver()
    assert loader.interlocks() == ()
    ready(world, **lenses)
    world.stage.write(replace(Motion(), **stage).pack())
    assert any(words in text for text in loader.interlocks())
    with pytest.raises(InstrumentFault, match=words):
        loader.start_load(1)
    assert loaded_slot(loader.slots()) == 0
    assert loader.counts() == LoaderCounts()


SLOW = {"timing": "real", "time_scale": 1.0}


@pytest.mark.parametrize("world", [SLOW], indirect=True)
def test_a_load_goes_on_without_a_driver(driver: Driver, world: World) -> None:
    first = driver(load_time_s=0.4)
    first.start_load(2)
    assert states(first) == "OC LO EM EM OC EM"
    assert first.slots()[1].state is SlotState.LOADING
    assert world.placement().slot == 0
    with pytest.raises(InstrumentFault, match="slot 2 is LOADING"):
        first.start_load(1)
    second = driver()  # as after the server was killed: the hardware's state is read back
    assert second.slots()[1].state is SlotState.LOADING
    assert second.wait(5) == 2
    assert second.slots()[1].state is SlotState.LOADED
    assert world.placement().slot == 2


@pytest.mark.parametrize("world", [SLOW], indirect=True)
def test_unload_comes_before_the_next_load(driver: Driver) -> None:
    loader = driver(load_time_s=0.0, unload_time_s=60.0)
    loader.start_load(1)
    loader.wait(5)
    loader.start_load(2)
    assert loader.slots()[0].state is SlotState.UNLOADING
    assert loader.slots()[1].state is SlotState.LOADING


@pytest.mark.parametrize("world", [SLOW], indirect=True)
def test_timeout_and_stop_leave_error_until_recovered(driver: Driver) -> None:
    loader = driver(load_time_s=60.0, unload_time_s=0.0)
    loader.start_load(2)
    with pytest.raises(OperationTimeout, match=r"slot 2 .* 0\.01 s"):
        loader.wait(0.01)
    ended: list[BaseException] = []

    def waiting() -> None:
        try:
            loader.wait(30)
        except Aborted as error:
            ended.append(error)

    waiter = threading.Thread(target=waiting)
    waiter.start()
    loader.stop()
    waiter.join(10)
    assert ended
    assert loader.slots()[1].state is SlotState.ERROR
    with pytest.raises(InstrumentFault, match="slot 2 is in ERROR; Recover"):
        loader.start_load(1)
    loader.recover()
    assert states(loader) == "OC OC EM EM OC EM"
    assert loader.counts() == LoaderCounts(faults=1)


def test_a_jam_is_told_and_can_be_recovered_from(driver: Driver, world: World) -> None:
    world.faults.append(make_fault("loader_jam", count=2))
    loader = driver()
    for failure in (1, 2):
        loader.start_load(5)
        with pytest.raises(InstrumentFault, match="slot 5 jammed; Recover"):
            loader.wait(5)
        assert loader.slots()[4].state is SlotState.ERROR
        assert loader.counts().faults == failure
        ready(world, beam_blanked=False)
        with pytest.raises(InstrumentFault, match="recover slot 5"):
            loader.recover()
        ready(world)
        loader.recover()
    loader.start_load(5)
    assert loader.wait(5) == 5
    assert world.placement().slot == 5


def test_the_sample_that_jams_after_another_left(driver: Driver, world: World) -> None:
    loader = driver()
    loader.start_load(1)
    loader.wait(5)
    world.faults.append(make_fault("loader_jam"))
    loader.start_load(2)
    with pytest.raises(InstrumentFault, match="slot 2 jammed"):
        loader.wait(5)
    assert states(loader) == "OC ER EM EM OC EM"
    assert loader.counts() == LoaderCounts(loads=1, unloads=1, faults=1)


@pytest.mark.parametrize("world", [{"loaded_slot": 5}], indirect=True)
def test_a_sample_may_be_there_from_the_start(driver: Driver) -> None:
    loader = driver()
    assert loaded_slot(loader.slots()) == 5
    loader.inventory()
    assert loaded_slot(loader.slots()) == 5


def test_a_tape_of_thousands_of_apertures(driver: Driver) -> None:
    loader = driver(carrier="TAPE", slots=4000)
    loader.start_load(5)
    assert loader.wait(5) == 5
    assert len(loader.slots()) == 4000
