"""Samples of a cassette: which lies on the stage, and where."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError

from sim.camera import SimulatedCamera
from sim.config import SimulationConfig
from sim.placement import Loading, Placement
from sim.stage import SimulatedStage
from sim.world import World

Make = Callable[..., World]
LARGE = {"width_px": 192, "height_px": 192}
STILL = {"step_noise_um": 0.0, "backlash_um": 0.0, "cyclic_amplitude_um": 0.0, "skew_deg": 0.0}
SAMPLES: list[dict[str, Any]] = [
    {"slot": 1, "barcode": "A1", "specimen": {"resin_fraction": 0.0}},
    {"slot": 2, "barcode": "A2", "offset_um": [40.0, -20.0], "rotation_deg": 30.0, "seed": 11},
    {"slot": 5, "reload_um": 3.0, "reload_deg": 1.0, "specimen": {"focus_offset_um": 2.0}},
]


def config(**changes: Any) -> SimulationConfig:
    return SimulationConfig.model_validate({"samples": SAMPLES, **changes})


def load(world: World, slot: int) -> None:
    world.loader.write(world.loading().loaded(slot).pack())


def frame(camera: SimulatedCamera) -> npt.NDArray[np.float64]:
    camera.expose()
    return camera.read(10.0).data.astype(float)


def alike(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def test_without_samples_the_specimen_lies_as_always() -> None:
    assert Placement.of(SimulationConfig(), Loading()) == Placement(-1, (0.0, 0.0), 0.0)


def test_a_sample_lies_where_it_was_said_to() -> None:
    placed = Placement.of(config(), Loading().loaded(2))
    assert placed == Placement(2, (40.0, -20.0), 30.0)
    assert placed.to_stage(0.0, 0.0) == (40.0, -20.0)
    assert placed.to_stage(10.0, 0.0) == pytest.approx((40.0 + 10 * math.cos(math.pi / 6), -15.0))
    assert placed.to_sample(*placed.to_stage(3.0, -7.0)) == pytest.approx((3.0, -7.0))
    assert Placement.of(config(), Loading()) == Placement(0)


def test_loading_again_moves_a_sample_a_little() -> None:
    first = Loading().loaded(5)
    again = first.loaded(0).loaded(1).loaded(5)
    assert (again.slot, again.loads, again.times) == (5, 3, {"5": 2, "1": 1})
    assert Placement.of(config(), first).offset_um == (0.0, 0.0)
    moved = Placement.of(config(), again)
    assert 0.0 < math.hypot(*moved.offset_um) < 15.0
    assert moved == Placement.of(config(), Loading.unpack(again.pack()))
    others = {Placement.of(config(), Loading(5, 9, {"5": times})).offset_um for times in range(2, 12)}
    assert len(others) == 10


def test_the_camera_sees_the_sample_that_another_process_loads(make_world: Make) -> None:
    world = make_world(samples=SAMPLES, camera=LARGE, stage=STILL)
    camera = SimulatedCamera(world.path)
    camera.open()
    bare = frame(camera)
    assert bare.std() / bare.mean() < 0.1
    script = (
        "import sys; from sim.world import World; world = World.open(sys.argv[1]); "
        "world.loader.write(world.loading().loaded(1).pack())"
    )
    subprocess.run([sys.executable, "-c", script, str(world.path)], check=True)
    first = frame(camera)
    assert first.std() / first.mean() > 0.15
    assert first.mean() < 0.9 * bare.mean()
    load(world, 5)
    assert abs(alike(frame(camera), first)) < 0.3
    assert world.truth()[-1].defocus_um == pytest.approx(world.truth()[1].defocus_um + 2.0)
    load(world, 1)
    assert alike(frame(camera), first) > 0.8


def test_a_turned_sample_is_seen_turned(make_world: Make) -> None:
    """Where the sample's middle lies now, the frame shows what it showed there, turned."""
    specimen = {"sections": [{"outline_um": [[0.0, -0.1], [0.3, -0.1], [0.3, 0.1], [0.0, 0.1]]}]}
    samples = [
        {"slot": 1},
        {"slot": 2, "offset_um": [40.0, -20.0], "rotation_deg": 90.0},
    ]
    optics = {"image_rotation_deg": 0.0, "distortion": 0.0}
    world = make_world(
        samples=samples, loaded_slot=1, specimen=specimen, camera=LARGE, stage=STILL, column=optics
    )
    camera, stage = SimulatedCamera(world.path), SimulatedStage(world.path)
    camera.open()
    middles = []
    for slot, target in ((1, {"x_um": 0.0, "y_um": 0.0}), (2, {"x_um": 40.0, "y_um": -20.0})):
        load(world, slot)
        stage.start_move(target)
        seen = frame(camera)
        dark = np.clip(1.0 - seen / np.percentile(seen, 90), 0.1, 1) - 0.1
        v, u = np.indices(seen.shape) - 95.5
        middles.append((float((u * dark).sum() / dark.sum()), float((v * dark).sum() / dark.sum())))
    # half of 0.3 um is 37.5 px, to the right in the first and down in the second
    assert middles[0] == pytest.approx((37.5, 0.0), abs=6.0)
    assert middles[1] == pytest.approx((0.0, 37.5), abs=6.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"samples": [{"slot": 1}, {"slot": 1}]}, "slot of their own"),
        ({"samples": [{"slot": 1, "barcode": "A"}, {"slot": 2, "barcode": "A"}]}, "barcode of their own"),
        ({"loaded_slot": 3}, "loaded_slot = 3"),
        ({"samples": [{"slot": 4, "specimen": {"resin": 0.5}}]}, r"slot 4: specimen\.resin"),
        ({"samples": [{"slot": 4, "specimen": {"kind": "replay", "folder": "x"}}]}, "recorded tiles"),
    ],
)
def test_impossible_cassettes_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        config(**changes)


def test_a_sample_changes_what_it_names_alone() -> None:
    whole = config(specimen={"texel_size_nm": 5.0})
    specimen = whole.specimen_of(whole.sample(1))
    assert (specimen.resin_fraction, specimen.texel_size_nm) == (0.0, 5.0)
    assert whole.specimen_of(None) is whole.specimen
    assert SimulationConfig.model_validate_json(whole.model_dump_json()) == whole
