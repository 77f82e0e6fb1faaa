"""A camera whose events never come: documents and stock plans go by what the server says when asked."""

from __future__ import annotations

import asyncio
import subprocess
import sys
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

from devices.camera.device import Camera
from devices.camera.frame_count import FrameCount
from devices.tiles import SEQUENCER_COLUMNS
from plans.stubs.ask import ask

pytestmark = pytest.mark.tango


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory, engine: RunEngine) -> Iterator[Camera]:
    """Return the wrapper of a silent camera server in a process of its own."""
    folder: Path = tmp_path_factory.mktemp("silent")
    command = [sys.executable, "-m", "tests.devices.silent_camera", str(folder)]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        address = next(line.split()[1] for line in server.stdout if line.startswith("READY "))
        with init_devices(timeout=60.0):
            made = Camera(address, folder, name="camera")
        yield made
        engine(ask(made.disconnect))
        server.stdin.close()
        server.stdout.read()


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
            yield from ask(lambda frame=frame: camera.wait_written(frame, 120.0))  # type: ignore[misc]
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
        await asyncio.wait([watch], timeout=120.0)
        return watch.cancelled()

    assert call_in_bluesky_event_loop(look())
