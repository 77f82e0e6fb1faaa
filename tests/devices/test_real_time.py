"""Instruments in real time, in a laboratory of their own: stopped, aborted, killed, and found again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import bluesky.plan_stubs as bps
import pytest
import tango
from bluesky.run_engine import RunEngine, call_in_bluesky_event_loop
from bluesky.utils import FailedStatus

from devices.errors import Aborted, DeviceLost, MontangoError
from devices.sequencer.driver import TileRequest, pack
from montango.lab import Lab
from tests.devices.instruments_bench import proxy, refused

if TYPE_CHECKING:
    from montango.config import MontangoConfig
    from profiles.simulated.devices import Devices

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def slow_lab(
    make_config: Callable[..., MontangoConfig], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """Return a laboratory with real timing, whose servers a test may kill."""
    simulation = {"timing": "real", "stage": {"speed_um_s": 100.0}}  # far away is not there soon
    config = make_config(64, catalog=False, simulation=simulation, facility={"ioc": None})
    own = Lab(config, tmp_path_factory.mktemp("slow") / "lab")
    own.up()
    yield own
    own.down()


@pytest.fixture
def slow(slow_lab: Lab, engine: RunEngine) -> Iterator[tuple[Lab, Devices]]:
    """Return the laboratory with real timing, with every server up, and its devices."""
    from profiles.simulated.devices import make_devices

    own = slow_lab
    own.up(wait=True)  # it is up: waits for a server that the test before has killed
    devices = make_devices(own.info())
    yield own, devices
    devices.disconnect()


def test_nothing_is_said_of_events_that_come_while_devices_connect(
    slow_lab: Lab, engine: RunEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    from profiles.simulated.devices import make_instruments

    slow_lab.up(wait=True)
    stage = proxy(slow_lab, "stage")
    said = ""
    for x_um in (900.0, -900.0, 900.0):  # cppTango speaks to the terminal of events it has no entry for
        stage.MoveTo([x_um, x_um])
        capfd.readouterr()
        instruments = make_instruments(slow_lab.info(), 60.0)
        said += capfd.readouterr().err
        for one in instruments:
            if one is not None:
                call_in_bluesky_event_loop(one.disconnect())
        stage.Stop()
        while stage.state() == tango.DevState.MOVING:
            pass
    assert "event callback map" not in said


def test_stop_and_restart_on_real_timing(engine: RunEngine, slow: tuple[Lab, Devices]) -> None:
    own, devices = slow
    stage = proxy(own, "stage")
    far_um = -900.0 if stage.position[0] > 0 else 900.0

    def stopped_move() -> Any:
        status = yield from bps.abs_set(devices.stage, (far_um, far_um))
        yield from bps.sleep(0.2)
        yield from bps.stop(devices.stage)
        yield from bps.wait_for([lambda: _outcome(status)])

    outcome: list[BaseException | None] = []

    async def _outcome(status: Any) -> None:
        try:
            await status
        except MontangoError as error:
            outcome.append(error)

    with pytest.raises(FailedStatus):
        engine(stopped_move())
    assert any(isinstance(error, Aborted) for error in outcome) or not outcome
    halted = list(stage.position)
    assert abs(halted[0] - far_um) > 10
    with pytest.raises(tango.DevFailed, match="outside"):
        stage.MoveTo([1e5, 0.0])

    own.restart("stage")
    again = proxy(own, "stage")
    assert list(again.position)[:2] == pytest.approx(halted[:2], abs=0.2)
    near = (halted[0] + 5.0, halted[1] - 5.0)
    engine(bps.mv(devices.stage, near))
    position, _ = call_in_bluesky_event_loop(devices.stage.position_now())
    assert position[:2] == pytest.approx(near, abs=0.5)


def test_abort_of_the_sequencer_leaves_beam_blanked_and_stage_still(
    engine: RunEngine, slow: tuple[Lab, Devices]
) -> None:
    own, _ = slow
    camera, sequencer, column = (proxy(own, name) for name in ("camera", "sequencer", "column"))
    camera.OpenFile(str(own.state.root / "data" / "aborted.h5"))
    x_um, y_um = proxy(own, "stage").position[:2]
    tiles = [TileRequest(k, 0, 0, k, 0, x_um + 8.0 * k, y_um, 0.05) for k in range(20)]
    table = sequencer.QueueTable(pack(tiles))
    while sequencer.tiles_done < 2:
        pass
    assert not column.beam_blanked
    sequencer.Abort()
    while sequencer.state() == tango.DevState.RUNNING:
        pass
    assert column.beam_blanked
    assert sequencer.failed_id == table
    assert sequencer.last_error.startswith("Aborted")
    assert proxy(own, "stage").stage_state == "READY"
    # and a table queued afterwards runs
    again = sequencer.QueueTable(pack(tiles[:2]))
    while sequencer.tables_done < again:
        assert sequencer.failed_id < again, sequencer.last_error
    camera.CloseFile()


def test_lost_server_is_named_with_what_to_do(engine: RunEngine, slow: tuple[Lab, Devices]) -> None:
    own, devices = slow
    pid = next(one.pid for one in own.status().processes if one.name == "stage")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(DeviceLost, match="em/stage/1"):  # as when a run declares its baseline
        call_in_bluesky_event_loop(devices.stage.alpha_deg.describe())
    error = refused(engine, bps.mv(devices.stage, (2.0, 2.0)))
    assert isinstance(error, DeviceLost)
    assert "em/stage/1" in str(error)
    assert "montango logs stage" in str(error)
