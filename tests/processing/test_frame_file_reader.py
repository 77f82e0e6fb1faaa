"""Several readers in one process of a file that another process is writing."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from devices.tiles import IMAGE_DATASET, TILE_GROUP
from processing.callbacks._frame_file import read_parts

FRAMES = 24
WRITER = f"""
import sys, time
import numpy as np
from devices.camera.writer import FrameFile
from devices.tiles import TILE_COLUMNS
file = FrameFile(sys.argv[1], (512, 512))
print("open", flush=True)
for index in range({FRAMES}):
    values = {{column.name: float(index) for column in TILE_COLUMNS}}
    print(file.append([(np.full((512, 512), 1000 + index, np.uint16), values)]), flush=True)
    time.sleep(0.002)
sys.stdin.read()
"""


def test_every_reader_sees_every_frame_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "frames.h5"
    wrong: list[tuple[int, int, float]] = []
    seen: list[int] = []
    root = Path(__file__).parents[2]

    def follow(counts: queue.SimpleQueue[int | None]) -> None:
        done = 0
        while (count := counts.get()) is not None:
            for index in range(done, count):
                (row,) = read_parts(path, [f"{TILE_GROUP}/row"], slice(index, index + 1))
                (frame,) = read_parts(path, [IMAGE_DATASET], index)
                seen.append(index)
                if not (frame == 1000 + index).all() or row[0] != index:
                    wrong.append((index, int(frame[0, 0]), float(row[0])))
            done = count

    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        queues: list[queue.SimpleQueue[int | None]] = [queue.SimpleQueue() for _ in range(3)]
        threads = [threading.Thread(target=follow, args=(one,)) for one in queues]
        for thread in threads:
            thread.start()
        for _ in range(FRAMES):
            count = int(writer.stdout.readline())
            for one in queues:
                one.put(count)
        for one in queues:
            one.put(None)
        for thread in threads:
            thread.join()
        writer.communicate("")
    assert len(seen) == 3 * FRAMES
    assert wrong == []


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"none\.h5"):
        read_parts(tmp_path / "none.h5", [IMAGE_DATASET], 0)
