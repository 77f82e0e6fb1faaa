"""Calibrations as runs on the servers of a laboratory: documents, store, what is refused, what is left."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import numpy as np
import pytest
from bluesky.run_engine import RunEngine
from shapely import Point, Polygon

from devices.errors import ConfigurationError, InstrumentFault, LimitError
from montango.lab import Lab
from plans.calibrate import (
    calibrate_aperture,
    calibrate_backlash,
    calibrate_beam,
    calibrate_bright,
    calibrate_dark,
    calibrate_distortion,
    calibrate_exposure,
    calibrate_image_shift,
    calibrate_stage_camera,
)
from plans.calibrations import Calibration, CalibrationStore
from plans.focus import autofocus_run
from plans.specs.focus import FocusSpec
from plans.stubs.view import view_from
from sim.faults import inject, make_fault
from sim.lenses import Lenses, true_geometry
from sim.world import World
from tests.system.calibrate_bench import FRAME_PX, SAMPLES, SHORT, SLOT, TRUTH, Bench, Plan

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def bench(
    make_config: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, engine: RunEngine
) -> Iterator[Bench]:
    """Return a laboratory of this module's own."""
    from profiles.simulated.devices import make_devices

    folder = tmp_path_factory.mktemp("calibrate")
    config = make_config(
        FRAME_PX, catalog=False, simulation={**TRUTH, "timing": "fast", "samples": SAMPLES, "loaded_slot": 1}
    )
    lab = Lab(config, folder / "lab")
    before = dict(os.environ)
    lab.up()
    try:
        lab.connect()
        devices = make_devices(lab.info())
        yield Bench(lab, devices, engine, CalibrationStore(folder / "calibrations"))
        devices.disconnect()
    finally:
        lab.down()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def stage_camera(bench: Bench) -> Calibration:
    """Return the calibration that others need."""
    return bench.run(calibrate_stage_camera(*bench.three, store=bench.store, **SHORT))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def dark(bench: Bench) -> Calibration:
    """Return a dark reference."""
    plan = calibrate_dark(*bench.three[:2], store=bench.store, exposure_time_s=0.1, frames=8)
    return bench.run(plan)  # type: ignore[no-any-return]


def test_nothing_is_measured_without_what_it_rests_on(bench: Bench, tmp_path: Path) -> None:
    empty = CalibrationStore(tmp_path)
    moves = bench.stage.moves_done
    for plan, kind in (
        (calibrate_image_shift(*bench.three, store=empty), "stage_camera"),
        (calibrate_backlash(*bench.three, store=empty), "stage_camera"),
        (calibrate_bright(*bench.three, store=empty), "dark"),
    ):
        with pytest.raises(
            ConfigurationError, match=rf"calibration {kind} .*never made; run calibrate_{kind}"
        ):
            bench.run(plan)
        assert bench.documents == []
    assert bench.stage.moves_done == moves


def bad_arguments() -> list[tuple[Callable[..., Plan], int, dict[str, Any], str]]:
    """Return plans, how many devices they take, an argument that is wrong, and what the refusal names."""
    return [
        (calibrate_stage_camera, 3, {"directions": 1}, "directions = 1"),
        (calibrate_stage_camera, 3, {"span_um": 2500.0}, "span_um = 2500"),
        (calibrate_stage_camera, 3, {"span_um": 1990.0, "max_images": 500, "field_um": 50.0}, "stage x_um"),
        (calibrate_image_shift, 3, {"range_um": 20.0}, "range_um = 20"),
        (calibrate_image_shift, 3, {"least_brightness": 2.0}, "least_brightness = 2"),
        (calibrate_backlash, 3, {"repeats": 1}, "repeats = 1"),
        (calibrate_dark, 2, {"frames": 1}, "frames = 1"),
        (calibrate_bright, 3, {"frames": 3}, "frames = 3"),
        (calibrate_exposure, 2, {"target_counts": 1e6}, "target_counts = 1e"),
        (calibrate_exposure, 2, {"target_counts": 1e3, "exposure_times_s": (0.1, 0.1)}, "different"),
        (calibrate_beam, 2, {"magnification": 1.0}, "magnification = 1"),
        (calibrate_aperture, 3, {"radius_um": float("nan")}, "radius_um = nan"),
        (calibrate_aperture, 3, {"radius_um": 1500.0}, "edge of the aperture"),
        (calibrate_aperture, 3, {"size_um": (40.0, 0.0)}, "size_um = 0"),
        (calibrate_aperture, 3, {"radius_um": 9.0, "approach_um": (0.0, 101.0)}, "approach_um = 101"),
        (calibrate_distortion, 3, {"settle_s": -1.0}, "settle_s = -1"),
    ]


@pytest.mark.parametrize(("plan", "devices", "argument", "named"), bad_arguments())
def test_a_wrong_argument_is_refused_before_anything_moves(
    bench: Bench, plan: Callable[..., Plan], devices: int, argument: dict[str, Any], named: str
) -> None:
    moves = bench.stage.moves_done
    with pytest.raises(LimitError) as caught:
        bench.run(plan(*bench.three[:devices], store=bench.store, **argument))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert bench.documents == []
    assert bench.stage.moves_done == moves


def test_stage_camera(bench: Bench, stage_camera: Calibration) -> None:
    pixel_nm, rotation_deg = true_geometry(bench.simulation, Lenses())
    assert stage_camera.number("pixel_size_nm") == pytest.approx(pixel_nm, rel=0.008)
    assert stage_camera.number("rotation_deg") == pytest.approx(rotation_deg, abs=0.4)
    assert stage_camera.number("distortion_radial") == pytest.approx(0.003, abs=0.002)
    assert stage_camera.residuals["position_rms_um"] < 0.03
    assert bench.store.get(stage_camera.uid) == stage_camera
    assert bench.is_safe()


def test_a_view_is_measured_where_there_is_a_calibration(bench: Bench, stage_camera: Calibration) -> None:
    camera, column, _ = bench.three
    view = bench.run(view_from(bench.store, camera, column))
    assert view.stage_per_px_um == stage_camera.matrix("stage_per_px_um")
    nominal = bench.run(view_from(None, camera, column))
    assert (nominal.pixel_size_nm, nominal.rotation_deg) == (pytest.approx(4.0), pytest.approx(1.5))
    assert bench.run(view_from(bench.store, camera, column, max_age_s=-1.0)) == nominal
    bench.engine(bps.mv(column.magnification, 8000.0))
    other = bench.run(view_from(bench.store, camera, column))
    assert other.pixel_size_nm == pytest.approx(2.5)
    bench.engine(bps.mv(column.magnification, 5000.0, camera.binning, 2))
    binned = bench.run(view_from(bench.store, camera, column))
    bench.engine(bps.mv(camera.binning, 1))
    assert binned.pixel_size_nm == pytest.approx(2 * view.pixel_size_nm)
    assert binned.width_um == pytest.approx(view.width_um)


def test_image_shift(bench: Bench, stage_camera: Calibration) -> None:
    bench.engine(bps.mv(bench.three[1].image_shift_um, np.array([0.3, -0.2])))
    one = bench.run(calibrate_image_shift(*bench.three, store=bench.store, range_um=3.0, settle_s=0.0))
    truth = np.array(TRUTH["column"]["image_shift_matrix"])
    assert np.abs(np.array(one.matrix("stage_per_shift")) - truth).max() < 0.012
    assert one.number("limit_um") == pytest.approx(3.0)
    start, event = bench.documents[0][1], bench.event()
    assert start["calibration_uids"] == {"stage_camera": stage_camera.uid}
    assert (start["purpose"], start["calibration_kind"], start["uid"]) == (
        "calibration",
        "image_shift",
        one.uid,
    )
    assert event["value_stage_per_shift"] == one.values["stage_per_shift"]
    assert event["residual_position_rms_um"] == one.residuals["position_rms_um"]
    assert bench.column.image_shift_um.tolist() == [0.3, -0.2]
    bench.engine(bps.mv(bench.three[1].image_shift_um, np.zeros(2)))
    view = bench.run(view_from(bench.store, *bench.three[:2]))
    assert view.stage_per_shift == one.matrix("stage_per_shift")
    assert view.image_shift_limit_um == one.number("limit_um")
    assert bench.is_safe()


def test_backlash(bench: Bench, stage_camera: Calibration) -> None:
    plan = calibrate_backlash(*bench.three, store=bench.store, settle_s=0.0)
    one = bench.run(plan)
    truth = TRUTH["stage"]["backlash_um"]
    for axis in ("x_um", "y_um"):
        assert one.number(axis) == pytest.approx(truth, rel=0.1)
        assert one.residuals[axis] < 0.02
    assert bench.is_safe()


def test_dark_reference(bench: Bench, dark: Calibration) -> None:
    array = dark.load()["dark"]
    assert array.shape == (FRAME_PX, FRAME_PX)
    assert array.mean() == pytest.approx(0.003 * 65535, abs=10)
    assert dark.number("mean_counts") == pytest.approx(array.mean(), rel=1e-4)
    with World.open(str(bench.lab.info().world)) as world:
        assert not world.truth()[-1].beam_on
    assert bench.is_safe()


def test_bright_reference(bench: Bench, dark: Calibration) -> None:
    with pytest.raises(LimitError, match=r"exposure_time_s = 0.2 is not that of the dark reference"):
        bench.run(calibrate_bright(*bench.three, store=bench.store, exposure_time_s=0.2))
    before = bench.stage.position
    one = bench.run(calibrate_bright(*bench.three, store=bench.store, frames=32, reach_um=15.0))
    bright = one.load()["bright"]
    assert bright.shape == (FRAME_PX, FRAME_PX)
    assert bright.mean() == pytest.approx(1.0)
    assert one.residuals["pixel_rms"] < 0.1
    assert bench.documents[0][1]["calibration_uids"] == {"dark": dark.uid}
    assert np.abs(bench.stage.position[:2] - before[:2]).max() < 1.0
    assert bench.is_safe()


def test_exposure(bench: Bench) -> None:
    one = bench.run(calibrate_exposure(*bench.three[:2], store=bench.store, target_counts=15_000.0))
    assert one.number("reached_counts") == pytest.approx(15_000.0, rel=0.03)
    assert one.residuals["nonlinearity"] < 0.01
    plan = calibrate_exposure(*bench.three[:2], store=bench.store, target_counts=15_000.0, longest_s=0.01)
    with pytest.raises(InstrumentFault, match="longest_s"):
        bench.run(plan)
    assert dict(bench.documents)["stop"]["exit_status"] == "fail"
    assert bench.is_safe()


def test_beam(bench: Bench) -> None:
    before = {
        name: getattr(bench.column, name)
        for name in ("magnification", "spot_size_index", "illuminated_area_um")
    }
    one = bench.run(calibrate_beam(*bench.three[:2], store=bench.store, magnification=200.0, settle_s=0.0))
    truth = TRUTH["column"]["beam_offset_um"]
    assert one.number("offset_x_um") == pytest.approx(truth[0], abs=0.15)
    assert one.number("offset_y_um") == pytest.approx(truth[1], abs=0.15)
    assert one.number("beam_shift_x_um") == pytest.approx(-truth[0], abs=0.15)
    assert one.number("diameter_ratio") == pytest.approx(1.1 / 1.02, rel=0.05)
    assert np.abs(np.array(one.matrix("stage_per_beam_shift")) - np.eye(2)).max() < 0.1
    assert one.residuals["centred_um"] < 0.15
    assert {name: getattr(bench.column, name) for name in before} == before
    assert bench.column.beam_shift_um.tolist() == [0.0, 0.0]
    assert one.magnification == 5000.0
    assert bench.is_safe()


@pytest.mark.parametrize("magnification", [100.0, 400.0])
def test_aperture_in_one_frame_and_around_its_edge(bench: Bench, magnification: float) -> None:
    plan = calibrate_aperture(
        *bench.three, store=bench.store, radius_um=29.0, magnification=magnification, settle_s=0.0
    )
    one = bench.run(plan)
    hole = TRUTH["specimen"]["aperture"]
    assert one.number("x_um") == pytest.approx(hole["centre_um"][0], abs=0.5)
    assert one.number("y_um") == pytest.approx(hole["centre_um"][1], abs=0.5)
    assert one.number("radius_um") == pytest.approx(hole["radius_um"], rel=0.03)
    assert bench.column.magnification == 5000.0
    assert bench.is_safe()


@pytest.fixture
def slot_loaded(bench: Bench) -> Iterator[None]:
    """Have the sample with the slot on the stage."""
    bench.put(2)
    yield
    bench.put(1)


@pytest.mark.parametrize("magnification", [100.0, 400.0])
@pytest.mark.usefixtures("slot_loaded")
def test_slot_in_one_frame_and_around_its_edge(bench: Bench, magnification: float) -> None:
    plan = calibrate_aperture(
        *bench.three, store=bench.store, size_um=(19.0, 42.0), angle_deg=-65.0, magnification=magnification,
        edge_images=16, settle_s=0.0,
    )  # fmt: skip
    one = bench.run(plan)
    assert one.number("x_um") == pytest.approx(SLOT["centre_um"][0], abs=0.4)
    assert one.number("y_um") == pytest.approx(SLOT["centre_um"][1], abs=0.4)
    # the frame is seen through the nominal pixel size; its edge is rough by 0.3 um
    assert one.number("major_um") == pytest.approx(20.0, rel=0.04)
    assert one.number("minor_um") == pytest.approx(10.0, rel=0.05)
    assert one.number("angle_deg") == pytest.approx(35.0, abs=1.5)
    assert one.number("corner_um") == pytest.approx(4.0, abs=1.5)
    assert one.residuals["edge_rms_um"] < 0.5
    seen, true = Polygon(one.values["outline_um"]), Point(*SLOT["centre_um"])
    assert len(seen.exterior.coords) == 73
    assert seen.centroid.distance(true) < 0.4
    assert seen.area == pytest.approx(40 * 20 - (4 - np.pi) * 4**2, rel=0.06)
    assert bench.is_safe()


def test_a_hole_is_approached_from_one_side(bench: Bench) -> None:
    def measure(**options: Any) -> Calibration:
        plan = calibrate_aperture(
            *bench.three, store=bench.store, radius_um=29.0, magnification=100.0, settle_s=0.0, **options
        )
        return bench.run(plan)  # type: ignore[no-any-return]

    above, below = measure(approach_um=(-3.0, -3.0)), measure(approach_um=(3.0, 3.0))
    for axis in ("x_um", "y_um"):
        apart = above.number(axis) - below.number(axis)
        assert abs(apart) == pytest.approx(TRUTH["stage"]["backlash_um"], abs=0.06)
    assert bench.documents[0][1]["calibration_uids"] == {}
    kept = bench.store.add(
        below.model_copy(update={"uid": "b", "kind": "backlash", "values": {"approach_um": 3.0}})
    )
    try:
        again = measure()
    finally:
        (bench.store.folder / f"backlash-{kept.made_at_s:.3f}-b.json").unlink()
    assert bench.documents[0][1]["calibration_uids"] == {"backlash": "b"}
    assert again.number("approach_x_um") == again.number("approach_y_um") == 3.0
    assert again.number("x_um") == pytest.approx(below.number("x_um"), abs=0.06)


def test_focus_is_measured_with_the_pixel_size_that_was_measured(
    bench: Bench, stage_camera: Calibration
) -> None:
    spec = FocusSpec(target_defocus_um=-20.0, range_um=10.0, exposure_time_s=0.2, binning=1)
    found = {}
    for calibrations in (None, bench.store):
        bench.engine(bps.mv(bench.devices.column.defocus_um, -20.5))
        result = bench.run(autofocus_run(*bench.three, spec, calibrations=calibrations))
        assert result.converged, result.reason
        found[calibrations is None] = abs(result.offset_um + bench.simulation.specimen.height_um(0.0, 0.0))
    assert bench.documents[0][1]["calibration_uids"] == [stage_camera.uid]
    bench.engine(bps.mv(bench.devices.column.defocus_um, -0.5))
    # displacements told in pixels 2 % too small are defocus told 2 % too small
    assert found[True] == pytest.approx(0.02 * 20.0, abs=0.15)
    assert found[False] < 0.15


def test_distortion(bench: Bench) -> None:
    one = bench.run(calibrate_distortion(*bench.three, store=bench.store, settle_s=0.0))
    half_px = FRAME_PX / 2
    assert one.number("radial") * half_px == pytest.approx(0.003 * half_px, abs=0.15)
    assert bench.is_safe()


def test_a_kernel_of_another_makes(bench: Bench) -> None:
    class Refuses:
        name = "refuses"

        def fit(self, images: Any, centres_px: Any) -> Any:
            assert len(images) == 9
            assert np.ptp(centres_px, axis=0) == pytest.approx([0.8 * FRAME_PX] * 2)
            raise ValueError("too few matches")

    before = len(list(bench.store))
    plan = calibrate_distortion(*bench.three, store=bench.store, settle_s=0.0, kernel=Refuses())
    with pytest.raises(InstrumentFault, match="too few matches"):
        bench.run(plan)
    assert len(list(bench.store)) == before


def test_a_measurement_that_fails_keeps_nothing_and_leaves_all_safe(bench: Bench) -> None:
    with World.open(str(bench.lab.info().world)) as world:
        inject(world, make_fault("beam_loss", at_exposure=world.exposures(), count=40))
    before = len(list(bench.store))
    with pytest.raises(InstrumentFault, match="images show what the one before showed"):
        bench.run(calibrate_stage_camera(*bench.three, store=bench.store, **SHORT))
    assert len(list(bench.store)) == before
    names = [name for name, _ in bench.documents]
    assert names == ["start", "stop"]
    assert bench.documents[-1][1]["exit_status"] == "fail"
    assert bench.is_safe()
