"""Focusing on the simulated microscope: against its truth, and what is left behind whatever happens."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import bluesky.plan_stubs as bps
import numpy as np
import pytest
from bluesky.run_engine import RunEngine, call_in_bluesky_event_loop

from devices.errors import ConfigurationError, LimitError, MontangoError
from montango.config import MontangoConfig
from montango.lab import running_lab
from plans.focus import autofocus_run, autostigmate_run, focus_map_run
from plans.specs.focus import FocusMethod, FocusSpec
from plans.stubs.focus import FocusResult, StigmatorResult, autofocus, autostigmate
from sim.faults import inject, make_fault
from sim.world import World

if TYPE_CHECKING:
    from profiles.simulated.devices import Devices

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

SHARPEST = {"magnification": 10_000, "sharpest_defocus_um": -0.18}
RESIDUAL_UM, RESIDUAL_DEG = 0.1, 30.0
SLOPE_UM_PER_MM = 20.0
HEIGHT_UM = 0.7
Document = tuple[str, dict[str, Any]]


class Microscope(NamedTuple):
    """A laboratory that is up: its devices, its world, and the engine."""

    devices: Devices
    world: World
    engine: RunEngine

    @property
    def instruments(self) -> tuple[Any, Any, Any]:
        """Devices in the order that plans take them."""
        return self.devices.camera, self.devices.column, self.devices.stage

    def run(self, plan: Any) -> tuple[Any, list[Document]]:
        """Run a plan and return its result and documents."""
        documents: list[Document] = []
        found: list[Any] = []

        def kept() -> Any:
            found.append((yield from plan))

        self.engine(kept(), lambda name, doc: documents.append((name, doc)))
        return found[0], documents

    def set(self, **settings: Any) -> None:
        """Set the column."""
        for name, value in settings.items():
            self.engine(bps.mv(getattr(self.devices.column, name), value))

    def go(self, x_um: float, y_um: float) -> None:
        """Move the stage."""
        self.engine(bps.mv(self.devices.stage, (x_um, y_um)))

    def state(self) -> dict[str, Any]:
        """Return the settings that focusing must leave alone."""
        lenses = self.world.lenses()
        names = ("magnification", "illuminated_area_um", "beam_tilt_mrad", "beam_blanked", "image_shift_um")
        return {name: getattr(lenses, name) for name in names}

    def position(self) -> list[float]:
        """Return the stage's x and y, um."""
        return call_in_bluesky_event_loop(self.devices.stage.position_now())[0][:2]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def microscope(
    make_config: Callable[..., MontangoConfig], tmp_path_factory: pytest.TempPathFactory, engine: RunEngine
) -> Iterator[Microscope]:
    """Return a microscope with a tilted specimen, whose beam is blanked."""
    from profiles.simulated.devices import make_devices

    config = make_config(
        768,
        catalog=False,
        facility={"ioc": None},
        simulation={
            "column": {"astigmatism_um": RESIDUAL_UM, "astigmatism_angle_deg": RESIDUAL_DEG},
            "specimen": {
                "focus_offset_um": HEIGHT_UM,
                "focus_slope_um_per_mm": SLOPE_UM_PER_MM,
                "texture_px": 2048,
            },
        },
    )
    before = dict(os.environ)
    with running_lab(config, tmp_path_factory.mktemp("focus"), wait=True) as lab:
        devices = make_devices(lab.info())
        with World.open(lab.state.world) as world:
            engine(bps.mv(devices.column.beam_blanked, True))
            yield Microscope(devices, world, engine)
        devices.disconnect()
    os.environ.clear()
    os.environ.update(before)


def height_um(x_um: float) -> float:
    """Return the specimen's height over z = 0: the defocus where the column's is 0."""
    return HEIGHT_UM + SLOPE_UM_PER_MM * 1e-3 * x_um


def true_astigmatism_um(world: World) -> tuple[float, float]:
    """Return the components that the optics have."""
    x, y = world.lenses().objective_stigmator
    twice = math.radians(2 * RESIDUAL_DEG)
    scale = world.config.column.stigmator_um
    return RESIDUAL_UM * math.cos(twice) + scale * x, RESIDUAL_UM * math.sin(twice) + scale * y


@pytest.mark.parametrize(
    ("method", "fields", "starts_um"),
    [
        ("beam_tilt", {}, range(-5, 6)),
        ("beam_tilt", {"beam_tilt_mrad": 5.0, "magnification": 10_000}, (-15, 20)),
        ("power_spectrum", {"binning": 1, **SHARPEST}, (-5, -2, 0, 3, 5)),
        ("sharpness", {"binning": 1, **SHARPEST}, (-5, 1, 5)),
    ],
)
def test_defocus_is_within_a_tenth_of_a_micrometre(
    microscope: Microscope, method: FocusMethod, fields: dict[str, Any], starts_um: Any
) -> None:
    before = microscope.state()
    for n, start_um in enumerate(starts_um):
        x_um = 25.0 * n
        microscope.go(x_um, 4.0)
        microscope.set(defocus_um=start_um - height_um(x_um))
        spec = FocusSpec(method=method, target_defocus_um=-1.0, range_um=25, **fields)
        result, _ = microscope.run(autofocus(*microscope.instruments, spec))
        assert result.converged, result.reason
        assert result.offset_um == pytest.approx(-height_um(x_um), abs=0.1), f"from {start_um} um"
        assert microscope.world.lenses().defocus_um == result.defocus_um
        assert result.defocus_um == pytest.approx(result.offset_um - 1.0)
        assert 0.3 < result.confidence <= 1
        assert result.dose_e_per_a2 > 0
        assert (result.x_um, result.y_um) == pytest.approx((x_um, 4.0), abs=0.3)
    assert microscope.state() == before


@pytest.mark.parametrize("stigmator", [(0.05, 0.0), (0.0, -0.1), (0.1, 0.1), (-0.15, 0.1)])
def test_astigmatism_is_within_five_percent(microscope: Microscope, stigmator: tuple[float, float]) -> None:
    before = microscope.state()
    microscope.go(0.0, 0.0)
    microscope.set(objective_stigmator=np.array(stigmator), defocus_um=-height_um(0) - 0.2)
    true = math.hypot(*true_astigmatism_um(microscope.world))
    spec = FocusSpec(magnification=10_000, binning=1)
    result, _ = microscope.run(autostigmate(*microscope.instruments, spec))
    assert result.converged, result.reason
    assert result.amplitude_um == pytest.approx(true, rel=0.05)
    assert math.hypot(*true_astigmatism_um(microscope.world)) < 0.08
    assert microscope.world.lenses().defocus_um == -height_um(0) - 0.2
    assert np.array(result.matrix_um) == pytest.approx(10 * np.eye(2), abs=1.0)
    assert microscope.state() == before


def test_focus_with_stigmation_is_one_event(microscope: Microscope) -> None:
    microscope.go(0.0, 0.0)
    microscope.set(objective_stigmator=np.array([0.06, -0.03]), defocus_um=2.0)
    spec = FocusSpec(stigmate=True, magnification=10_000, binning=1, target_defocus_um=-0.5)
    result, documents = microscope.run(autofocus_run(*microscope.instruments, spec, md={"sample": "mouse 7"}))
    assert result.converged
    assert result.stigmator is not None
    assert result.stigmator.converged
    assert microscope.world.lenses().defocus_um == pytest.approx(-0.5 - height_um(0), abs=0.1)
    start = next(doc for name, doc in documents if name == "start")
    assert (start["purpose"], start["plan_name"], start["sample"]) == ("focus", "autofocus_run", "mouse 7")
    assert FocusSpec.model_validate(start["focus_spec"]) == spec
    stream = next(doc for name, doc in documents if name == "descriptor" and doc["name"] == "focus")
    events = [doc for name, doc in documents if name == "event" and doc["descriptor"] == stream["uid"]]
    assert len(events) == 1
    data = events[0]["data"]
    assert all(key.startswith("focus_") for key in data)
    assert data["focus_offset_um"] == result.offset_um
    assert data["focus_astigmatism_um"] == result.stigmator.amplitude_um
    assert data["focus_exposures"] == result.exposures > 12
    assert stream["data_keys"]["focus_offset_um"]["units"] == "um"
    assert documents[-1][1]["exit_status"] == "success"


def test_off_the_tile_nothing_is_exposed_on_it(microscope: Microscope) -> None:
    microscope.go(-40.0, 10.0)
    microscope.set(defocus_um=0.0)
    made = microscope.world.exposures()
    result, _ = microscope.run(
        autofocus(*microscope.instruments, FocusSpec(offset_um=(30.0, -12.0), target_defocus_um=0))
    )
    assert microscope.position() == pytest.approx([-40, 10], abs=0.5)
    assert (result.x_um, result.y_um) == pytest.approx((-10, -2), abs=0.5)
    assert result.offset_um == pytest.approx(-height_um(-10), abs=0.1)
    exposed = [one for one in microscope.world.truth() if one.index >= made]
    assert len(exposed) == result.exposures
    assert all(math.hypot(one.x_um + 10, one.y_um + 2) < 1.5 for one in exposed)


def test_map_of_a_tilted_specimen(microscope: Microscope) -> None:
    microscope.set(defocus_um=-0.5)
    places = ((0.0, 0.0), (90.0, 0.0), (0.0, 60.0), (90.0, 60.0), (45.0, 30.0))
    spec = FocusSpec(map="plane", map_points_um=places)
    surface, documents = microscope.run(focus_map_run(*microscope.instruments, spec))
    for x_um, y_um in [(20.0, 10.0), (120.0, 80.0)]:
        assert surface.offset_um(x_um, y_um) == pytest.approx(-height_um(x_um), abs=0.1)
    assert surface.residual_um < 0.1
    stream = next(doc for name, doc in documents if name == "descriptor" and doc["name"] == "focus")
    assert sum(doc.get("descriptor") == stream["uid"] for name, doc in documents if name == "event") == 5
    assert microscope.world.lenses().defocus_um == -0.5
    assert microscope.world.lenses().beam_blanked


@pytest.mark.parametrize(("fault", "words"), [("beam_loss", "no beam"), ("frozen_frame", "same frame twice")])
@pytest.mark.parametrize("method", ["beam_tilt", "sharpness", "power_spectrum"])
def test_a_fault_gives_a_reason_and_no_number(
    microscope: Microscope, method: FocusMethod, fault: str, words: str
) -> None:
    microscope.go(0.0, 0.0)
    microscope.set(defocus_um=1.5)
    before = microscope.state()
    inject(microscope.world, make_fault(fault, at_exposure=microscope.world.exposures(), count=3))
    result, _ = microscope.run(autofocus(*microscope.instruments, FocusSpec(method=method, max_iterations=1)))
    assert not result.converged
    assert words in result.reason
    assert math.isnan(result.offset_um)
    assert result.confidence == 0
    assert microscope.world.lenses().defocus_um == 1.5
    assert microscope.state() == before
    _clear(microscope)


def _clear(microscope: Microscope) -> None:
    """Expose until no fault is left."""
    from plans.stubs.snap import snap

    for _ in range(4):
        microscope.run(snap(microscope.devices.camera, microscope.devices.column, 0.01, binning=8))


@pytest.mark.parametrize("plan", [autofocus_run, autostigmate_run])
def test_a_failure_leaves_everything_as_it_was(microscope: Microscope, plan: Any) -> None:
    microscope.go(20.0, 0.0)
    microscope.set(
        defocus_um=1.0, beam_tilt_mrad=np.array([0.5, -0.2]), objective_stigmator=np.array([0.02, 0.01])
    )
    before = microscope.state()
    at = microscope.world.exposures() + 4
    inject(microscope.world, make_fault("camera_timeout", at_exposure=at))
    spec = FocusSpec(magnification=10_000, offset_um=(15.0, 0.0))
    with pytest.raises(MontangoError, match="camera"):
        microscope.run(plan(*microscope.instruments, spec))
    assert microscope.state() == before
    assert microscope.world.lenses().defocus_um == 1.0
    assert microscope.world.lenses().objective_stigmator == (0.02, 0.01)
    assert microscope.position() == pytest.approx([20, 0], abs=0.5)
    microscope.set(beam_tilt_mrad=np.zeros(2), objective_stigmator=np.zeros(2))


def test_a_correction_out_of_range_is_refused(microscope: Microscope) -> None:
    microscope.go(0.0, 0.0)
    microscope.set(defocus_um=15.0)
    result, _ = microscope.run(autofocus(*microscope.instruments, FocusSpec(range_um=5)))
    assert not result.converged
    assert "range_um = 5" in result.reason
    assert microscope.world.lenses().defocus_um == 15.0


@pytest.mark.parametrize(
    ("plan", "fields", "error", "words"),
    [
        (autofocus_run, {"offset_um": (2000.0, 0.0)}, LimitError, "outside the stage's limits"),
        (focus_map_run, {}, ConfigurationError, "map_points_um"),
        (
            focus_map_run,
            {"map": "plane", "map_points_um": ((0, 0), (1, 0), (0, 5000))},
            LimitError,
            "focus place",
        ),
    ],
)
def test_wrong_input_is_refused_before_anything_moves(
    microscope: Microscope, plan: Any, fields: dict[str, Any], error: type[Exception], words: str
) -> None:
    microscope.go(1.0, 1.0)
    made, before = microscope.world.exposures(), microscope.state()
    with pytest.raises(error, match=words):
        microscope.run(plan(*microscope.instruments, FocusSpec(**fields)))
    assert microscope.world.exposures() == made
    assert microscope.state() == before
    assert microscope.position() == pytest.approx([1, 1], abs=0.5)


def test_results_are_what_they_say(microscope: Microscope) -> None:
    microscope.go(0.0, 0.0)
    microscope.set(defocus_um=0.0)
    spec = FocusSpec()
    focused, _ = microscope.run(autofocus_run(*microscope.instruments, spec))
    stigmated, _ = microscope.run(
        autostigmate_run(*microscope.instruments, FocusSpec(magnification=10_000, binning=1))
    )
    assert isinstance(focused, FocusResult)
    assert isinstance(stigmated, StigmatorResult)
    assert stigmated.exposures >= 12
