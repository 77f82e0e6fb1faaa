"""What every camera driver must do: add yours to `CAMERAS`.

An entry is a function that takes a fixture request and returns a driver, not yet open, on a column with its
beam on.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from devices.camera.driver import CameraDriver, CameraSettings, Region
from devices.errors import Aborted, LimitError, OperationTimeout
from sim.camera import SimulatedCamera
from sim.replay import ReplayCamera

EXPOSURE_S = 0.02
Maker = Callable[[pytest.FixtureRequest], CameraDriver]


def simulated(request: pytest.FixtureRequest) -> CameraDriver:
    """Return the simulated camera, in real time."""
    world = request.getfixturevalue("make_world")(timing="real", readout_time_s=0.03)
    return SimulatedCamera(world.path)


def replayed(request: pytest.FixtureRequest) -> CameraDriver:
    """Return the camera that shows recorded tiles, in real time."""
    folder: Path = request.getfixturevalue("tmp_path")
    for row in (1, 2):
        Image.fromarray(np.full((48, 64), 40 * row, np.uint8)).save(folder / f"tile_{row}_1.png")
    specimen = {"kind": "replay", "folder": folder}
    make_world = request.getfixturevalue("make_world")
    return ReplayCamera(make_world(timing="real", readout_time_s=0.03, specimen=specimen).path)


CAMERAS = [pytest.param(simulated, id="simulated"), pytest.param(replayed, id="replayed")]


@pytest.fixture(params=CAMERAS)
def camera(request: pytest.FixtureRequest) -> Iterator[CameraDriver]:
    make: Maker = request.param
    driver = make(request)
    driver.open()
    driver.configure(CameraSettings(exposure_time_s=EXPOSURE_S))
    yield driver
    driver.abort()
    driver.close()


def in_thread(action: Callable[[], object]) -> tuple[threading.Thread, list[Exception]]:
    errors: list[Exception] = []

    def run() -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001  handed to the test
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def test_frame_has_shape_type_and_time(camera: CameraDriver) -> None:
    before = time.time()
    camera.expose()
    frame = camera.read(5.0)
    assert frame.data.shape == (camera.info.height_px, camera.info.width_px)
    assert frame.data.dtype == np.uint16
    assert frame.exposure_time_s == EXPOSURE_S
    assert before <= frame.exposure_start_s <= time.time() - EXPOSURE_S
    assert frame.data.max() < 2**camera.info.bit_depth


def test_exposing_takes_its_time_and_readout_follows(camera: CameraDriver) -> None:
    started = time.monotonic()
    camera.expose()
    assert time.monotonic() - started >= EXPOSURE_S
    camera.read(5.0)


@pytest.mark.parametrize("binning", [2, 4])
def test_binning_and_region(camera: CameraDriver, binning: int) -> None:
    settings = CameraSettings(EXPOSURE_S, binning, Region(8, 16, 32, 16))
    camera.configure(settings)
    camera.expose()
    assert camera.read(5.0).data.shape == settings.frame_shape(camera.info)


@pytest.mark.parametrize(
    "settings",
    [
        CameraSettings(exposure_time_s=0.0),
        CameraSettings(exposure_time_s=math.nan),
        CameraSettings(exposure_time_s=1e6),
        CameraSettings(EXPOSURE_S, binning=3),
        CameraSettings(EXPOSURE_S, region=Region(0, 0, 10**5, 16)),
        CameraSettings(EXPOSURE_S, region=Region(-1, 0, 16, 16)),
        CameraSettings(EXPOSURE_S, region=Region(0, 0, 0, 16)),
        CameraSettings(EXPOSURE_S, shutter_mode="BLINDS"),  # type: ignore[arg-type]
    ],
)
def test_impossible_settings_change_nothing(camera: CameraDriver, settings: CameraSettings) -> None:
    with pytest.raises(LimitError, match="camera"):
        camera.configure(settings)
    camera.expose()
    frame = camera.read(5.0)
    assert frame.data.shape == (camera.info.height_px, camera.info.width_px)
    assert frame.exposure_time_s == EXPOSURE_S


def test_the_next_exposure_waits_for_the_readout(camera: CameraDriver) -> None:
    camera.expose()
    thread, errors = in_thread(camera.expose)
    first = camera.read(5.0)
    thread.join(5.0)
    assert not thread.is_alive()
    assert not errors
    second = camera.read(5.0)
    assert second.exposure_start_s >= first.exposure_start_s + EXPOSURE_S


def test_without_an_exposure_reading_times_out(camera: CameraDriver) -> None:
    with pytest.raises(OperationTimeout):
        camera.read(0.01)


def test_abort_ends_a_long_exposure_at_once(camera: CameraDriver) -> None:
    camera.configure(CameraSettings(exposure_time_s=30.0))
    began = threading.Event()

    def expose() -> None:
        began.set()
        camera.expose()

    thread, errors = in_thread(expose)
    began.wait(5.0)
    while thread.is_alive():
        # whether the exposure has begun by now cannot be seen from outside
        camera.abort()
        thread.join(0.01)
    assert isinstance(errors[0], Aborted)
    camera.configure(CameraSettings(exposure_time_s=EXPOSURE_S))
    camera.expose()
    assert camera.read(5.0).exposure_time_s == EXPOSURE_S


def test_abort_drops_the_frame_that_waits(camera: CameraDriver) -> None:
    camera.expose()
    camera.abort()
    with pytest.raises((OperationTimeout, Aborted)):
        camera.read(0.01)
    camera.expose()
    camera.read(5.0)


def test_ending_an_exposure_keeps_the_frame_before(camera: CameraDriver) -> None:
    camera.expose()
    thread, errors = in_thread(camera.expose)  # it waits for the readout
    while thread.is_alive():
        camera.end_exposure()
        thread.join(0.01)
    assert isinstance(errors[0], Aborted)
    assert camera.read(5.0).exposure_time_s == EXPOSURE_S
    camera.expose()
    camera.read(5.0)


def test_temperature_is_a_number(camera: CameraDriver) -> None:
    assert -273.0 < camera.temperature_degc() < 100.0


def test_every_shutter_mode_that_it_names_can_be_set(camera: CameraDriver) -> None:
    assert camera.info.shutter_modes
    for mode in camera.info.shutter_modes:
        camera.configure(CameraSettings(EXPOSURE_S, shutter_mode=mode))
        camera.expose()
        assert camera.read(5.0).exposure_time_s == EXPOSURE_S


def test_settings_hold_for_the_frames_to_come_only(camera: CameraDriver) -> None:
    """A snap between two tiles has settings of its own, and gives the camera back its own."""
    usual, other = CameraSettings(EXPOSURE_S), CameraSettings(2 * EXPOSURE_S, binning=2)
    shapes = []
    for settings in (usual, other, usual):
        camera.configure(settings)
        camera.expose()
        frame = camera.read(5.0)
        assert frame.exposure_time_s == settings.exposure_time_s
        shapes.append(frame.data.shape)
    assert shapes[0] == shapes[2] != shapes[1]
