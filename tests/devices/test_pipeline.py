"""Frames on their way from the camera to the disk."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from devices.camera import pipeline
from devices.camera.driver import CameraInfo, CameraSettings, Frame
from devices.camera.ending import end_exposures
from devices.camera.pipeline import FramePipeline
from devices.camera.writer import FrameFile
from devices.errors import Aborted, InstrumentFault, OperationTimeout
from devices.frames import FrameRing
from devices.tiles import CAMERA_COLUMNS, SEQUENCER_COLUMNS

SHAPE = (16, 24)
VALUES = dict.fromkeys((column.name for column in SEQUENCER_COLUMNS), 0.0) | {"exposure_count": 1.0}


class ScriptedCamera:
    """A camera whose frames the test hands out; an exception in their place is raised."""

    info = CameraInfo("scripted", SHAPE[1], SHAPE[0], 16, 15.0, (0.0, 10.0))

    def __init__(self) -> None:
        self.frames: queue.SimpleQueue[Frame | Exception] = queue.SimpleQueue()
        self.ended: list[str] = []

    def open(self) -> None: ...

    def close(self) -> None: ...

    def configure(self, settings: CameraSettings) -> None: ...

    def temperature_degc(self) -> float:
        return -20.0

    def expose(self) -> None: ...

    def end_exposure(self) -> None:
        self.ended.append("exposure")

    def abort(self) -> None:
        self.ended.append("all")

    def read(self, timeout_s: float) -> Frame:
        item = self.frames.get(timeout=timeout_s)
        if isinstance(item, Exception):
            raise item
        return item


class Bench:
    """A pipeline with its threads, over a scripted camera, into real files."""

    def __init__(self, folder: Path, depth: int = 4) -> None:
        self.camera = ScriptedCamera()
        self.errors: list[Exception] = []
        self.written: list[int] = []
        self.path = folder / "frames.h5"
        self.pipeline = FramePipeline(
            self.camera,
            depth=depth,
            readout_timeout_s=0.5,
            on_written=self.written.append,
            on_frame=lambda data: None,
            on_error=self.errors.append,
        )
        self.ring = FrameRing.create(folder / "frames.ring", 4, SHAPE)
        self.threads = [
            threading.Thread(target=body) for body in (self.pipeline.read_frames, self.pipeline.write_frames)
        ]
        for thread in self.threads:
            thread.start()
        self.pipeline.open_file(FrameFile(self.path, SHAPE), self.ring, 1)

    def expose(self, item: int | Exception) -> int:
        """Make an exposure whose frame holds a number, or fails."""
        self.pipeline.reserve()
        frame = item if isinstance(item, Exception) else self.frame(item)
        self.camera.frames.put(frame)
        return self.pipeline.exposed(VALUES)

    @staticmethod
    def frame(number: int) -> Frame:
        """Return a frame of one number."""
        return Frame(np.full(SHAPE, number, np.uint16), time.time(), 0.1)

    def close(self) -> None:
        """End the threads."""
        self.pipeline.stop()
        for thread in self.threads:
            thread.join(5)
            assert not thread.is_alive()
        self.ring.unlink()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def test_frames_arrive_in_order_with_their_numbers(bench: Bench) -> None:
    assert [bench.expose(number) for number in range(40)] == list(range(40))
    assert bench.pipeline.wait_written(40, 5.0) == 40
    assert bench.pipeline.close_file(5.0) == 40
    assert bench.written == sorted(bench.written)
    with h5py.File(bench.path) as file:
        assert file["/entry/data"][:, 0, 0].tolist() == list(range(40))
        assert {column.name for column in CAMERA_COLUMNS} <= set(file["/entry/tiles"])
        assert (file["/entry/tiles/exposure_time_s"][:] == 0.1).all()


def test_fast_frames_share_a_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "LINGER_S", 30.0)
    bench = Bench(tmp_path, depth=8)
    try:
        for number in range(16):  # the last of them are let in when the first 8 are flushed
            bench.expose(number)
        assert bench.pipeline.wait_written(16, 5.0) == 16
    finally:
        bench.close()
    assert bench.written[:2] == [4, 8]  # half the depth at a time, so that exposing goes on meanwhile


def test_a_frame_that_somebody_waits_for_is_not_kept_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "LINGER_S", 30.0)
    bench.pipeline.reserve()
    index = bench.pipeline.exposed(VALUES)
    with pytest.raises(OperationTimeout):
        bench.pipeline.wait_written(index + 1, 0.0)
    bench.camera.frames.put(bench.frame(1))
    assert bench.pipeline.wait_written(index + 1, 5.0) == 1


@pytest.mark.parametrize("error", [OperationTimeout("late"), OSError(28, "full"), ZeroDivisionError("a bug")])
def test_a_failing_frame_is_raised_at_the_next_call_and_keeps_those_before(
    bench: Bench, error: Exception
) -> None:
    bench.expose(1)
    bench.pipeline.wait_written(1, 5.0)
    bench.expose(error)
    with pytest.raises((OperationTimeout, InstrumentFault)):
        bench.pipeline.wait_written(2, 5.0)
    with pytest.raises((OperationTimeout, InstrumentFault)):
        bench.pipeline.reserve()
    assert bench.errors == [error]
    with pytest.raises((OperationTimeout, InstrumentFault)):
        bench.pipeline.close_file(1.0)
    with h5py.File(bench.path) as file:
        assert len(file["/entry/data"]) == 1


def test_exposures_wait_when_the_disk_does_not_follow(bench: Bench) -> None:
    for _ in range(4):
        bench.pipeline.reserve()
    with pytest.raises(OperationTimeout, match="frames wait to be written"):
        bench.pipeline.reserve()
    bench.pipeline.release()
    bench.pipeline.reserve()


def test_clear_drops_what_waits_and_goes_on(bench: Bench) -> None:
    bench.expose(1)
    bench.pipeline.wait_written(1, 5.0)
    bench.pipeline.reserve()
    bench.pipeline.clear()
    assert bench.pipeline.in_flight == 0
    assert bench.expose(2) == 1
    bench.pipeline.wait_written(2, 5.0)
    assert bench.pipeline.close_file(5.0) == 2


def test_frames_exposed_before_the_one_that_never_comes_are_written(bench: Bench) -> None:
    for _ in range(4):
        bench.pipeline.reserve()
        bench.pipeline.exposed(VALUES)
    for frame in (bench.frame(1), bench.frame(2), OperationTimeout("hangs"), bench.frame(4)):
        bench.camera.frames.put(frame)
    assert bench.pipeline.drain(5.0) == 2
    assert bench.camera.ended == ["all"]  # the exposure that waits behind it
    with pytest.raises(OperationTimeout, match="hangs"):
        bench.pipeline.raise_failure()
    bench.pipeline.clear()
    assert (bench.pipeline.written, bench.pipeline.given_up) == (2, 2)
    assert bench.expose(5) == 2
    assert bench.pipeline.close_file(5.0) == 3
    with h5py.File(bench.path) as file:
        assert file["/entry/data"][:, 0, 0].tolist() == [1, 2, 5]


def test_ending_exposures_keeps_what_was_exposed_and_refuses_what_waits(bench: Bench) -> None:
    bench.expose(1)
    bench.pipeline.end()
    with pytest.raises(Aborted, match="exposures were ended"):
        bench.pipeline.reserve()
    assert end_exposures(bench.camera, bench.pipeline, threading.Lock(), 5.0) == 0
    assert bench.camera.ended == ["exposure", "all"]
    assert bench.expose(2) == 1
    assert bench.pipeline.close_file(5.0) == 2


def test_frames_that_do_not_come_in_time_are_given_up_and_counted(bench: Bench) -> None:
    bench.expose(1)
    bench.pipeline.reserve()
    bench.pipeline.exposed(VALUES)
    exposing = threading.Lock()
    assert end_exposures(bench.camera, bench.pipeline, exposing, 0.1) == 1
    assert (bench.pipeline.written, bench.pipeline.given_up) == (1, 1)
    assert exposing.acquire(blocking=False)
    bench.camera.frames.put(bench.frame(2))  # it comes too late


def test_without_a_file_an_exposure_is_refused(bench: Bench) -> None:
    bench.pipeline.close_file(5.0)
    with pytest.raises(InstrumentFault, match="no file is open"):
        bench.pipeline.reserve()
