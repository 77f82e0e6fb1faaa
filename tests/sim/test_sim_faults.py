"""Faults act on their exposures and on no other."""

from __future__ import annotations

import errno
import math
import signal
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from devices.column.settings import BY_NAME
from devices.errors import OperationTimeout
from sim.camera import SimulatedCamera
from sim.column import SimulatedColumn
from sim.faults import FAULT_NAMES, Fault, inject
from sim.stage import SimulatedStage
from sim.world import World

IN_THE_PICTURE = [
    "corrupted_frame", "beam_loss", "drift_burst", "charging", "debris", "fold", "focus_jump",
]  # fmt: skip
Make = Callable[..., World]
LARGE = {"width_px": 192, "height_px": 192}


class Clock:
    """The monotonic clock of the world, which stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("sim.world.monotonic_s", lambda: made.now_s)
    return made


def exposed(camera: SimulatedCamera) -> npt.NDArray[np.float64]:
    camera.expose()
    return camera.read(5.0).data.astype(float)


def sharpness(frame: npt.NDArray[np.float64]) -> float:
    return float(np.var(frame[1:] - frame[:-1]) / frame.mean() ** 2)


def test_the_list_of_faults() -> None:
    others = {"stage_stuck", "camera_timeout", "server_crash", "disk_full", "vacuum", "frozen_frame"}
    others |= {"stage_miss", "slow_settle", "loader_jam", "stage_reset"}
    assert set(FAULT_NAMES) == others | set(IN_THE_PICTURE)


@pytest.mark.parametrize("name", IN_THE_PICTURE)
def test_a_fault_spoils_its_exposures_and_no_other(make_world: Make, name: str) -> None:
    world = make_world(camera=LARGE)
    camera = SimulatedCamera(world.path)
    camera.open()
    inject(world, Fault(name, at_exposure=2, count=2))
    frames = [exposed(camera) for _ in range(6)]
    clean = frames[0]
    noise = np.abs(frames[1] - clean).mean()
    differences = [np.abs(frame - clean).mean() / noise for frame in frames]
    for index in (4, 5):
        assert differences[index] == pytest.approx(1.0, abs=0.1)
    assert min(differences[2:4]) > 1.5
    assert [exposure.faults for exposure in world.truth()] == [(), (), (name,), (name,), (), ()]


def test_severity_says_how_bad(make_world: Make) -> None:
    world = make_world(camera=LARGE, specimen={"texture_px": 1024})
    camera = SimulatedCamera(world.path)
    camera.open()
    for index, severity in enumerate((0.2, 0.5, 1.0), start=1):
        inject(world, Fault("focus_jump", index, severity=severity))
    frames = [sharpness(exposed(camera)) for _ in range(4)]
    assert frames == sorted(frames, reverse=True)
    assert [round(exposure.defocus_um) for exposure in world.truth()] == [0, -4, -10, -20]


def test_beam_loss_is_in_the_truth(make_world: Make) -> None:
    world = make_world(faults=[{"name": "beam_loss", "at_exposure": 1}])
    camera = SimulatedCamera(world.path)
    camera.open()
    bright, dark = exposed(camera), exposed(camera)
    assert dark.mean() < 0.02 * bright.mean()
    assert [exposure.beam_on for exposure in world.truth()] == [True, False]


@pytest.mark.parametrize("timing", ["fast", "real"])
def test_a_frame_that_never_comes(make_world: Make, timing: str) -> None:
    world = make_world(timing=timing, readout_time_s=0.0, faults=[{"name": "camera_timeout"}])
    camera = SimulatedCamera(world.path)
    camera.open()
    camera.expose()
    with pytest.raises(OperationTimeout, match="no frame"):
        camera.read(0.05)
    camera.abort()
    assert exposed(camera).mean() > 0
    assert world.exposures() == 2


def test_a_full_disk(make_world: Make) -> None:
    world = make_world(faults=[{"name": "disk_full"}])
    camera = SimulatedCamera(world.path)
    camera.open()
    camera.expose()
    with pytest.raises(OSError, match="space") as caught:
        camera.read(5.0)
    assert caught.value.errno == errno.ENOSPC
    exposed(camera)


@pytest.mark.parametrize("timing", ["fast", "real"])
def test_a_stuck_stage_times_out_and_moves_at_the_next_try(make_world: Make, timing: str) -> None:
    world = make_world(timing=timing, faults=[{"name": "stage_stuck", "at_exposure": 1}])
    stage, camera = SimulatedStage(world.path), SimulatedCamera(world.path)
    camera.open()
    stage.start_move({"x_um": 0.3})
    stage.wait_still(5.0)
    exposed(camera)
    stage.start_move({"x_um": 0.6})
    with pytest.raises(OperationTimeout, match="stuck"):
        stage.wait_still(0.05)
    assert stage.position().x_um == pytest.approx(0.3, abs=0.2)
    stage.stop()
    stage.start_move({"x_um": 0.6})
    assert stage.wait_still(5.0).x_um == pytest.approx(0.6, abs=0.2)


def test_a_stage_that_was_reset_goes_where_it_is_sent_and_that_is_elsewhere(make_world: Make) -> None:
    world = make_world(timing="fast")
    stage, camera = SimulatedStage(world.path), SimulatedCamera(world.path)
    camera.open()
    stage.start_move({"x_um": 12.0, "y_um": -7.0})
    exposed(camera)
    inject(world, Fault("stage_reset", at_exposure=1, severity=0.4))
    stage.start_move({"x_um": 13.0, "y_um": -7.0})
    exposed(camera)
    for x_um in (30.0, 12.0):
        stage.start_move({"x_um": x_um})
    where = stage.wait_still(5.0)
    exposed(camera)
    first, moved, last = world.truth()
    assert (where.x_um, where.y_um) == pytest.approx((12.0, -7.0), abs=0.3)
    shift = last.x_um - first.x_um, last.y_um - first.y_um
    assert math.hypot(*shift) == pytest.approx(4.0, abs=0.4)
    assert (moved.x_um - 1.0 - first.x_um, moved.y_um - first.y_um) == pytest.approx(shift, abs=0.4)


def test_a_crash_ends_the_process_once(make_world: Make) -> None:
    world = make_world(faults=[{"name": "server_crash", "at_exposure": 1}])
    script = (
        "import sys\nfrom sim.camera import SimulatedCamera\n"
        "camera = SimulatedCamera(sys.argv[1]); camera.open()\n"
        "for _ in range(3): camera.expose(); camera.read(5.0)\n"
        "print('done')"
    )
    command = [sys.executable, "-c", script, str(world.path)]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == -signal.SIGKILL
    assert world.exposures() == 2
    second = subprocess.run(command, capture_output=True, text=True)
    assert (second.returncode, second.stdout) == (0, "done\n")
    assert [exposure.index for exposure in world.truth()] == [0, 1, 2, 3, 4]


def test_a_timed_fault_acts_until_its_seconds_have_passed(make_world: Make, clock: Clock) -> None:
    world = make_world(time_scale=10.0)
    column, camera = SimulatedColumn(world.path), SimulatedCamera(world.path)
    camera.open()
    inject(world, Fault("beam_loss", at_exposure=1, seconds=30.0))
    clock.now_s += 100.0
    assert column.get("beam_current_na") != 0.0
    exposed(camera)
    # 30 s at ten times the speed: 3 s on the wall, whether or not anybody exposes
    assert column.get("beam_current_na") == 0.0
    clock.now_s += 2.9
    exposed(camera)
    exposed(camera)
    assert column.get("beam_current_na") == 0.0
    clock.now_s += 0.2
    assert column.get("beam_current_na") != 0.0
    exposed(camera)
    assert [exposure.beam_on for exposure in world.truth()] == [True, False, False, True]


def test_a_timed_fault_that_is_due_begins_when_it_is_injected(make_world: Make, clock: Clock) -> None:
    world = make_world()
    with World.open(world.path) as other:
        inject(other, Fault("vacuum", seconds=5.0))
        clock.now_s += 4.0
        assert world.severity("vacuum") == 1.0
        assert [fault.since_s for fault in world.faults.all()] == [clock.now_s - 4.0]
        clock.now_s += 2.0
        assert world.severity("vacuum") == other.severity("vacuum") == 0.0
        inject(other, Fault("vacuum", severity=0.5, seconds=5.0))
        assert world.severity("vacuum") == 0.5
    clock.now_s = 0.0
    assert world.severity("vacuum") == 0.0


def test_bad_vacuum_is_in_alarm_and_the_gauge_overflows(make_world: Make) -> None:
    world = make_world()
    column = SimulatedColumn(world.path)
    alarm = BY_NAME["column_pressure_pa"].alarm
    assert alarm is not None
    for severity in (0.01, 1.0):
        inject(world, Fault("vacuum", at_exposure=world.exposures(), severity=severity))
        assert alarm[1] < float(column.get("column_pressure_pa")) < 1e5  # type: ignore[arg-type]
        assert column.get("vacuum_gauge_status") == "OVERFLOW"
        world.count_exposure(world.exposures())
        assert float(column.get("column_pressure_pa")) < alarm[1]  # type: ignore[arg-type]
        assert column.get("vacuum_gauge_status") == "VALID"


def test_a_frozen_camera_sends_the_frame_before(make_world: Make) -> None:
    world = make_world(faults=[{"name": "frozen_frame", "at_exposure": 1, "count": 2}])
    stage, camera = SimulatedStage(world.path), SimulatedCamera(world.path)
    camera.open()
    frames = []
    for index in range(4):
        stage.start_move({"x_um": 2.0 * index})
        frames.append(exposed(camera))
    assert (frames[1] == frames[0]).all()
    assert (frames[2] == frames[0]).all()
    assert (frames[3] != frames[0]).mean() > 0.9


def test_a_fault_of_the_stage_goes_by_moves_or_by_seconds(make_world: Make, clock: Clock) -> None:
    world = make_world()
    inject(world, Fault("stage_miss", at_exposure=1, count=2, severity=0.3))
    inject(world, Fault("stage_miss", at_exposure=1, count=1, severity=0.6))
    assert world.severity_of_move("stage_miss", 0) == 0.0
    world.count_exposure(0)
    severities = [world.severity_of_move("stage_miss", spoiled) for spoiled in range(4)]
    assert severities == [0.3, 0.3, 0.6, 0.0]
    assert world.severity_of_move("slow_settle", 0) == 0.0
    inject(world, Fault("slow_settle", seconds=2.0))
    assert world.severity_of_move("slow_settle", 7) == 1.0
    clock.now_s += 2.1
    assert world.severity_of_move("slow_settle", 7) == 0.0
