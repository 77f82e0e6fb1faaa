from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest

from montango.config import MontangoConfig, load_config
from montango.lab.processes import ProcessId
from montango.lab.rings import OWNER_FILE, make_ring_folder, remove_ring_folder, ring_size_bytes, sweep
from montango.lab.state import StateDirectory


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    directory = StateDirectory(tmp_path / "state")
    directory.prepare()
    return directory


def configured(ring_dir: Path) -> MontangoConfig:
    return MontangoConfig.model_validate(load_config().model_dump() | {"paths": {"ring_dir": ring_dir}})


def test_size_holds_every_slot() -> None:
    assert ring_size_bytes(load_config()) >= 8 * 2048 * 2048 * 2


def test_folder_is_made_empty_and_removed(tmp_path: Path, state: StateDirectory) -> None:
    folder = make_ring_folder(configured(tmp_path), state)
    assert folder.parent == tmp_path
    (folder / "old.ring").touch()
    assert make_ring_folder(configured(tmp_path), state) == folder
    assert [path.name for path in folder.iterdir()] == [OWNER_FILE]
    remove_ring_folder(state)
    remove_ring_folder(state)
    assert not folder.exists()


def test_folder_of_a_dead_lab_is_swept_and_no_other(tmp_path: Path, state: StateDirectory) -> None:
    folder = make_ring_folder(configured(tmp_path), state)
    (tmp_path / f"montango-{os.getuid()}-foreign").mkdir()
    assert sweep(tmp_path) == []
    alive = ProcessId.of(psutil.Process())
    state.supervisor_file.write_text(json.dumps(alive.fields()))
    assert sweep(tmp_path, abandoned_after_s=-1) == []
    state.supervisor_file.write_text(json.dumps(ProcessId(alive.pid, 1.0).fields()))
    assert sweep(tmp_path, abandoned_after_s=-1) == [folder]
    assert not folder.exists()
