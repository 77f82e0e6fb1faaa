"""One laboratory that several tests look at without harming it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from montango.config import load_config
from montango.lab import Lab, LabError
from montango.lab.doctor import examine
from montango.lab.processes import ProcessId, family

pytestmark = pytest.mark.system


def montango(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "montango", "--state", str(lab.state.root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def listening(process: psutil.Process) -> Iterator[str]:
    for connection in process.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN:
            yield connection.laddr.ip


def test_everything_answers(lab: Lab) -> None:
    status = lab.status()
    assert {one.name for one in status.processes} == {
        "tangodb",
        "column",
        "stage",
        "camera",
        "sequencer",
        "control",
        "facility",
        "tiled",
    }
    assert [one.name for one in status.processes if not one.ready] == []
    assert {one.device: one.state for one in status.devices} == {
        "em/column/1": "ON",
        "em/stage/1": "ON",
        "em/camera/1": "ON",
        "em/sequencer/1": "ON",
        "em/control/1": "ON",
    }
    assert all(one.restarts == 0 and one.memory_mb > 10 for one in status.processes)


def test_listens_on_loopback_only(lab: Lab) -> None:
    members = [one.process() for one in family(ProcessId.read(lab.state.supervisor_file))]
    addresses = [address for process in members if process for address in listening(process)]
    assert len(addresses) >= 7
    assert set(addresses) == {"127.0.0.1"}


def test_this_process_is_connected(lab: Lab) -> None:
    info = lab.info()
    assert os.environ["TANGO_HOST"] == info.tango_host
    assert os.environ["EPICS_CA_ADDR_LIST"] == "127.0.0.1"
    assert os.environ["EPICS_CA_SERVER_PORT"] == info.epics["EPICS_CA_SERVER_PORT"]


def test_secrets_are_private(lab: Lab) -> None:
    key = lab.info().tiled["api_key"]
    assert len(key) == 48
    for name in ("lab.json", "supervisord.conf", "api_key"):
        assert stat.S_IMODE((lab.state.run / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(lab.state.run.stat().st_mode) == 0o700
    assert key not in montango(lab, "status", "--json").stdout
    assert key not in montango(lab, "status").stdout
    for process in psutil.process_iter(["cmdline"]):
        assert key not in " ".join(process.info["cmdline"] or [])


def test_configuration_in_force_is_kept(lab: Lab) -> None:
    assert load_config(lab.info().config) == lab.config


def test_status_as_json(lab: Lab) -> None:
    result = montango(lab, "status", "--json")
    assert result.returncode == 0
    content = json.loads(result.stdout)
    assert content["lab"]["pid"] == lab.info().pid
    assert {one["name"] for one in content["devices"]} == {
        "column",
        "stage",
        "camera",
        "sequencer",
        "control",
    }


def test_status_as_table(lab: Lab) -> None:
    lines = montango(lab, "status").stdout.splitlines()
    assert any(line.split()[:2] == ["stage", "ready"] for line in lines)
    assert any(line.split() == ["stage", "em/stage/1", "ON"] for line in lines)
    assert f"tango    TANGO_HOST={lab.info().tango_host}" in lines


def test_logs(lab: Lab) -> None:
    assert montango(lab, "logs", "supervisord", "-n", "400").stdout.count(" spawned: ") >= 7
    result = montango(lab, "logs", "nothing")
    assert result.returncode == 1
    assert result.stderr.startswith("montango: there is no log of 'nothing'")


def test_replay_of_the_journal(lab: Lab) -> None:
    for _ in range(2):  # what other tests left is there after the first
        result = montango(lab, "journal", "replay")
        assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("added 0, completed 0")


def test_up_again_says_where_it_is(lab: Lab) -> None:
    result = montango(lab, "up")
    assert result.returncode == 0
    assert "already up" in result.stdout
    assert str(lab.state.root) in result.stdout


def test_a_lab_of_somebody_else_is_refused_by_an_owner(lab: Lab) -> None:
    with pytest.raises(LabError, match="already up"):
        Lab(lab.config, lab.state.root).up(owned=True)
    assert lab.status().ready


def test_restart_of_a_process_that_is_not_there(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"no process 'stgae'; it has .*stage"):
        lab.restart("stgae")


def test_doctor_finds_nothing_wrong(lab: Lab) -> None:
    assert lab.config is not None
    findings = list(examine(lab.config, lab))
    assert [one for one in findings if one.level == "FAIL"] == []
    subjects = {one.subject for one in findings}
    assert {
        "python",
        "libraries",
        "clock",
        "memory",
        "Tango database",
        "process tiled",
        "device em/stage/1",
    } <= subjects


def test_state_lies_under_one_directory(lab: Lab) -> None:
    for folder in (lab.info().data_dir, lab.info().journal_dir, lab.info().log_dir, lab.info().world):
        assert folder is not None
        assert Path(folder).is_relative_to(lab.state.root)
