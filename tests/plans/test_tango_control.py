"""A montage that is watched and steered through the montage-control server, and an engine that is lost."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tango

from devices.errors import MontangoError
from plans.control import Progress, Request
from plans.tango_control import TangoControl
from sim.config import SimulationConfig
from sim.faults import inject, make_fault
from sim.world import World
from tests.plans.control_servers import addresses as control_addresses

pytestmark = pytest.mark.tango

RUNNING = Progress("m1", "in_progress", current_tile=3, total_tiles=9, roi="section 4", eta_s=12.5)
LOST_AFTER_S = 3.0
"""The engine reports five times a second: on a busy machine too it is not silent for so long."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return the world of the column and the stage."""
    path = tmp_path_factory.mktemp("control") / "world"
    World.create(path, SimulationConfig(timing="real")).close()
    with World.open(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def addresses(world: World) -> Iterator[dict[str, str]]:
    """Return the addresses of a column and a stage, and of the montage-control server that watches them."""
    folder = Path(world.path).parent
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]  # known beforehand: the control server is told where the others are
    command = [sys.executable, "-m", "tests.plans.control_servers", str(folder), str(port), str(LOST_AFTER_S)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as servers:
        assert servers.stdout is not None
        assert any(line.startswith("READY") for line in servers.stdout)
        yield control_addresses(port)
        assert servers.stdin is not None
        servers.stdin.close()
        servers.stdout.read()


@pytest.fixture
def host(addresses: dict[str, str]) -> str:
    """Return the address of the montage-control server."""
    return addresses["control"]


@pytest.fixture
def instruments(addresses: dict[str, str]) -> tuple[Any, Any]:
    """Return plain Tango clients of column and stage."""
    return tango.DeviceProxy(addresses["column"]), tango.DeviceProxy(addresses["stage"])


def until(what: Callable[[], bool], timeout_s: float = 90.0) -> None:
    """Wait for a condition that events bring about."""
    done = threading.Event()
    for _ in range(int(timeout_s / 0.02)):
        if what():
            return
        done.wait(0.02)
    pytest.fail(f"not so after {timeout_s:g} s")


@pytest.fixture
def control(host: str) -> Iterator[TangoControl]:
    """Return the control of an engine."""
    control = TangoControl(host)
    yield control
    control.publish(Progress("m1", "completed"))
    control.close()


def test_the_server_shows_what_the_plan_publishes(host: str, control: TangoControl) -> None:
    server = tango.DeviceProxy(host)
    control.hold_by(lambda: ["water_flow is low"])
    control.publish(RUNNING)
    until(lambda: server.montage_state == "in_progress")
    status = control.status()
    assert (status["montage_id"], status["current_tile"], status["total_tiles"]) == ("m1", 3, 9)
    assert (status["roi"], status["eta_s"]) == ("section 4", 12.5)
    assert list(status["holds"]) == ["water_flow is low"]
    assert status["last_seen_s"] < LOST_AFTER_S
    until(lambda: server.state() == tango.DevState.RUNNING)
    control.publish(Progress("m1", "completed"))
    until(lambda: server.state() == tango.DevState.ON)


def test_requests_of_another_process_reach_the_plan_once_and_in_order(
    host: str, control: TangoControl
) -> None:
    control.publish(RUNNING)
    server = tango.DeviceProxy(host)
    until(lambda: server.montage_state == "in_progress")
    other = TangoControl(host, drives=False)
    for request in Request:
        other.ask(request)
    taken: list[Request] = []

    def all_taken() -> bool:
        taken.extend(control.take())
        return len(taken) >= len(Request)

    until(all_taken)
    assert taken == list(Request)
    other.ask_and_wait(Request.PAUSE)
    assert control.take() == [Request.PAUSE]


def test_nothing_is_asked_of_a_montage_that_has_ended(host: str, control: TangoControl) -> None:
    control.publish(Progress("m2", "cancelled"))
    until(lambda: tango.DeviceProxy(host).montage_state == "cancelled")
    with pytest.raises(MontangoError, match=r"em/control/1.*state cancelled"):
        TangoControl(host, drives=False).ask(Request.PAUSE)


def test_without_a_server_the_plan_goes_on_and_a_request_is_refused_by_name() -> None:
    control = TangoControl("tango://127.0.0.1:9/em/control/1#dbase=no")
    control.publish(RUNNING)
    control.pause()  # of this process's own montage: no server is needed
    assert control.take() == [Request.PAUSE]
    control.publish(Progress("m1", "completed"))
    with pytest.raises(MontangoError, match="em/control/1"):
        control.pause()
    control.close()


def test_beam_is_blanked_and_stage_stopped_when_the_engine_is_lost(
    host: str, instruments: tuple[Any, Any], world: World
) -> None:
    column, stage = instruments
    engine, server = TangoControl(host), tango.DeviceProxy(host)
    engine.publish(RUNNING)
    until(lambda: server.montage_state == "in_progress")
    column.beam_blanked = False
    inject(world, make_fault("stage_stuck", at_exposure=world.exposures()))  # it would not arrive before
    stops = stage.failed_id
    stage.MoveTo([500.0, 500.0])
    engine.close()  # what its death looks like to the server: silence
    until(lambda: bool(column.beam_blanked))
    until(lambda: stage.stage_state == "READY" and stage.failed_id > stops)
    until(lambda: server.state() == tango.DevState.ALARM)
    assert server.montage_state == "error"
    until(lambda: "beam blanked, stage stopped" in server.reason)
    assert "montango resume m1" in server.reason
    column.beam_blanked = False  # a person may use the beam again
    assert not column.beam_blanked
    again = TangoControl(host)
    again.publish(Progress("m1", "completed"))
    until(lambda: server.state() == tango.DevState.ON)
    again.close()


def test_a_beam_that_a_failed_run_left_on_is_blanked(host: str, instruments: tuple[Any, Any]) -> None:
    column, _ = instruments
    engine, server = TangoControl(host), tango.DeviceProxy(host)
    engine.publish(RUNNING)
    until(lambda: server.state() == tango.DevState.RUNNING)
    column.beam_blanked = False
    engine.publish(Progress("m1", "error", reason="the column did not answer"))
    until(lambda: bool(column.beam_blanked))
    engine.close()
