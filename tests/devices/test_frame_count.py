"""A camera whose events never come: documents and stock plans go by what the server says when asked."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky.run_engine import RunEngine, call_in_bluesky_event_loop
from bluesky.utils import Msg
from ophyd_async.core import DetectorTrigger, TriggerInfo, init_devices
from tango.test_context import MultiDeviceTestContext

from devices.camera.device import Camera
from devices.camera.frame_count import FrameCount
from devices.camera.server import CameraServer
from devices.tiles import SEQUENCER_COLUMNS
from plans.stubs.ask import ask
from sim.config import SimulationConfig
from sim.world import World

pytestmark = pytest.mark.tango

SILENT = ("frames_written", "series_done")


class SilentCameraServer(CameraServer):
    """A camera server whose counters push no event."""

    def publish(self, **values: Any) -> None:
        """Push what is no counter."""
        super().publish(**{name: value for name, value in values.items() if name not in SILENT})


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory, engine: RunEngine) -> Iterator[Camera]:
    """Return the wrapper of a silent camera server in a process of its own."""
    folder: Path = tmp_path_factory.mktemp("silent")
    config = {
        "timing": "fast",
        "camera": {"width_px": 64, "height_px": 64},
        "specimen": {"texture_px": 512},
    }
    World.create(folder / "world", SimulationConfig.model_validate(config)).close()
    properties = {
        "driver": "sim.camera:SimulatedCamera",
        "driver_options": f'{{"world": "{folder / "world"}"}}',
        "state_file": str(folder / "counts"),
        "ring_dir": str(folder),
    }
    devices = [{"class": SilentCameraServer, "devices": [{"name": "em/camera/1", "properties": properties}]}]
    with MultiDeviceTestContext(devices, process=True, host="127.0.0.1", timeout=60) as context:
        with init_devices():
            made = Camera(context.get_device_access("em/camera/1"), folder, name="camera")
        yield made
        engine(ask(made.disconnect))


def collected(documents: list[tuple[str, Any]]) -> int:
    """Return up to which frame the documents name the images."""
    return max(int(doc["indices"]["stop"]) for name, doc in documents if name == "stream_datum")


def test_collect_names_every_frame_that_is_flushed(engine: RunEngine, camera: Camera) -> None:
    documents: list[tuple[str, Any]] = []
    named: list[int] = []

    def plan() -> Generator[Msg, Any, None]:
        info = TriggerInfo(trigger=DetectorTrigger.EXTERNAL_EDGE, number_of_events=0, livetime=0.001)
        yield from bps.prepare(camera, info, wait=True)
        yield from bpp.run_wrapper(exposures())

    def exposures() -> Generator[Msg, Any, None]:
        yield from bps.declare_stream(camera, name="tiles", collect=True)
        yield from bps.kickoff(camera, wait=True)
        for frame in range(1, 6):
            yield from bps.abs_set(camera.shutter, np.zeros(len(SEQUENCER_COLUMNS)), wait=True)
            yield from ask(lambda frame=frame: camera.wait_written(frame, 10.0))  # type: ignore[misc]
            yield from bps.collect(camera, name="tiles", return_payload=False)
            named.append(collected(documents))

    engine(bpp.stage_wrapper(plan(), [camera]), lambda name, doc: documents.append((name, doc)))
    assert named == [1, 2, 3, 4, 5]


def test_the_count_of_a_file_before_is_not_taken_for_this_one(engine: RunEngine, camera: Camera) -> None:
    """The events of an old file's counter must not end a wait for frames of a new one."""
    for _ in range(3):
        documents: list[tuple[str, Any]] = []
        engine(bp.count([camera], num=2), lambda name, doc: documents.append((name, doc)))  # noqa: B023
        assert collected(documents) == 2


def test_nothing_is_asked_of_the_server_once_the_file_is_closed(engine: RunEngine, camera: Camera) -> None:
    """A watch that outlived its file would log for ever once the camera is gone."""

    async def look() -> bool:
        count = FrameCount(camera.frames_written, camera.count_written)
        count.subscribe_reading(lambda _: None)
        (watch,) = count._watches.values()
        count.close()
        await asyncio.wait([watch], timeout=10.0)
        return watch.cancelled()

    assert call_in_bluesky_event_loop(look())
