from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from devices.errors import ConfigurationError
from sim.faults import FAULT_NAMES, Fault, inject, make_fault
from sim.section import Section
from sim.stage import SimulatedStage
from sim.world import TrueExposure, World

WRITER = """
import sys
from sim.stage import SimulatedStage
from sim.column import SimulatedColumn
stage, column = SimulatedStage(sys.argv[1]), SimulatedColumn(sys.argv[1])
print("READY", flush=True)
step = 0
while True:
    step += 1
    stage.start_move({"x_um": step % 400, "y_um": step % 400})
    column.set("image_shift_um", (0.01 * (step % 100), 0.01 * (step % 100)))
"""


def test_a_reader_never_sees_half_of_a_write() -> None:
    with mmap.mmap(-1, Section.size(512)) as memory:
        section = Section(memory, 0, 512)
        section.write(b"\0" * 512)
        end = threading.Event()

        def write() -> None:
            number = 0
            while not end.is_set():
                number = (number + 1) % 250
                section.write(bytes([number]) * (number + 250))

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(20_000):
                _, payload = section.read()
                assert len(set(payload)) == 1
                assert len(payload) in (payload[0] + 250, 512)
        finally:
            end.set()
            writer.join()
        section.release()


def test_a_payload_that_is_too_long_is_refused() -> None:
    with mmap.mmap(-1, Section.size(8)) as memory:
        section = Section(memory, 0, 8)
        section.write(b"12345678")
        with pytest.raises(ValueError, match="9 bytes"):
            section.write(b"123456789")
        assert section.read() == (1, b"12345678")
        section.release()


@pytest.mark.parametrize("attempt", range(3))
def test_killing_the_writer_leaves_the_world_whole(make_world: Callable[..., World], attempt: int) -> None:
    world: World = make_world(f"world{attempt}")
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(world.path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "READY\n"
    before = world.stage.version
    while world.stage.version < before + 200 * (attempt + 1):
        motion, lenses = world.motion(), world.lenses()
        assert motion.target[0] == motion.target[1]
        assert lenses.image_shift_um[0] == lenses.image_shift_um[1]
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    with World.open(world.path) as again:
        assert again.motion() == world.motion()
        stage = SimulatedStage(world.path)
        stage.start_move({"x_um": 7.0, "y_um": 8.0})
        assert stage.wait_still(1.0).x_um == pytest.approx(7.0, abs=0.5)
        assert again.motion().moves == world.motion().moves


def test_a_move_goes_on_when_the_server_has_gone(make_world: Callable[..., World]) -> None:
    world: World = make_world(timing="real")
    script = (
        "import sys; from sim.stage import SimulatedStage as S; S(sys.argv[1]).start_move({'x_um': 30.0})"
    )
    subprocess.run([sys.executable, "-c", script, str(world.path)], check=True)
    stage = SimulatedStage(world.path)
    assert stage.wait_still(5.0).x_um == pytest.approx(30.0, abs=0.5)


def test_truth_is_what_was_recorded(make_world: Callable[..., World]) -> None:
    world: World = make_world()
    exposures = [
        TrueExposure(i, 1.7e9 + i, 1.0, 2.0, 3.0, -0.5, 0.01, 0.02, 4.0, 150.0, FAULT_NAMES[i : i + 2], True)
        for i in range(5)
    ]
    for exposure in exposures:
        world.record(exposure)
    assert world.truth() == exposures
    with World.open(world.path) as again:
        assert again.truth() == exposures
    with world.path.with_name("world.truth").open("ab") as file:
        file.write(b"half a rec")
    assert world.truth() == exposures


def test_faults_are_seen_by_every_process(make_world: Callable[..., World]) -> None:
    world: World = make_world()
    with World.open(world.path) as other:
        inject(other, Fault("fold", 4, count=2, severity=0.5))
        assert world.faults.all() == (Fault("fold", at_exposure=4, count=2, severity=0.5),)
        with world.path.with_name("world.faults").open("a") as file:
            file.write('{"name": "deb')
        assert len(world.faults.all()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gremlin",), ["gremlin", "stage_stuck", "disk_full"]),
        (("fold", -1), ["at_exposure = -1"]),
        (("fold", 0, 0), ["count = 0"]),
        (("fold", 0, 1, 1.5), ["severity = 1.5"]),
    ],
)
def test_a_wrong_fault_is_explained(arguments: tuple[object, ...], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_fault(*arguments)  # type: ignore[arg-type]
    for word in words:
        assert word in str(caught.value)


def test_no_world_and_no_such_world_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="montango up"):
        World.open(tmp_path / "none")
    (tmp_path / "other").write_bytes(b"something else")
    with pytest.raises(ConfigurationError, match="not a world"):
        World.open(tmp_path / "other")
