"""The commands of a newcomer and a scientist, run as they run them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
from PIL import Image

from montango.lab import Lab
from processing.mosaic.pyramid import PyramidStore

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


def montango(state: Path, *arguments: str, timeout_s: float = 400) -> subprocess.CompletedProcess[str]:
    """Run a command line and return what it printed."""
    command = [sys.executable, "-m", "montango", "--state", str(state), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def belonging_to(state: Path) -> list[str]:
    """Return the command lines of processes that name a state directory, in arguments or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(state) in " ".join([*process.cmdline(), *process.environ().values()]):
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def reported(text: str, name: str) -> str:
    """Return what a line of the report says."""
    match = re.search(rf"^{name}\s+(.*)$", text, re.MULTILINE)
    assert match, text
    return match[1]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the state directory of the demonstrations: each finds that of the one before."""
    return tmp_path_factory.mktemp("demonstrations") / "demo"


def demonstrated(state: Path, *options: str) -> str:
    """Run a demonstration to its end and return its report."""
    done = montango(state, "demo", "--fast", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "(success)" in reported(done.stdout, "run")
    assert "everything is stopped" in done.stdout
    assert not belonging_to(state)
    return done.stdout


def test_demo_acquires_again_the_tile_that_it_spoiled(state: Path) -> None:
    report = demonstrated(state, "--rows", "4", "--columns", "4", "--pixels", "512")
    assert reported(report, "tiles").startswith("16 in 17 frames")
    assert "attempt 1: blurred" in reported(report, "again")
    with h5py.File(reported(report, "file"), "r", libver="latest", swmr=True) as file:
        assert file["/entry/data"].shape == (17, 512, 512)
    overview = np.asarray(Image.open(reported(report, "overview")))
    assert min(overview.shape) > 1000
    assert overview.std() > 20
    with PyramidStore.open(reported(report, "mosaic")) as mosaic:
        assert mosaic.metadata["complete"] is True
        assert mosaic.metadata["tiles_matched"] == 16


@pytest.mark.slow
def test_demo_on_a_real_micrograph(state: Path, test_data: Path) -> None:
    report = demonstrated(state, "--specimen", str(test_data / "specimen" / "mussel2_mosaic_u8.jpg"))
    assert reported(report, "tiles").startswith("25 in 26 frames")
    assert "row 2 column 3, attempt 1: blurred" in reported(report, "again")


@pytest.mark.slow
def test_demo_replays_recorded_tiles_unchanged(state: Path, test_data: Path) -> None:
    folder = test_data / "mussel" / "sample_2"
    report = demonstrated(state, "--replay", str(folder))
    assert reported(report, "tiles").startswith("9 in 9 frames")
    with h5py.File(reported(report, "file"), "r", libver="latest", swmr=True) as file:
        table = {name: file["/entry/tiles"][name][:].astype(int) for name in ("row", "column")}
        for index, (row, column) in enumerate(zip(table["row"], table["column"], strict=True)):
            recorded = np.asarray(Image.open(folder / f"2_{row + 1}_{column + 1}.png").convert("L"))
            assert (file["/entry/data"][index] == recorded).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--specimen", "no_such.png"), ["no_such.png", "PNG"]),
        (("--replay", "."), ["_ROW_COL"]),
        (("--overlap", "1.2"), ["overlap", "1.2", "0.8"]),
        (("--specimen", "a.png", "--replay", "b"), ["exclude"]),
    ],
)
def test_wrong_demo_says_so_and_starts_nothing(
    tmp_path: Path, arguments: tuple[str, ...], words: list[str]
) -> None:
    state = tmp_path / "demo"
    done = montango(state, "demo", *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr
    assert not belonging_to(state)


@pytest.mark.parametrize("moment", ["tangodb is ready", "acquiring"])
def test_interrupted_demo_leaves_no_process(tmp_path: Path, moment: str) -> None:
    state = tmp_path / "demo"
    command = [sys.executable, "-m", "montango", "--state", str(state), "demo", "--pixels", "256"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if moment in line:
                break
        demo.send_signal(signal.SIGINT)
        rest = demo.stdout.read()
        assert demo.wait(120) == 130
    assert "everything is stopped" not in rest  # the montage did not run to its end first
    assert not belonging_to(state)


def test_killed_demo_leaves_no_process(tmp_path: Path) -> None:
    state = tmp_path / "demo"
    command = [sys.executable, "-m", "montango", "--state", str(state), "demo", "--pixels", "256"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "acquiring" in line:
                break
        os.kill(demo.pid, signal.SIGKILL)
        demo.wait(120)
    deadline = time.monotonic() + 120
    while belonging_to(state):
        assert time.monotonic() < deadline, belonging_to(state)


def test_shell_runs_a_montage(lab: Lab) -> None:
    code = (
        "RE(montage(sequencer, camera, column, stage, MontageSpec(rows=2, columns=2, settle_s=0), "
        "{'sample': 'from the shell'})); get_ipython().run_line_magic('mov', 'stage.x 4'); "
        "get_ipython().run_line_magic('wa', ''); session.drain(180); print(len(catalog) > 0)"
    )
    done = montango(lab.state.root, "shell", "-c", code)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert "Traceback" not in text
    assert re.search(r"stage x_um\s+[34]\.\d+\s+-990 to 990 um", text)
    assert text.rstrip().endswith("True")
