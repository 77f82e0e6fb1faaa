"""A montage that is steered, held by signals, ended and gone on with; one engine at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tango
from bluesky.run_engine import RunEngine
from typer.testing import CliRunner

from devices.camera.counts import CameraCounts
from devices.errors import Aborted, ConfigurationError, MontangoError
from devices.facility.signals import FAULT_PV
from devices.sequencer.driver import Table, TileRequest, pack
from montango.cli.app import app
from montango.fence import EngineBusy
from montango.lab import Lab
from montango.onlooker import Onlooker
from montango.session import Session
from montango.suspended_signals import make_suspenders
from plans.control import Request
from plans.record import MontageRecord
from plans.suspenders import SuspenderSpec
from plans.tango_control import TangoControl

if TYPE_CHECKING:
    from profiles.simulated.devices import Devices

pytestmark = pytest.mark.system

TILES = {"rows": 4, "columns": 5}
TIMEOUT_S = 60.0


@pytest.fixture
def session(lab: Lab, engine: RunEngine, devices: Devices) -> Iterator[Session[Devices]]:
    """Return a session of the shared laboratory."""
    with Session(lab.info(), lambda _: devices, engine=engine, minimum_free_gb=0.1) as session:
        yield session


def until(what: Callable[[], bool]) -> None:
    """Wait for something that another process or thread does."""
    never = threading.Event()
    for _ in range(int(TIMEOUT_S / 0.01)):
        if what():
            return
        never.wait(0.01)
    raise AssertionError(f"not so after {TIMEOUT_S:g} s")


def acquire(session: Session[Devices], plan: str, *args: Any, **kwargs: Any) -> None:
    """Run a plan of the session on its instruments; its documents are in the journal afterwards."""
    devices = session.devices
    try:
        session.RE(
            session.plans[plan](
                devices.sequencer, devices.camera, devices.column, devices.stage, *args, **kwargs
            )
        )
    finally:
        session.drain(60)


def beside(session: Session[Devices], action: Callable[[], None]) -> Any:
    """Return a thread that acts when the montage has exposed some tiles; join it to see its failure."""
    failures: list[BaseException] = []

    def body() -> None:
        try:
            until(lambda: session.control.progress.current_tile >= 3)
            action()
        except BaseException as failure:  # noqa: BLE001  # shown by the test
            failures.append(failure)
            session.control.abort()

    thread = threading.Thread(target=body)
    thread.start()

    def finish() -> None:
        thread.join(TIMEOUT_S)
        assert not failures, failures

    return finish


def spec(session: Session[Devices], **fields: Any) -> Any:
    """Return the specification of a montage that lasts long enough to act in its middle."""
    return session.spec(**{**TILES, "centre_um": (40.0, -30.0), "settle_s": 0.05, **fields})


def exposures(lab: Lab) -> int:
    """Return the camera's own count."""
    return CameraCounts(lab.state.root / "camera.json").exposures


def test_a_second_session_is_refused_by_pid_and_one_that_looks_on_is_not(
    lab: Lab, session: Session[Devices], devices: Devices, engine: RunEngine
) -> None:
    with pytest.raises(EngineBusy, match=r"another session drives.*pid \d+, since 20.*--read-only"):
        Session(lab.info(), lambda _: devices, engine=engine)
    onlooker = Onlooker(lab.info(), lambda _: devices, engine=engine)
    assert onlooker.control.status()["montage_state"] != "in_progress"
    with pytest.raises(EngineBusy, match=r"runs no plan; .*pid \d+.* drives"):
        onlooker.RE("plan")
    session.close()
    with Session(lab.info(), lambda _: devices, engine=engine):
        pass  # the lock was given back


def test_an_engine_that_is_not_the_owner_cannot_queue(lab: Lab, session: Session[Devices]) -> None:
    sequencer = tango.DeviceProxy(f"tango://{lab.info().tango_host}/{lab.info().devices['sequencer']}")
    assert f"pid {os.getpid()}" in sequencer.owner
    table = Table((TileRequest(0, 0, 0, 0, 0, 0.0, 0.0, 0.0),))
    with pytest.raises(tango.DevFailed, match="belongs to"):
        sequencer.QueueTable(pack(table, 12345))


def test_defaults_of_the_configuration_are_below_what_is_asked_for(session: Session[Devices]) -> None:
    session.config = session.config.model_copy(update={"montage": {"overlap": 0.2, "settle_s": 0.3}})
    made = session.spec(rows=1, columns=2, settle_s=0.1)
    assert (made.overlap, made.settle_s) == (0.2, 0.1)


def test_another_process_pauses_and_resumes(lab: Lab, session: Session[Devices], tmp_path: Path) -> None:
    info = lab.info()
    other = TangoControl(f"tango://{info.tango_host}/{info.devices['control']}", drives=False)
    column = tango.DeviceProxy(f"tango://{info.tango_host}/{info.devices['column']}")
    seen: dict[str, Any] = {}

    def pause() -> None:
        other.ask_and_wait(Request.PAUSE)
        until(lambda: other.status()["montage_state"] == "paused")
        until(lambda: bool(column.beam_blanked))
        seen["paused_at"] = exposures(lab)
        told = CliRunner().invoke(app, ["--state", str(lab.state.root), "control"])
        seen["status"] = told.stdout
        seen["still"] = exposures(lab)
        other.ask_and_wait(Request.RESUME)

    finish = beside(session, pause)
    acquire(session, "montage", spec(session))
    finish()
    assert seen["paused_at"] == seen["still"]
    assert "paused" in seen["status"]
    assert "paused by the operator" in seen["status"]
    until(lambda: other.status()["montage_state"] == "completed")
    assert other.status()["current_tile"] == 20
    with pytest.raises(MontangoError, match="no montage is running"):
        other.ask(Request.PAUSE)


def test_the_beam_is_blanked_while_the_water_is_low_and_the_montage_goes_on_by_itself(
    lab: Lab, session: Session[Devices], devices: Devices, engine: RunEngine, caplog: pytest.LogCaptureFixture
) -> None:
    from ophyd import EpicsSignal  # Channel Access reads its environment when imported

    info = lab.info()
    water = SuspenderSpec(signal="facility.water_flow_l_min", low=3.0, resume_after_s=0.5)
    beam = SuspenderSpec(signal="column.high_voltage_kv", low=10.0)
    suspenders = make_suspenders([water, beam], devices, info, engine.loop)
    session.control.hold_by(suspenders.holds)
    fault = EpicsSignal(f"{info.facility_prefix}{FAULT_PV}", name="fault", string=True)
    fault.wait_for_connection(timeout=20)
    column = tango.DeviceProxy(f"tango://{info.tango_host}/{info.devices['column']}")
    counts: list[int] = []

    def trip() -> None:
        fault.put("WATER_FLOW", wait=True)
        until(lambda: session.control.progress.state == "paused")
        until(lambda: bool(column.beam_blanked))
        counts.append(exposures(lab))
        assert any("water_flow" in reason for reason in session.control.holds)
        counts.append(exposures(lab))
        fault.put("NONE", wait=True)

    suspenders.start()
    try:
        finish = beside(session, trip)
        acquire(session, "montage", spec(session))
        finish()
    finally:
        fault.put("NONE", wait=True)
        suspenders.close()
        fault.destroy()
    assert counts[0] == counts[1]
    assert session.control.progress.state == "completed"
    assert "held: facility.water_flow_l_min" in caplog.text
    assert "facility.water_flow_l_min is good again" in caplog.text
    assert column.beam_blanked


def test_what_was_aborted_is_gone_on_with_and_no_good_tile_is_exposed_again(
    lab: Lab, session: Session[Devices]
) -> None:
    before = exposures(lab)
    finish = beside(session, session.control.abort)
    with pytest.raises(Aborted, match="the operator ended"):
        acquire(session, "montage", spec(session), {"montage_id": "m-aborted"})
    finish()
    first = MontageRecord.read(lab.state.journal, "m-aborted")
    assert 3 <= first.exposures < 20
    with pytest.raises(ConfigurationError, match="defocus_um was None and is -2"):
        acquire(session, "resume_montage", "m-aborted", spec=spec(session, defocus_um=-2.0))

    acquire(session, "resume_montage", "m-aborted")
    record = MontageRecord.read(lab.state.journal, "m-aborted")
    assert record.good == 20
    assert record.runs[1].start["resumes"] == [first.run_uids[0]]
    exposed = {key: [one for one in tiles if one.readable] for key, tiles in record.tiles.items()}
    assert all(one[-1].good and not any(earlier.good for earlier in one[:-1]) for one in exposed.values())
    assert {key for key, tiles in exposed.items() if tiles[0].run_uid == first.run_uids[0]} == set(
        first.tiles
    )
    acquire(session, "resume_montage", "m-aborted")  # there is nothing left to do
    assert len(MontageRecord.read(lab.state.journal, "m-aborted").runs) == 2
    listed = CliRunner().invoke(app, ["--state", str(lab.state.root), "resume"]).stdout
    assert "m-aborted  20 of 20 tiles good, 2 runs, ended" in listed
    assert exposures(lab) - before == record.exposures
    assert record.spec == first.spec
    with pytest.raises(ConfigurationError, match="has no montage 'm-abortet'; the nearest is 'm-aborted'"):
        acquire(session, "resume_montage", "m-abortet")
