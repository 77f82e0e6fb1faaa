"""What a laboratory does when its processes, its owner or its supervisor die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from montango.config import dump_config
from montango.lab import Lab
from montango.lab.ports import Ports
from montango.lab.processes import ProcessId, family, left_behind, wait_gone
from montango.lab.readiness import ask_channel_access
from montango.lab.status import ProcessStatus
from montango.lab.supervisor import Supervisor

pytestmark = pytest.mark.system
LabFactory = Callable[..., Lab]


def until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
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


def test_down_is_clean_and_quick(make_lab: LabFactory) -> None:
    lab = make_lab(catalog=True)
    lab.up()
    before = members(lab)
    assert len(before) >= 8
    rings = Path((lab.state.run / "ring_dir").read_text())
    assert rings.is_dir()
    started = time.monotonic()
    assert lab.down()
    assert time.monotonic() - started < 5
    assert [one for one in before if one.process()] == []
    assert left_behind(lab.state.root) == []
    assert not rings.exists()
    assert not lab.state.lab_file.exists()
    assert not lab.down()


def test_device_server_comes_back(make_lab: LabFactory) -> None:
    lab = make_lab()
    lab.up()
    before = pid_of(lab, "stage")
    os.kill(before, signal.SIGKILL)
    until(lambda: (one := process(lab, "stage")).ready and one.pid != before)
    assert process(lab, "stage").restarts == 1
    lab.restart("stage")
    assert process(lab, "stage").restarts == 2


def test_tango_database_keeps_its_port(make_lab: LabFactory) -> None:
    lab = make_lab()
    host = lab.up().tango_host
    before = pid_of(lab, "tangodb")
    os.kill(before, signal.SIGKILL)
    until(lambda: (one := process(lab, "tangodb")).ready and one.pid != before)
    assert lab.info().tango_host == host
    until(lambda: lab.status().ready)


@pytest.mark.slow
def test_catalog_keeps_its_port_and_key(make_lab: LabFactory) -> None:
    lab = make_lab(catalog=True)
    catalog = lab.up(wait=True).tiled
    before = pid_of(lab, "tiled")
    os.kill(before, signal.SIGKILL)
    until(lambda: (one := process(lab, "tiled")).ready and one.pid != before, timeout_s=90)
    assert lab.info().tiled == catalog


def test_kill_of_the_supervisor_leaves_nothing(make_lab: LabFactory) -> None:
    lab = make_lab()
    info = lab.up()
    before = members(lab)
    os.kill(info.pid, signal.SIGKILL)
    assert wait_gone(before, 5) == []
    assert lab.find() is None
    news: list[str] = []
    again = lab.up(report=news.append)
    assert again.pid != info.pid
    assert again.tango_host == info.tango_host
    assert lab.status().ready


def test_pid_of_a_dead_supervisor_that_another_process_has_now(make_lab: LabFactory) -> None:
    lab = make_lab()
    info = lab.up()
    os.kill(info.pid, signal.SIGKILL)
    until(lambda: lab.find() is None)
    stale = lab.state.supervisor_file.read_text().replace(str(info.pid), str(os.getpid()))
    lab.state.supervisor_file.write_text(stale)
    assert lab.find() is None
    lab.down()
    assert not lab.state.supervisor_file.exists()


def test_processes_without_death_signal_are_found_and_ended(make_lab: LabFactory) -> None:
    lab = make_lab()
    lab.state.prepare()
    environment = {**os.environ, "MONTANGO_LAB_PROCESS": str(lab.state.root)}
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environment
    ) as orphan:
        assert [one.pid for one in left_behind(lab.state.root)] == [orphan.pid]
        assert lab.down()
        assert orphan.wait(5) == -signal.SIGKILL


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
        assert wait_gone(before, 5) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_start_leaves_nothing(make_lab: LabFactory, number: signal.Signals) -> None:
    lab = make_lab(catalog=True)
    with start(lab, "up", "--wait") as command:
        until(lambda: len(members(lab)) > 3)
        command.send_signal(number)
        _, error = command.communicate(timeout=20)
    assert command.returncode == 130
    assert "Traceback" not in error
    assert left_behind(lab.state.root) == []
    assert lab.find() is None


def test_two_starts_at_once(make_lab: LabFactory) -> None:
    lab = make_lab()
    with start(lab, "up") as first, start(lab, "up") as second:
        results = [(one.communicate(timeout=90), one.returncode) for one in (first, second)]
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

    import tango

    for info, limit in ((first, 111), (second, 222)):
        stage = tango.DeviceProxy(f"tango://{info.tango_host}/em/stage/1")
        assert stage.read_attribute("upper_limits").value[0] == limit
    one.down()
    assert two.status().ready


def test_facility_signals_of_two_labs_do_not_mix(make_lab: LabFactory) -> None:
    one, two = make_lab("one"), make_lab("two")
    first, second = one.up(), two.up()
    ports = [int(info.epics["EPICS_CA_SERVER_PORT"]) for info in (first, second)]
    assert ports[0] != ports[1]
    assert first.facility_prefix == second.facility_prefix
    assert process(one, "facility").ready
    Supervisor(one.state.socket).stop("facility")
    assert not process(one, "facility").ready
    assert process(two, "facility").ready
    assert not ask_channel_access(ports[1], "NO:SUCH:PV").ready


def test_long_state_directory(make_lab: LabFactory) -> None:
    lab = make_lab("/".join(["a-name-that-is-rather-long-for-a-folder"] * 4))
    assert len(str(lab.state.run / "supervisor.sock")) > 108
    lab.up()
    assert lab.status().ready
    folder = lab.state.socket.parent
    assert lab.down()
    assert not folder.exists()


def test_world_is_kept_and_made_anew_when_it_changes(make_lab: LabFactory) -> None:
    lab = make_lab()
    news: list[str] = []
    lab.up(report=news.append)
    lab.down()
    assert sum("world" in line for line in news) == 1
    lab.up(report=news.append)
    lab.down()
    assert sum("world" in line for line in news) == 1
    other = make_lab(simulation={"seed": 99})
    other.up(report=news.append)
    assert any("created anew" in line for line in news)


def test_ports_are_the_labs_while_a_server_is_down(make_lab: LabFactory) -> None:
    lab = make_lab()
    host = lab.up().tango_host
    Supervisor(lab.state.socket).stop("tangodb")
    import socket

    with socket.socket() as thief, pytest.raises(OSError, match="in use"):
        thief.bind(("127.0.0.1", int(host.partition(":")[2])))
    lab.restart("tangodb")
    until(lambda: lab.status().ready)
    assert psutil.pid_exists(lab.info().pid)
    assert Ports.__dataclass_fields__.keys() >= {"tango", "tiled", "epics"}
