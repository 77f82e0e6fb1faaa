"""How well focus and astigmatism are measured, against the simulator's truth: ``montango bench focus``."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import numpy as np
from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.column.device import Column
from devices.stage.device import Stage
from plans.specs.focus import FocusSpec
from plans.stubs.focus import autofocus, autostigmate
from sim.alignment import astigmatism_um
from sim.world import World

DEFOCUS_LIMIT_UM = 0.1
ASTIGMATISM_LIMIT = 0.05
DEFOCI_UM = tuple(float(x) for x in range(-5, 6))
STIGMATORS = ((0.05, 0.0), (0.0, -0.1), (0.1, 0.1), (-0.15, 0.1))
STEP_UM = 25.0


@dataclass(frozen=True, slots=True)
class Accuracy:
    """One comparison: what, in which unit, what it is, what was found, the limit of the error."""

    name: str
    unit: str
    true: float
    found: float
    limit: float

    @property
    def error(self) -> float:
        """Found less true."""
        return self.found - self.true

    @property
    def ratio(self) -> float:
        """Size of the error over its limit; infinite where nothing was found."""
        return abs(self.error) / self.limit if math.isfinite(self.found) else math.inf


def focus_accuracy(
    camera: Camera,
    column: Column,
    stage: Stage,
    world: World,
    *,
    focus: FocusSpec | None = None,
    stigmation: FocusSpec | None = None,
) -> Generator[Msg, Any, list[Accuracy]]:
    """Autofocus from eleven defoci, -5 to 5 um, at places of their own, and correct four astigmatisms.

    Leaves defocus, stigmator and stage as they were.

    Parameters
    ----------
    camera, column, stage
        The instruments of a simulated laboratory.
    world
        Its world.
    focus, stigmation
        How; the defaults are beam tilt, and power spectra at magnification 10000 without binning.
    """
    lenses = world.lenses()
    x_um, y_um = (yield Msg("locate", stage))["readback"][:2]
    results: list[Accuracy] = []
    for n, start_um in enumerate(DEFOCI_UM):
        place_um = (x_um + STEP_UM * (n - 5), y_um)
        height_um = specimen_height_um(world, *place_um)
        yield from bps.mv(stage, place_um, column.defocus_um, start_um - height_um)
        found = yield from autofocus(camera, column, stage, focus or FocusSpec())
        results.append(
            Accuracy(f"defocus from {start_um:+g} um", "um", -height_um, found.offset_um, DEFOCUS_LIMIT_UM)
        )
    yield from bps.mv(stage, (x_um, y_um), column.defocus_um, -specimen_height_um(world, x_um, y_um) - 0.2)
    spec = stigmation or FocusSpec(magnification=10_000, binning=1)
    for stigmator in STIGMATORS:
        yield from bps.mv(column.objective_stigmator, np.array(stigmator))
        true_um = math.hypot(*astigmatism_um(world.config.column, world.lenses()))
        seen = yield from autostigmate(camera, column, stage, spec)
        results.append(
            Accuracy(
                f"astigmatism {true_um:.2f} um",
                "um",
                true_um,
                seen.amplitude_um if seen.converged else math.nan,
                ASTIGMATISM_LIMIT * true_um,
            )
        )
    yield from bps.mv(
        column.defocus_um, lenses.defocus_um, column.objective_stigmator, np.array(lenses.objective_stigmator)
    )
    return results


def specimen_height_um(world: World, x_um: float, y_um: float) -> float:
    """Return the specimen's height over the plane of focus at a place on the stage, its z included, um."""
    config, placement = world.config, world.placement()
    specimen = config.specimen_of(config.sample(placement.slot)) if config.samples else config.specimen
    return specimen.height_um(*placement.to_sample(x_um, y_um)) + world.motion().encoder(0.0)[2]


def report(results: list[Accuracy]) -> list[str]:
    """Return a line of text a comparison, the worst last."""
    return [
        f"{one.name:28} true {one.true:8.3f}  found {one.found:8.3f} {one.unit}  error {one.error:+.4f}  "
        f"ratio to limit {one.ratio:.2f}"
        for one in sorted(results, key=lambda one: one.ratio)
    ]


def run() -> int:
    """Start a laboratory of its own, print each error beside its limit; 0 if all are kept, else 1."""
    import yaml
    from bluesky.run_engine import RunEngine

    from montango.config import dump_config, load_config
    from montango.lab import running_lab

    data = yaml.safe_load(dump_config(load_config()))
    data["simulation"] |= {"timing": "fast"}
    data["simulation"]["camera"] |= {"width_px": 1024, "height_px": 1024}
    data["services"]["tiled"] = {"uri": "http://127.0.0.1:9"}
    data["facility"]["ioc"] = None
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="montango-bench-") as name, contextlib.ExitStack() as stack:
        path = Path(name) / "montango.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        lab = stack.enter_context(running_lab(load_config(path), Path(name) / "lab", wait=True))
        from profiles.simulated.devices import make_devices

        engine = RunEngine({})
        devices = make_devices(lab.info())
        world = stack.enter_context(World.open(lab.state.world))
        results: list[Accuracy] = []

        def plan() -> Generator[Msg, Any, None]:
            results.extend((yield from focus_accuracy(devices.camera, devices.column, devices.stage, world)))

        engine(plan())
        devices.disconnect()
    os.environ.clear()
    os.environ.update(before)
    print("\n".join(report(results)))
    worst = max(one.ratio for one in results)
    print(f"worst ratio to its limit: {worst:.2f} (1 or less is kept)")
    return 0 if worst <= 1 else 1
