"""Laboratories that cannot start: one clear message, a status, nothing left running."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from montango.config import MontangoConfig, dump_config
from montango.lab import Lab, LabError
from montango.lab.processes import left_behind

pytestmark = pytest.mark.system
LabFactory = Callable[..., Lab]
ConfigFactory = Callable[..., MontangoConfig]


def up(config: MontangoConfig, folder: Path, state: Path | str) -> subprocess.CompletedProcess[str]:
    path = folder / "lab.yaml"
    path.write_text(dump_config(config))
    command = [sys.executable, "-m", "montango", "--config", str(path), "--state", str(state), "up"]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def assert_refused(result: subprocess.CompletedProcess[str], *parts: str, code: int = 1) -> None:
    assert result.returncode == code, result.stderr
    assert result.stderr.startswith("montango: ")
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr


def test_state_directory_is_a_file(make_config: ConfigFactory, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_text("not a directory")
    assert_refused(
        up(make_config(catalog=False), tmp_path, state), f"state directory {state} cannot be written to"
    )


def test_state_directory_in_a_place_without_files(make_config: ConfigFactory, tmp_path: Path) -> None:
    result = up(make_config(catalog=False), tmp_path, "/proc/montango")
    assert_refused(result, "state directory /proc/montango cannot be written to", "--state DIR")


def test_disk_nearly_full(make_config: ConfigFactory, tmp_path: Path) -> None:
    config = make_config(catalog=False, paths={"minimum_free_gb": 1_000_000})
    result = up(config, tmp_path, tmp_path / "state")
    assert_refused(result, "disk nearly full", "GB free at", "paths.minimum_free_gb asks for 1e+06")
    assert left_behind(tmp_path / "state") == []


def test_port_taken(make_config: ConfigFactory, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        config = make_config(catalog=False, services={"tango": {"port": port}})
        result = up(config, tmp_path, tmp_path / "state")
    assert_refused(result, f"services.tango.port = {port} cannot be used", "in use", f"pid {os.getpid()}")
    assert left_behind(tmp_path / "state") == []
    assert not (tmp_path / "state" / "run" / "ring_dir").exists()


def test_typo_in_the_configuration(make_config: ConfigFactory, tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(dump_config(make_config()).replace("limits:", "limts:"))
    command = [sys.executable, "-m", "montango", "--config", str(path), "--state", str(tmp_path / "s"), "up"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert_refused(result, f"{path}, line ", "limts is not a key", "nearest is 'limits'", code=2)
    assert not (tmp_path / "s").exists()


def test_specimen_that_is_not_there(make_config: ConfigFactory, tmp_path: Path) -> None:
    specimen = {"specimen": {"kind": "image", "file": str(tmp_path / "none.png")}}
    result = up(make_config(catalog=False, simulation=specimen), tmp_path, tmp_path / "state")
    assert_refused(result, "none.png", code=2)
    assert left_behind(tmp_path / "state") == []


@pytest.mark.parametrize(
    ("instruments", "part"),
    [
        ({"column": {"driver": "sim.colum:SimulatedColumn"}}, "No module named 'sim.colum'"),
        ({"stage": {"options": {"colour": "red"}}}, "colour"),
    ],
)
def test_driver_that_cannot_be_loaded(make_lab: LabFactory, instruments: dict[str, Any], part: str) -> None:
    lab = make_lab(instruments=instruments)
    with pytest.raises(LabError, match=r"em/(column|stage)/1.*driver") as caught:
        lab.up()
    assert part in str(caught.value)
    assert left_behind(lab.state.root) == []
    assert lab.find() is None


def test_process_that_dies_at_start(make_lab: LabFactory, tmp_path: Path) -> None:
    (tmp_path / "broken_ioc.py").write_text("raise SystemExit('the hall is on fire')\n")
    lab = make_lab(facility={"ioc": "broken_ioc"}, paths={"python_path": [str(tmp_path)]})
    with pytest.raises(LabError, match="facility ended again and again") as caught:
        lab.up()
    assert "the hall is on fire" in str(caught.value)
    assert str(lab.state.log / "facility.log") in str(caught.value)
    assert left_behind(lab.state.root) == []


def test_commands_without_a_lab(tmp_path: Path) -> None:
    for command, code in (("status", 3), ("down", 0), ("restart stage", 3)):
        words = [sys.executable, "-m", "montango", "--state", str(tmp_path / "none"), *command.split()]
        result = subprocess.run(words, capture_output=True, text=True, timeout=180, check=False)
        assert result.returncode == code
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "none").exists()
