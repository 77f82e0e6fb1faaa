from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
from PIL import Image

from devices.camera.driver import CameraSettings
from devices.errors import ConfigurationError
from sim.camera import SimulatedCamera
from sim.column import SimulatedColumn
from sim.replay import ReplayCamera
from sim.specimen.sources import find_tiles, read_image
from sim.stage import SimulatedStage
from sim.world import World

Make = Callable[..., World]


def test_every_recorded_tile_comes_at_its_place(make_world: Make, test_data: Path) -> None:
    folder = test_data / "mussel" / "sample_2"
    world = make_world(specimen={"kind": "replay", "folder": folder})
    stage, camera = SimulatedStage(world.path), ReplayCamera(world.path)
    camera.open()
    assert (camera.info.width_px, camera.info.height_px, camera.info.bit_depth) == (2048, 1768, 8)
    for row in (1, 2, 3):
        for column in (1, 2, 3):
            stage.start_move({"x_um": (column - 2) * 0.9 * 8.192, "y_um": (row - 2) * 0.9 * 7.072})
            camera.expose()
            frame = camera.read(5.0).data
            assert (frame == np.asarray(Image.open(folder / f"2_{row}_{column}.png"))).all()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for column in (1, 2):
        tifffile.imwrite(tmp_path / f"a_1_{column}.tif", np.full((32, 48), 1000 * column, np.uint16))
    return tmp_path


def test_a_simulated_camera_replays_too(make_world: Make, folder: Path) -> None:
    world = make_world(specimen={"kind": "replay", "folder": folder})
    stage, camera = SimulatedStage(world.path), SimulatedCamera(world.path)
    camera.open()
    for x_um, counts in ((-5.0, 1000), (5.0, 2000), (500.0, 2000)):
        stage.start_move({"x_um": x_um})
        camera.expose()
        assert (camera.read(5.0).data == counts).all()
    camera.configure(CameraSettings(binning=2))
    camera.expose()
    assert camera.read(5.0).data.shape == (16, 24)


def test_blanked_beam_and_faults_act_on_recorded_tiles(make_world: Make, folder: Path) -> None:
    faults = [{"name": "debris", "at_exposure": 1}, {"name": "corrupted_frame", "at_exposure": 2}]
    world = make_world(specimen={"kind": "replay", "folder": folder}, faults=faults)
    camera = ReplayCamera(world.path)
    camera.open()
    means = []
    for blanked in (False, False, False, True):
        SimulatedColumn(world.path).set("beam_blanked", blanked)
        camera.expose()
        means.append(camera.read(5.0).data.mean())
    assert means[0] in (1000, 2000)
    assert means[1] < 0.95 * means[0]
    assert means[2] != means[0]
    assert means[3] < 10


def test_tiles_of_two_sizes_are_named(make_world: Make, folder: Path) -> None:
    tifffile.imwrite(folder / "a_1_3.tif", np.zeros((16, 16), np.uint16))
    world = make_world(specimen={"kind": "replay", "folder": folder})
    stage, camera = SimulatedStage(world.path), ReplayCamera(world.path)
    camera.open()
    stage.start_move({"x_um": 10.0})
    camera.expose()
    with pytest.raises(ConfigurationError, match=r"a_1_3\.tif is 16 x 16"):
        camera.read(5.0)


def test_a_replay_camera_needs_tiles(make_world: Make) -> None:
    with pytest.raises(ConfigurationError, match="replay"):
        ReplayCamera(make_world().path)


def test_every_format_is_read(tmp_path: Path) -> None:
    pixels = np.arange(32 * 24, dtype=np.uint16).reshape(32, 24) % 250
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.repeat(pixels.astype(np.uint8)[..., None], 3, axis=2)).save(tmp_path / "colour.png")
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a.jpg", quality=100)
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([pixels, pixels + 1]))
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(pixels)
    for path in sorted(tmp_path.iterdir()):
        assert np.abs(read_image(path).astype(float) - pixels).mean() < 3.0, path.name


def test_names_of_tiles(tmp_path: Path) -> None:
    for name in ("2_1_10.png", "x_02_3.TIF", "7_8.jpg", "notes_1_2.txt", "map.png"):
        (tmp_path / name).touch()
    assert {cell: path.name for cell, path in find_tiles(tmp_path).items()} == {
        (1, 10): "2_1_10.png",
        (2, 3): "x_02_3.TIF",
        (7, 8): "7_8.jpg",
    }
