"""The frames' file: complete batches or nothing, readable while it grows and after its writer died."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from devices.camera.writer import FrameFile
from devices.errors import ConfigurationError, InstrumentFault
from devices.tiles import IMAGE_DATASET, TILE_COLUMNS, TILE_GROUP

SHAPE = (64, 64)


def tile(index: int) -> tuple[np.ndarray, dict[str, float]]:
    values = {column.name: index + position / 100 for position, column in enumerate(TILE_COLUMNS)}
    return np.full(SHAPE, index, np.uint16), values


def test_frames_and_columns_come_back(tmp_path: Path) -> None:
    file = FrameFile(tmp_path / "run.h5", SHAPE)
    assert file.append([tile(0)]) == 1
    assert file.append([tile(index) for index in range(1, 9)]) == 9
    assert file.append([]) == 9
    assert file.frames_written == 9
    file.close()
    file.close()
    with h5py.File(tmp_path / "run.h5") as saved:
        data = saved[IMAGE_DATASET]
        assert data.shape == (9, *SHAPE)
        assert data.chunks == (1, *SHAPE)
        assert data.dtype == np.dtype("<u2")
        np.testing.assert_array_equal(data[:, 3, 5], np.arange(9))
        for position, column in enumerate(TILE_COLUMNS):
            dataset = saved[f"{TILE_GROUP}/{column.name}"]
            np.testing.assert_allclose(dataset[:], np.arange(9) + position / 100)
            assert dataset.attrs["units"] == column.unit


def test_a_reader_sees_each_batch_while_the_file_is_written(tmp_path: Path) -> None:
    file = FrameFile(tmp_path / "run.h5", SHAPE)
    with h5py.File(tmp_path / "run.h5", "r", libver="latest", swmr=True) as live:
        data, x_um = live[IMAGE_DATASET], live[f"{TILE_GROUP}/x_um"]
        assert data.shape[0] == 0
        for end in (1, 4):
            file.append([tile(index) for index in range(file.frames_written, end)])
            data.refresh()
            x_um.refresh()
            assert (data.shape[0], x_um.shape[0]) == (end, end)
            assert data[end - 1, 0, 0] == end - 1
    file.close()


def test_many_frames_cross_the_columns_chunks(tmp_path: Path) -> None:
    file = FrameFile(tmp_path / "run.h5", (2, 2))
    for start in range(0, 1200, 100):
        file.append([(np.full((2, 2), i, np.uint16), tile(i)[1]) for i in range(start, start + 100)])
    file.close()
    with h5py.File(tmp_path / "run.h5") as saved:
        np.testing.assert_array_equal(saved[IMAGE_DATASET][:, 1, 1], np.arange(1200))
        np.testing.assert_array_equal(saved[f"{TILE_GROUP}/raster_index"][:], np.arange(1200))


def test_strided_frames_are_written_as_they_look(tmp_path: Path) -> None:
    whole = np.arange(64 * 128, dtype=np.uint16).reshape(64, 128)
    file = FrameFile(tmp_path / "run.h5", SHAPE)
    file.append([(whole[:, ::2], tile(0)[1])])
    file.close()
    with h5py.File(tmp_path / "run.h5") as saved:
        np.testing.assert_array_equal(saved[IMAGE_DATASET][0], whole[:, ::2])


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    path.write_bytes(b"precious")
    with pytest.raises(ConfigurationError, match=r"run\.h5 exists already"):
        FrameFile(path, SHAPE)
    assert path.read_bytes() == b"precious"


def test_no_folder_is_a_clear_fault(tmp_path: Path) -> None:
    with pytest.raises(InstrumentFault, match="cannot be made"):
        FrameFile(tmp_path / "none" / "run.h5", SHAPE)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ((np.zeros((64, 63), np.uint16), tile(0)[1]), r"\(64, 63\)"),
        ((np.zeros(SHAPE, np.float32), tile(0)[1]), "float32"),
        ((tile(0)[0], {"x_um": 1.0}), "columns missing"),
        ((tile(0)[0], tile(0)[1] | {"colour": 1.0}), r"unknown \['colour'\]"),
    ],
)
def test_a_wrong_frame_spoils_no_batch(
    tmp_path: Path, bad: tuple[np.ndarray, dict[str, float]], message: str
) -> None:
    file = FrameFile(tmp_path / "run.h5", SHAPE)
    file.append([tile(0)])
    with pytest.raises(InstrumentFault, match=message):
        file.append([tile(1), bad])
    file.append([tile(1)])  # the file still takes good ones
    file.close()
    with h5py.File(tmp_path / "run.h5") as saved:
        assert saved[IMAGE_DATASET].shape[0] == 2
        assert saved[f"{TILE_GROUP}/x_um"].shape[0] == 2


WRITER = """
import sys
import numpy as np
from devices.camera.writer import FrameFile
from devices.tiles import TILE_COLUMNS
file = FrameFile(sys.argv[1], (64, 64))
index = 0
while True:
    batch = range(index, index + 3)
    values = {column.name: 0.0 for column in TILE_COLUMNS}
    file.append([(np.full((64, 64), i, np.uint16), values | {"x_um": float(i)}) for i in batch])
    index += 3
    print(file.frames_written, flush=True)
"""


@pytest.mark.parametrize("batches", [1, 2, 400])
def test_a_killed_writer_leaves_every_flushed_frame_readable(tmp_path: Path, batches: int) -> None:
    path = tmp_path / "run.h5"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        flushed = 0
        for _ in range(batches):
            flushed = int(process.stdout.readline())
        process.kill()  # while it writes on
    with h5py.File(path, "r", libver="latest", swmr=True) as saved:
        data, x_um = saved[IMAGE_DATASET], saved[f"{TILE_GROUP}/x_um"]
        assert data.shape[0] >= flushed
        assert x_um.shape[0] >= flushed
        np.testing.assert_array_equal(data[:flushed, 10, 10], np.arange(flushed))
        np.testing.assert_array_equal(x_um[:flushed], np.arange(flushed))


FILL = """
import sys
import numpy as np
from devices.camera.writer import FrameFile
from devices.errors import InstrumentFault
from devices.tiles import TILE_COLUMNS
if sys.argv[2] == "late":  # the disk fills between the check and the write, as with a second writer
    FrameFile._require_space = lambda self, size: None
file = FrameFile(sys.argv[1], (256, 256))
values = {column.name: 1.0 for column in TILE_COLUMNS}
try:
    while True:
        file.append([(np.full((256, 256), file.frames_written, np.uint16), values)])
except InstrumentFault as fault:
    print(file.frames_written, fault, flush=True)
try:
    file.append([(np.zeros((256, 256), np.uint16), values)])
except InstrumentFault as fault:
    print("refused", flush=True)
try:
    file.close()
except InstrumentFault:
    pass
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_full_disk_is_said_and_what_was_flushed_stays_readable(tmp_path: Path, when: str) -> None:
    script = tmp_path / "fill.py"
    script.write_text(FILL)
    disk = tmp_path / "disk"
    disk.mkdir()
    program = f'''mount -t tmpfs -o size=8m none "{disk}" || exit 77
        "{sys.executable}" "{script}" "{disk}/run.h5" {when}
        cp "{disk}/run.h5" "{tmp_path}/run.h5"'''
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(Path.cwd()), "PATH": "/usr/bin:/bin"},
    )
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"no private tmpfs on this machine: {done.stderr.strip()}")
    first, second = done.stdout.splitlines()
    assert "disk full" in first
    assert f"{disk}/run.h5" in first
    assert second == "refused"
    flushed = int(first.split()[0])
    assert flushed > 40
    with h5py.File(tmp_path / "run.h5", "r", libver="latest", swmr=True) as saved:
        np.testing.assert_array_equal(saved[IMAGE_DATASET][:flushed, 0, 0], np.arange(flushed))
