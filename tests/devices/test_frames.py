"""The frame ring: one writer, any number of readers, a missed frame is always named."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices.errors import ConfigurationError, InstrumentFault
from devices.frames import FrameMissed, FrameRing, FrameRingReader

SHAPE = (48, 64)


def frame(value: int) -> np.ndarray:
    return np.full(SHAPE, value, np.uint16)


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[FrameRing]:
    ring = FrameRing.create(tmp_path / "ring", 4, SHAPE)
    yield ring
    ring.unlink()


@pytest.fixture
def reader(ring: FrameRing) -> Iterator[FrameRingReader]:
    reader = FrameRingReader(ring.path)
    yield reader
    reader.close()


def test_a_frame_comes_out_as_it_went_in(ring: FrameRing, reader: FrameRingReader) -> None:
    data = np.random.default_rng(1).integers(0, 65536, SHAPE, dtype=np.uint16)
    ring.put(data, epoch=3, index=17)
    copy = reader.get(3, 17)
    np.testing.assert_array_equal(copy, data)
    ring.put(frame(0), epoch=3, index=21)
    np.testing.assert_array_equal(copy, data)  # what a reader got is its own


def test_memory_is_used_again_once_nobody_refers_to_a_frame(ring: FrameRing, reader: FrameRingReader) -> None:
    places, held = [], list[Any]()
    for k in range(4):
        ring.put(frame(100 + k), 1, k)
        got = reader.get(1, k)
        places.append(got.ctypes.data)
        if k == 1:
            held = [got[2:5], memoryview(got)]  # type: ignore[arg-type]  # a part, or a buffer of it, keeps it
        del got
    assert places[0] == places[1] != places[2] == places[3]
    np.testing.assert_array_equal(held[0], frame(101)[2:5])
    np.testing.assert_array_equal(np.asarray(held[1]), frame(101))


def test_a_slow_reader_is_told_which_frame_it_missed(ring: FrameRing, reader: FrameRingReader) -> None:
    for index in range(6):
        ring.put(frame(index), 1, index)
    for index in (2, 3, 4, 5):
        assert reader.get(1, index)[0, 0] == index
    with pytest.raises(FrameMissed, match=r"frame 1 of epoch 1 .*overwritten by frame 5") as caught:
        reader.get(1, 1)
    assert (caught.value.epoch, caught.value.index) == (1, 1)


def test_a_frame_that_is_still_to_come_is_missed_too(ring: FrameRing, reader: FrameRingReader) -> None:
    with pytest.raises(FrameMissed, match="not there yet"):
        reader.get(1, 0)
    ring.put(frame(7), 1, 0)
    with pytest.raises(FrameMissed, match="not there yet"):
        reader.get(1, 4)
    with pytest.raises(FrameMissed, match="not there yet"):
        reader.get(2, 0)


def test_frames_of_a_closed_file_are_not_taken_for_those_of_the_next(
    ring: FrameRing, reader: FrameRingReader
) -> None:
    ring.put(frame(1), 1, 0)
    ring.put(frame(2), 2, 0)
    assert reader.get(2, 0)[0, 0] == 2
    with pytest.raises(FrameMissed, match="overwritten by frame 0 of epoch 2"):
        reader.get(1, 0)


def test_a_damaged_frame_is_refused_by_its_checksum(ring: FrameRing, reader: FrameRingReader) -> None:
    ring.put(frame(5), 1, 1)
    content = bytearray(ring.path.read_bytes())
    position = content.rindex(np.uint16(5).tobytes())
    with ring.path.open("r+b") as file:
        file.seek(position)
        file.write(b"\xff")
    with pytest.raises(FrameMissed, match="checksum"):
        reader.get(1, 1)
    assert reader.get(1, 1, verify=False)[0, 0] == 5


def test_a_half_written_frame_is_not_read(ring: FrameRing, reader: FrameRingReader) -> None:
    ring.put(frame(5), 1, 0)
    with ring.path.open("r+b") as file:  # what a writer killed in the middle leaves: an odd sequence
        file.seek(4096)
        file.write((3).to_bytes(8, "little"))
    with pytest.raises(FrameMissed, match="being written"):
        reader.get(1, 0)
    ring.put(frame(6), 1, 0)
    assert reader.get(1, 0)[0, 0] == 6


def test_a_reader_follows_a_camera_that_was_restarted(ring: FrameRing, reader: FrameRingReader) -> None:
    ring.put(frame(1), 1, 0)
    assert reader.get(1, 0)[0, 0] == 1
    again = FrameRing.create(ring.path, 3, (8, 8))
    try:
        with pytest.raises(FrameMissed):
            reader.get(1, 0)
        again.put(np.full((8, 8), 9, np.uint16), 2, 0)
        assert reader.get(2, 0).shape == (8, 8)
    finally:
        again.unlink()
    assert reader.get(2, 0)[0, 0] == 9  # the camera ended in order: the last frames stay readable


def test_no_ring_is_a_missed_frame_and_another_file_an_error(tmp_path: Path) -> None:
    with pytest.raises(FrameMissed, match="there is no ring"):
        FrameRingReader(tmp_path / "none").get(1, 0)
    (tmp_path / "text").write_bytes(b"x" * 8192)
    with pytest.raises(ConfigurationError, match="not a ring"):
        FrameRingReader(tmp_path / "text").get(1, 0)
    (tmp_path / "short").write_bytes(b"x")
    with pytest.raises(ConfigurationError, match="too short"):
        FrameRingReader(tmp_path / "short").get(1, 0)


def test_wrong_frames_and_sizes_are_refused(ring: FrameRing, tmp_path: Path) -> None:
    with pytest.raises(InstrumentFault, match=r"\(4, 4\)"):
        ring.put(np.zeros((4, 4), np.uint16), 1, 0)
    with pytest.raises(InstrumentFault, match="uint8"):
        ring.put(np.zeros(SHAPE, np.uint8), 1, 0)
    with pytest.raises(ConfigurationError, match="at least 2 slots"):
        FrameRing.create(tmp_path / "one", 1, SHAPE)
    ring.close()
    ring.close()
    with pytest.raises(InstrumentFault, match="closed"):
        ring.put(frame(0), 1, 0)


def test_a_ring_that_does_not_fit_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises((InstrumentFault, OSError)):
        FrameRing.create(tmp_path / "huge", 1 << 20, (1 << 15, 1 << 15))
    assert list(tmp_path.iterdir()) == []


def test_other_pixel_types(tmp_path: Path) -> None:
    ring = FrameRing.create(tmp_path / "float", 2, (4, 5), np.float32)
    ring.put(np.full((4, 5), 0.5, np.float32), 1, 0)
    reader = FrameRingReader(ring.path)
    assert reader.get(1, 0).dtype == np.float32
    reader.close()
    ring.unlink()


def test_a_reader_beside_a_fast_writer_never_sees_a_torn_frame(
    ring: FrameRing, reader: FrameRingReader
) -> None:
    stop = threading.Event()

    def write() -> None:
        index = 0
        while not stop.is_set():
            ring.put(frame(index % 60000), 1, index)
            index += 1

    writer = threading.Thread(target=write)
    writer.start()
    seen = missed = index = 0
    try:
        while seen < 300 and missed < 200_000:
            try:
                data = reader.get(1, index, verify=False)
            except FrameMissed as error:
                missed += 1
                if "overwritten" in str(error):
                    index += 4
                continue
            assert (data == index % 60000).all()
            seen += 1
            index += 1
    finally:
        stop.set()
        writer.join()
    assert seen


WRITER = """
import sys
import numpy as np
from devices.frames import FrameRing
ring = FrameRing.create(sys.argv[1], 4, (48, 64))
for index in range(3):
    ring.put(np.full((48, 64), 100 + index, np.uint16), 1, index)
print("ready", flush=True)
sys.stdin.read()
"""


def test_frames_of_a_killed_camera_server_stay_readable(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "ring")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
    reader = FrameRingReader(tmp_path / "ring")
    assert [int(reader.get(1, index)[0, 0]) for index in range(3)] == [100, 101, 102]
    reader.close()
