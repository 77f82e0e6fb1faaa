"""What a laboratory does when its processes, its owner or its supervisor die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tango

from montango.config import MontangoConfig, dump_config
from montango.lab import Lab
from montango.lab.processes import ProcessId, family, left_behind, wait_gone
from montango.lab.readiness import ask_channel_access
from montango.lab.status import ProcessStatus
from montango.lab.supervisor import Supervisor
from montango.lab.world import ensure_world

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
LabFactory = Callable[..., Lab]

PATIENCE_S = 120.0
"""Longest wait for what comes in a second or two: the machine may be busy."""


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


def process(lab: Lab, name: str) -> ProcessStatus:
    return next(one for one in lab.status().processes if one.name == name)


def pid_of(lab: Lab, name: str) -> int:
    return next(one.pid for one in Supervisor(lab.state.socket).processes() if one.name == name)


def members(lab: Lab) -> list[ProcessId]:
    return family(ProcessId.read(lab.state.supervisor_file))


def start(lab: Lab, *arguments: str) -> subprocess.Popen[str]:
    """Start the command line on a laboratory's configuration, in a process of its own."""
    assert lab.config is not None
    lab.state.root.mkdir(parents=True, exist_ok=True)
    path = lab.state.root.with_suffix(".yaml")
    path.write_text(dump_config(lab.config))
    command = [
        sys.executable,
        "-m",
        "montango",
        "--config",
        str(path),
        "--state",
        str(lab.state.root),
        *arguments,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def mended(
    make_config: Callable[..., MontangoConfig], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """Return a laboratory for the tests that break one process and leave it as it was."""
    one = Lab(make_config(64, catalog=False), tmp_path_factory.mktemp("mended") / "lab")
    one.up()
    yield one
    one.down()


def test_catalog_keeps_its_port_and_key_and_the_end_is_clean(make_lab: LabFactory) -> None:
    lab = make_lab(catalog=True)
    catalog = lab.up(wait=True).tiled
    pid = pid_of(lab, "tiled")
    os.kill(pid, signal.SIGKILL)
    until(lambda: (one := process(lab, "tiled")).ready and one.pid != pid)
    assert lab.info().tiled == catalog

    before = members(lab)
    assert len(before) >= 8
    rings = Path((lab.state.run / "ring_dir").read_text())
    assert rings.is_dir()
    assert lab.down()
    assert [one for one in before if one.process()] == []
    assert left_behind(lab.state.root) == []
    assert not rings.exists()
    assert not lab.state.lab_file.exists()
    assert not lab.down()


def test_device_server_comes_back(mended: Lab) -> None:
    before = process(mended, "stage")
    os.kill(before.pid, signal.SIGKILL)
    until(lambda: (one := process(mended, "stage")).ready and one.pid != before.pid)
    assert process(mended, "stage").restarts == before.restarts + 1
    mended.restart("stage")
    assert process(mended, "stage").restarts == before.restarts + 2


def test_tango_database_keeps_its_port(mended: Lab) -> None:
    host = mended.info().tango_host
    before = pid_of(mended, "tangodb")
    os.kill(before, signal.SIGKILL)
    until(lambda: (one := process(mended, "tangodb")).ready and one.pid != before)
    assert mended.info().tango_host == host
    until(lambda: mended.status().ready)


def test_ports_are_the_labs_while_a_server_is_down(mended: Lab) -> None:
    port = int(mended.info().tango_host.partition(":")[2])
    Supervisor(mended.state.socket).stop("tangodb")
    with socket.socket() as thief, pytest.raises(OSError, match="in use"):
        thief.bind(("127.0.0.1", port))
    mended.restart("tangodb")
    until(lambda: mended.status().ready)


def test_kill_of_the_supervisor_leaves_nothing(make_lab: LabFactory) -> None:
    lab = make_lab()
    info = lab.up()
    before = members(lab)
    os.kill(info.pid, signal.SIGKILL)
    assert wait_gone(before, PATIENCE_S) == []
    assert lab.find() is None
    # its pid may be another process's by now, which is let alone
    fields = lab.state.supervisor_file.read_text()
    lab.state.supervisor_file.write_text(fields.replace(str(info.pid), str(os.getpid())))
    assert lab.find() is None
    again = lab.up()
    assert again.pid not in (info.pid, os.getpid())
    assert again.tango_host == info.tango_host
    until(lambda: lab.status().ready)


def test_processes_without_death_signal_are_found_and_ended(make_lab: LabFactory) -> None:
    lab = make_lab()
    lab.state.prepare()
    environment = {**os.environ, "MONTANGO_LAB_PROCESS": str(lab.state.root)}
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environment
    ) as orphan:
        assert [one.pid for one in left_behind(lab.state.root)] == [orphan.pid]
        assert lab.down()
        assert orphan.wait(PATIENCE_S) == -signal.SIGKILL


def test_kill_of_the_owner_leaves_nothing(make_lab: LabFactory, tmp_path: Path) -> None:
    lab = make_lab()
    assert lab.config is not None
    config = tmp_path / "owned.yaml"
    config.write_text(dump_config(lab.config))
    program = (
        "from montango.config import load_config; from montango.lab import running_lab\n"
        f"with running_lab(load_config({str(config)!r}), {str(lab.state.root)!r}):\n"
        "    print('up', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        before = members(lab)
        assert len(before) > 5
        owner.kill()
        assert wait_gone(before, PATIENCE_S) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_start_leaves_nothing(make_lab: LabFactory, number: signal.Signals) -> None:
    lab = make_lab(catalog=True)
    with start(lab, "up", "--wait") as command:
        until(lambda: len(members(lab)) > 3)
        command.send_signal(number)
        _, error = command.communicate(timeout=PATIENCE_S)
    assert command.returncode == 130
    assert "Traceback" not in error
    assert left_behind(lab.state.root) == []
    assert lab.find() is None


def test_two_starts_at_once(make_lab: LabFactory) -> None:
    lab = make_lab()
    with start(lab, "up") as first, start(lab, "up") as second:
        results = [(one.communicate(timeout=PATIENCE_S), one.returncode) for one in (first, second)]
    assert [code for _, code in results] == [0, 0], results
    assert sum("already up" in output for (output, _), _ in results) == 1
    supervisors = [
        one
        for one in left_behind(lab.state.root)
        if (p := one.process()) and "supervisor.supervisord" in p.cmdline()
    ]
    assert len(supervisors) == 1


def test_two_labs_at_once(make_lab: LabFactory) -> None:
    one = make_lab("one", instruments={"stage": {"limits": {"x_um": [-111, 111]}}})
    two = make_lab("two", instruments={"stage": {"limits": {"x_um": [-222, 222]}}})
    first, second = one.up(), two.up()
    assert first.tango_host != second.tango_host
    assert first.tiled["uri"] == second.tiled["uri"]
    for info, limit in ((first, 111), (second, 222)):
        stage = tango.DeviceProxy(f"tango://{info.tango_host}/em/stage/1")
        assert stage.read_attribute("upper_limits").value[0] == limit
    # nor do the signals of their facilities mix
    ports = [int(info.epics["EPICS_CA_SERVER_PORT"]) for info in (first, second)]
    assert ports[0] != ports[1]
    assert first.facility_prefix == second.facility_prefix
    until(lambda: process(one, "facility").ready)
    Supervisor(one.state.socket).stop("facility")
    assert not process(one, "facility").ready
    until(lambda: process(two, "facility").ready)
    assert not ask_channel_access(ports[1], "NO:SUCH:PV").ready
    one.down()
    until(lambda: two.status().ready)


def test_long_state_directory_and_a_world_that_is_kept_or_made_anew(make_lab: LabFactory) -> None:
    lab = make_lab("/".join(["a-name-that-is-rather-long-for-a-folder"] * 4))
    assert len(str(lab.state.run / "supervisor.sock")) > 108
    news: list[str] = []
    lab.up(report=news.append)
    until(lambda: lab.status().ready)
    assert sum("world" in line for line in news) == 1
    folder = lab.state.socket.parent
    assert lab.down()
    assert not folder.exists()
    assert lab.config is not None
    assert ensure_world(lab.config, lab.state) is None
    assert lab.config.simulation is not None
    changed = lab.config.simulation.model_copy(update={"seed": 99})
    said = ensure_world(lab.config.model_copy(update={"simulation": changed}), lab.state)
    assert said is not None
    assert "created anew" in said
