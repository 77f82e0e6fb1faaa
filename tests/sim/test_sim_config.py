from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from devices.errors import ConfigurationError
from sim.config import SimulationConfig
from sim.world import World


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"timming": "fast"}, ["timming"]),
        ({"timing": "slow"}, ["timing", "real", "fast"]),
        ({"seed": -1}, ["seed", "greater than or equal to 0"]),
        ({"camera": {"bit_depth": 32}}, ["camera.bit_depth", "16"]),
        ({"column": {"magnifications": [{"magnification": 5}]}}, ["magnification", "20"]),
        ({"column": {"magnifications": [{"magnification": 50}] * 2}}, ["rise"]),
        ({"stage": {"cyclic_period_um": [0, 4]}}, ["cyclic_period_um"]),
        ({"specimen": {"kind": "image"}}, ["file"]),
        ({"specimen": {"kind": "replay"}}, ["folder"]),
        ({"faults": [{"name": "gremlin"}]}, ["faults.0", "stage_stuck"]),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        SimulationConfig.model_validate(settings)
    for word in words:
        assert word in str(caught.value)


def test_the_world_keeps_the_description(tmp_path: Path) -> None:
    config = SimulationConfig.model_validate(
        {"seed": 7, "stage": {"backlash_um": 0.5}, "faults": [{"name": "fold", "at_exposure": 3}]}
    )
    with World.create(tmp_path / "world", config) as world:
        assert world.config == config
        assert [fault.name for fault in world.faults.all()] == ["fold"]


def test_recorded_tiles_are_not_rotated_unless_it_is_said() -> None:
    assert SimulationConfig().default_rotation_deg == 1.5
    replay: dict[str, Any] = {"specimen": {"kind": "replay", "folder": "tiles"}}
    assert SimulationConfig.model_validate(replay).default_rotation_deg == 0.0
    replay["column"] = {"image_rotation_deg": 2.0}
    assert SimulationConfig.model_validate(replay).default_rotation_deg == 2.0


@pytest.mark.parametrize("name", ["missing.png", "notes.docx", "broken.tif", "broken.mrc", "tiny.png"])
def test_a_specimen_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "tiny.png":
        from PIL import Image

        Image.new("L", (4, 4)).save(path)
    elif name != "missing.png":
        path.write_bytes(b"no image at all")
    config = SimulationConfig.model_validate({"specimen": {"kind": "image", "file": path}})
    with pytest.raises(ConfigurationError, match=name) as caught:
        World.create(tmp_path / "world", config)
    if name != "tiny.png":
        assert "MRC" in str(caught.value)


def test_a_folder_without_tiles_is_named(tmp_path: Path) -> None:
    (tmp_path / "tile.png").write_bytes(b"")
    config = SimulationConfig.model_validate({"specimen": {"kind": "replay", "folder": tmp_path}})
    with pytest.raises(ConfigurationError, match="_ROW_COL"):
        World.create(tmp_path / "world", config)


def test_stage_and_column_start_without_numba() -> None:
    script = (
        "import sys, sim.stage, sim.column, sim.camera; "
        "print([name for name in ('numba', 'cv2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
