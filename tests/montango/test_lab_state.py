from __future__ import annotations

import stat
from pathlib import Path

import pytest

from montango.config import MontangoConfig, load_config
from montango.lab.errors import LabError, LabNotRunning
from montango.lab.state import LabInfo, StateDirectory, default_state_dir, read_json, write_private

INFO = LabInfo(
    name="simulated",
    pid=4_000_000,
    started_at_s=1.5,
    config="/state/run/montango.yaml",
    config_source=None,
    tango_host="127.0.0.1:20000",
    tiled={"uri": "http://127.0.0.1:20001", "api_key": "secret"},
    epics={"EPICS_CA_ADDR_LIST": "127.0.0.1"},
    facility_prefix="MTG:",
    devices={"stage": "em/stage/1"},
    data_dir="/state/data",
    journal_dir="/state/journal",
    state_dir="/state",
    log_dir="/state/log",
    world=None,
)


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    directory = StateDirectory(tmp_path / "state")
    directory.prepare()
    return directory


def test_lab_file_round_trip(state: StateDirectory) -> None:
    state.write_lab(INFO)
    assert state.read_lab() == INFO
    assert stat.S_IMODE(state.lab_file.stat().st_mode) == 0o600
    assert INFO.environment() == {
        "TANGO_HOST": "127.0.0.1:20000",
        "EPICS_CA_ADDR_LIST": "127.0.0.1",
        "MONTANGO_STATE": "/state",
    }


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "half"}'])
def test_broken_lab_file_is_no_lab(state: StateDirectory, text: str) -> None:
    state.lab_file.write_text(text)
    with pytest.raises(LabNotRunning, match="montango up"):
        state.read_lab()


def test_private_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, '{"new": 1}')
    assert read_json(path) == {"new": 1}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_lock_excludes(state: StateDirectory) -> None:
    with state.lock(), pytest.raises(LabError, match="another command"), state.lock(timeout_s=0.05):
        pass
    with state.lock(timeout_s=0.05):
        pass


def test_api_key_stays(state: StateDirectory) -> None:
    assert state.api_key() == state.api_key()
    assert state.api_key().isalnum()


def test_where_the_state_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = load_config()
    monkeypatch.delenv("MONTANGO_STATE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state_dir(config) == tmp_path / "montango" / "simulated"
    chosen = MontangoConfig.model_validate(
        config.model_dump() | {"paths": {"state_dir": tmp_path / "chosen"}}
    )
    assert default_state_dir(chosen) == tmp_path / "chosen"
    monkeypatch.setenv("MONTANGO_STATE", str(tmp_path / "variable"))
    assert default_state_dir(chosen) == tmp_path / "variable"


def test_socket_path_fits_the_kernel(tmp_path: Path) -> None:
    short, long = StateDirectory(Path("/tmp/a")), StateDirectory(tmp_path / ("x" * 100))
    assert short.socket == Path("/tmp/a/run/supervisor.sock")
    assert len(str(long.socket)) < 100
    assert long.socket != StateDirectory(tmp_path / ("y" * 100)).socket
