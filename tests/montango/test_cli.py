from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from montango.cli.table import duration, table

HEAVY = {"tango", "numpy", "tiled", "bluesky", "ophyd", "ophyd_async", "numba", "h5py", "pandas", "psutil"}


def montango(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "montango", *arguments]
    return subprocess.run(
        words, capture_output=True, text=True, timeout=60, check=False, env=environment or None
    )


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from montango.cli.app import run; sys.argv = ['montango', 'status', '--help']; run()\n"
        "print(*sorted(name for name in sys.modules if '.' not in name), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert "--json" in result.stdout
    assert HEAVY & set(result.stderr.split()) == set()


def test_help_lists_the_commands_and_the_exit_status() -> None:
    result = montango("--help")
    assert result.returncode == 0
    for word in (
        "up",
        "down",
        "status",
        "logs",
        "restart",
        "doctor",
        "config",
        "journal",
        "bench",
        "version",
        "130",
    ):
        assert word in result.stdout


def test_wrong_usage() -> None:
    result = montango("stauts")
    assert result.returncode == 2
    assert "stauts" in result.stderr
    assert "Traceback" not in result.stderr


def test_config_show_can_be_used_as_a_configuration(tmp_path: Path) -> None:
    shown = montango("config", "show")
    assert shown.returncode == 0
    path = tmp_path / "montango.yaml"
    path.write_text(shown.stdout)
    assert yaml.safe_load(shown.stdout)["lab"]["name"] == "simulated"
    assert montango("--config", str(path), "config", "show").stdout == shown.stdout


def test_config_schema_is_json() -> None:
    assert "instruments" in json.loads(montango("config", "schema").stdout)["properties"]


def test_config_check_of_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "montango.yaml"
    path.write_text("lab:\n  nmae: a\n")
    result = montango("--config", str(path), "config", "check")
    assert result.returncode == 2
    assert result.stderr.startswith(f"montango: {path}, line 2: lab.nmae is not a key")
    assert "Traceback" not in result.stderr


def test_config_check_of_a_driver_that_is_not_there(tmp_path: Path) -> None:
    text = montango("config", "show").stdout.replace("sim.stage:SimulatedStage", "my_stage:Stage")
    path = tmp_path / "montango.yaml"
    path.write_text(text)
    result = montango("--config", str(path), "config", "check")
    assert result.returncode == 2
    assert "instruments.stage.driver = 'my_stage:Stage': No module named 'my_stage'" in result.stderr


def test_doctor_names_the_mistake_in_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "montango.yaml"
    path.write_text("lab:\n  nmae: a\n")
    result = montango("--config", str(path), "doctor")
    assert result.returncode == 1
    assert result.stdout.startswith(f"FAIL  configuration: {path}, line 2")


def test_doctor_without_a_lab(tmp_path: Path) -> None:
    result = montango("--state", str(tmp_path / "state"), "doctor")
    assert result.returncode in (0, 1)
    assert "OK    lab: none is up" in result.stdout
    assert "OK    ports: " in result.stdout
    assert not (tmp_path / "state").exists()


def test_doctor_fails_on_a_state_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    result = montango("--state", str(tmp_path / "state"), "doctor")
    assert result.returncode == 1
    assert "FAIL  state directory" in result.stdout
    assert "--state DIR" in result.stdout


def test_unknown_measurement() -> None:
    result = montango("bench", "nothing")
    assert result.returncode == 1
    assert result.stderr.startswith("montango: there is no measurement 'nothing'")


def test_version() -> None:
    result = montango("version")
    assert result.returncode == 0
    assert "pytango 10.3.1" in result.stdout


@pytest.mark.parametrize(
    ("seconds", "words"), [(7.9, "7 s"), (185, "3 min 05 s"), (7620, "2 h 07 min"), (356_400, "4 d 03 h")]
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_table_aligns() -> None:
    assert table(("NAME", "N"), [("a", 5), ("long", 10)]) == "NAME   N\na      5\nlong  10"
    assert table(("NAME",), []) == "NAME"
