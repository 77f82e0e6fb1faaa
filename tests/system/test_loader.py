"""The loader's server and wrapper in a laboratory of its own, also when the server is killed in mid-load."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bluesky.plan_stubs as bps
import pytest
import tango
from bluesky.run_engine import RunEngine, call_in_bluesky_event_loop
from bluesky.utils import FailedStatus

from devices.errors import ConfigurationError, InstrumentFault, LimitError, MontangoError
from devices.loader.device import Loader
from devices.loader.driver import SlotState
from montango.lab import Lab, running_lab
from plans.preprocessors import cause_of, plain_errors
from plans.stubs.ask import read_now
from plans.stubs.load import load_sample, make_ready, recover_loader
from sim.faults import inject, make_fault
from sim.world import World

if TYPE_CHECKING:
    from profiles.simulated.devices import Devices
    from tests.conftest import ConfigFactory

pytestmark = [pytest.mark.system, pytest.mark.tango, pytest.mark.timeout(600)]

SAMPLES = [{"slot": slot, "barcode": f"B{slot:02d}"} for slot in (1, 2, 4)]
LOADER = {
    "device": "em/loader/1",
    "driver": "sim.loader:SimulatedLoader",
    "options": {"slots": 6, "load_time_s": 20.0, "unload_time_s": 10.0},
}


@pytest.fixture(scope="module")
def lab(
    make_config: ConfigFactory, tmp_path_factory: pytest.TempPathFactory, engine: RunEngine
) -> Iterator[Lab]:
    """Return a laboratory with a loader, at 50 x speed, that this process is connected to.

    After the engine: the shared laboratory, whose addresses this one's stand in for, comes up with it.
    """
    from tests.conftest import NO_CATALOG

    before = dict(os.environ)
    config = make_config(
        64,
        instruments={"loader": LOADER},
        simulation={"timing": "real", "time_scale": 50.0, "samples": SAMPLES},
        facility={"ioc": None},
        services={"tiled": {"uri": NO_CATALOG}},
    )
    with running_lab(config, tmp_path_factory.mktemp("lab")) as running:
        yield running
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def parts(lab: Lab, engine: RunEngine) -> Iterator[Devices]:
    """Return the devices of the laboratory."""
    from profiles.simulated.devices import make_devices

    devices = make_devices(lab.info())
    yield devices
    devices.disconnect()


@pytest.fixture
def loader(parts: Devices, engine: RunEngine) -> Loader:
    """Return the loader with nothing in the microscope."""
    assert parts.loader is not None
    engine(recover_loader(parts.loader, parts.column, parts.stage))
    engine(load_sample(parts.loader, parts.column, parts.stage, 0))
    return parts.loader


def ran(engine: RunEngine, plan: Any) -> Any:
    """Run a plan and return its result; its failure is the instrument's own error."""
    results: list[Any] = []

    def kept() -> Any:
        results.append((yield from plain_errors(plan)))

    try:
        engine(kept())
    except (FailedStatus, MontangoError) as failure:
        raise cause_of(failure) from None
    return results[0]


def test_a_sample_is_loaded_and_taken_out(
    engine: RunEngine, parts: Devices, loader: Loader, lab: Lab
) -> None:
    slot = ran(engine, load_sample(loader, parts.column, parts.stage, 2, barcode="B02"))
    assert (slot.state, slot.barcode) == (SlotState.LOADED, "B02")
    loaded, barcode, states = call_in_bluesky_event_loop(
        loader.read_now("loaded_slot", "loaded_barcode", "slot_states")
    )
    assert (loaded, barcode) == (2, "B02")
    assert list(states) == ["OCCUPIED", "LOADED", "EMPTY", "OCCUPIED", "EMPTY", "EMPTY"]
    assert ran(engine, read_now(parts.column, "column_valves_open", "beam_blanked")) == [True, True]
    with World.open(str(lab.info().world)) as world:
        assert world.placement().slot == 2
    ran(engine, load_sample(loader, parts.column, parts.stage, 4))  # the other one goes back by itself
    assert call_in_bluesky_event_loop(loader.locate())["readback"] == 4
    ran(engine, load_sample(loader, parts.column, parts.stage, 0))
    assert call_in_bluesky_event_loop(loader.locate())["readback"] == 0


def test_interlocks_are_named_and_nothing_moves(engine: RunEngine, parts: Devices, loader: Loader) -> None:
    def careless() -> Any:
        yield from make_ready(parts.column, parts.stage)
        yield from bps.mv(parts.column.column_valves_open, True, parts.stage, (40.0, 0.0))
        yield from bps.mv(loader, 1)

    with pytest.raises(InstrumentFault) as caught:
        ran(engine, careless())
    for words in ("column_valves_open = true", "x_um = 40", "nothing moved", "em/loader/1"):
        assert words in str(caught.value)
    assert call_in_bluesky_event_loop(loader.locate())["readback"] == 0
    assert len(call_in_bluesky_event_loop(loader.blocked_by())) == 2


def test_wrong_requests_are_refused(engine: RunEngine, parts: Devices, loader: Loader) -> None:
    with pytest.raises(LimitError, match="slot = 7 is outside 1 to 6"):
        ran(engine, load_sample(loader, parts.column, parts.stage, 7))
    with pytest.raises(InstrumentFault, match="slot 3 is EMPTY"):
        ran(engine, load_sample(loader, parts.column, parts.stage, 3))
    with pytest.raises(ConfigurationError, match="has barcode 'B01', not 'B99'"):
        ran(engine, load_sample(loader, parts.column, parts.stage, 1, barcode="B99"))
    with pytest.raises(LimitError, match="slot = -1"):
        ran(engine, bps.mv(loader, -1))


def test_a_jam_is_recovered_from(engine: RunEngine, parts: Devices, loader: Loader, lab: Lab) -> None:
    faults = call_in_bluesky_event_loop(loader.read_now("fault_count"))[0]
    with World.open(str(lab.info().world)) as world:
        inject(world, make_fault("loader_jam", at_exposure=world.exposures(), count=faults + 1))
    with pytest.raises(InstrumentFault, match="slot 1 jammed"):
        ran(engine, load_sample(loader, parts.column, parts.stage, 1))
    assert ran(engine, recover_loader(loader, parts.column, parts.stage))
    assert ran(engine, load_sample(loader, parts.column, parts.stage, 1)).state is SlotState.LOADED
    assert call_in_bluesky_event_loop(loader.read_now("fault_count"))[0] == faults + 1


def test_a_load_survives_the_death_of_its_server(
    engine: RunEngine, parts: Devices, loader: Loader, lab: Lab
) -> None:
    info = lab.info()
    device = tango.DeviceProxy(f"tango://{info.tango_host}/{info.devices['loader']}")
    pid = next(one.pid for one in lab.status().processes if one.name == "loader")
    assert pid is not None
    for _ in range(10):  # until the kill comes in mid-load, which takes less than half a second
        counts = call_in_bluesky_event_loop(loader.read_now("load_count"))[0]
        over, killed = threading.Event(), threading.Event()
        killer = threading.Thread(target=kill_in_mid_load, args=(device, pid, over, killed))
        killer.start()
        slot = ran(engine, load_sample(loader, parts.column, parts.stage, 4))
        over.set()
        killer.join()
        if killed.is_set():
            break
        ran(engine, load_sample(loader, parts.column, parts.stage, 0))
    assert killed.is_set()
    assert slot.state is SlotState.LOADED
    assert next(one.pid for one in lab.status().processes if one.name == "loader") != pid
    assert call_in_bluesky_event_loop(loader.read_now("load_count"))[0] == counts + 1  # once, not again


def kill_in_mid_load(device: Any, pid: int, over: threading.Event, killed: threading.Event) -> None:
    """Kill the loader's server while it loads, unless that is over before."""
    while not over.wait(0.005):
        if "LOADING" in device.slot_states:
            os.kill(pid, signal.SIGKILL)
            killed.set()
            return


def test_name_unit_and_events_of_the_loader(lab: Lab, parts: Devices) -> None:
    info = lab.info()
    device = tango.DeviceProxy(f"tango://{info.tango_host}/{info.devices['loader']}")
    for attribute in device.get_attribute_list():
        if attribute != "Status":
            events: list[Any] = []
            device.unsubscribe_event(
                device.subscribe_event(attribute, tango.EventType.CHANGE_EVENT, events.append)
            )
            assert events, attribute
            assert not events[0].err, f"{attribute}: {events[0].errors}"
    world = Path(str(info.world))
    assert world.exists()
