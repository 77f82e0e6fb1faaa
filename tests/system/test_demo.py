"""The commands of a newcomer and a scientist, run as they run them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import psutil
import pytest
import tango
from PIL import Image

from montango.config import dump_config
from montango.demo import DemoOptions, plan_demo
from montango.lab import Lab
from processing.mosaic.pyramid import PyramidStore

if TYPE_CHECKING:
    from tests.conftest import ConfigFactory

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


def montango(
    state: Path, *arguments: str, typed: str | None = None, timeout_s: float = 400
) -> subprocess.CompletedProcess[str]:
    """Run a command line and return what it printed; ``typed`` is what it reads from the keyboard."""
    command = [sys.executable, "-m", "montango", "--state", str(state), *arguments]
    return subprocess.run(
        command, input=typed, capture_output=True, text=True, timeout=timeout_s, check=False
    )


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


def test_demo_acquires_again_the_tile_that_it_spoiled(state: Path, micrograph: Path | None) -> None:
    specimen = [] if micrograph is None else ["--specimen", str(micrograph)]
    report = demonstrated(state, *specimen, "--rows", "4", "--columns", "4", "--pixels", "512")
    assert reported(report, "tiles").startswith("16 in 17 frames")
    assert "row 3 column 2, attempt 1: blurred" in reported(report, "again")
    with h5py.File(reported(report, "file"), "r", libver="latest", swmr=True) as file:
        assert file["/entry/data"].shape == (17, 512, 512)
    overview = np.asarray(Image.open(reported(report, "overview")))
    assert min(overview.shape) > 1000
    assert overview.std() > 20
    with PyramidStore.open(reported(report, "mosaic")) as mosaic:
        assert mosaic.metadata["complete"] is True
        assert mosaic.metadata["tiles_matched"] == 16


def test_a_micrograph_chooses_the_grid_that_covers_it(tmp_path: Path) -> None:
    path = tmp_path / "micrograph.png"
    Image.new("L", (5200, 3000), 128).save(path)
    spec, config = plan_demo(DemoOptions(tmp_path, specimen=path))
    assert (spec.rows, spec.columns) == (3, 5)
    assert config.simulation is not None
    assert (config.simulation.specimen.kind, config.simulation.specimen.file) == ("image", path)
    assert (config.simulation.camera.width_px, config.simulation.camera.height_px) == (1024, 1024)


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


@pytest.fixture
def demo(make_config: ConfigFactory, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts a demonstration in real time, and reads until it prints a word."""

    def start(state: Path, moment: str, *, catalog: bool) -> subprocess.Popen[str]:
        config = tmp_path / "lab.yaml"
        config.write_text(dump_config(make_config(256, catalog, simulation={"timing": "real"})))
        options = ["--config", str(config), "--state", str(state), "demo", "--pixels", "256"]
        process = subprocess.Popen(
            [sys.executable, "-m", "montango", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if moment in line:
                break
        return process

    return start


@pytest.mark.parametrize(("moment", "catalog"), [("tangodb is ready", False), ("acquiring", True)])
def test_interrupted_demo_leaves_no_process(
    demo: Callable[..., subprocess.Popen[str]], tmp_path: Path, moment: str, catalog: bool
) -> None:
    state = tmp_path / "demo"
    with demo(state, moment, catalog=catalog) as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(120) == 130
    assert "everything is stopped" not in rest  # the montage did not run to its end first
    assert not belonging_to(state)


def test_killed_demo_leaves_no_process(demo: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    state = tmp_path / "demo"
    with demo(state, "acquiring", catalog=False) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(120)
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


def test_the_end_of_a_shell_lets_others_drive_and_says_nothing(lab: Lab) -> None:
    done = montango(lab.state.root, "shell", typed="print(RE(bps.mv(stage.x, 3.0)))\nexit\n")
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert "Traceback" not in text
    info = lab.info()
    sequencer = tango.DeviceProxy(f"tango://{info.tango_host}/{info.devices['sequencer']}")
    assert sequencer.owner == ""
