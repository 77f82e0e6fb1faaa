"""`montango bench calibrate`: every calibration on real servers, against the truth of the simulation.

The truth differs from what the column reports. ``--write-docs`` writes the table into the documentation.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from bluesky.run_engine import RunEngine
from bluesky.utils import Msg

import montango
from devices.errors import ConfigurationError, MontangoError
from montango.bench.tiles import instruments, say
from montango.config import MontangoConfig, dump_config, load_config
from montango.lab import running_lab
from sim.config import SimulationConfig

PAGE = Path("docs/reference/calibration-accuracy.md")
MAGNIFICATION, FINE, COARSE = 5000.0, 20_000.0, 100.0
DEFOCI_UM = tuple(float(value) for value in np.linspace(-5, 5, 9))
APERTURE_RADIUS_UM = 120.0
TRUTH: dict[str, Any] = {
    "column": {
        "pixel_size_error": 0.013,
        "rotation_error_deg": -0.8,
        "image_shift_matrix": [[0.97, -0.06], [0.045, 1.02]],
        "beam_offset_um": [0.42, -0.31],
        "beam_size_error": 0.06,
        "astigmatism_um": 0.9,
        "astigmatism_angle_deg": 25.0,
        "stigmator_rotation_deg": 12.0,
    },
    "stage": {"backlash_um": 0.25},
    "specimen": {
        "grain": 0.08,
        "focus_offset_um": 0.7,
        "aperture": {"shape": "disc", "radius_um": APERTURE_RADIUS_UM, "centre_um": [6.3, -4.1]},
    },
}

HEAD = """# Accuracy of the calibrations

Made by `montango bench calibrate --write-docs`: every calibration runs as a plan, on the device servers of a
laboratory, over a simulated microscope whose truth differs from what its column reports. Frames have
{px} x {px} pixels; timing is `{timing}`. The last column is error / limit: below 1 the limit is kept.

| calibration | truth | measured | error | limit | error / limit |
|---|---|---|---|---|---|
"""
TAIL = """

The simulated stage steps with noise (50 nm rms, seen by its encoder), reads back with 4 nm of noise, and has
a cyclic error of 20 nm over 61 and 42 um and 0.02 deg between its axes that its encoder does not see: lines
of 100 um average the first out of the pixel size, and half of the last is in the rotation. The distortion of
the lenses (3 px at the edge of 2048 px frames) is fitted and taken out, so matrices are those of the middle
of the frame. The hole is approached from below, as the backlash was measured: its centroid as the stage reads
it lies half of the backlash, 0.125 um along x and y, above the true one.
"""


class Row(NamedTuple):
    """A line of the table: what, its truth and measurement in words, its error and the limit in one unit."""

    what: str
    truth: str
    measured: str
    error: float
    limit: float
    unit: str

    @property
    def ratio(self) -> float:
        """Error over limit."""
        return self.error / self.limit

    @property
    def kept(self) -> bool:
        """Whether the error is within the limit (NaN is not)."""
        return self.error <= self.limit


@dataclass
class Bench:
    """The laboratory's devices, the engine, the store, and the truth."""

    engine: RunEngine
    devices: Any
    store: Any
    simulation: SimulationConfig

    def run(self, plan: Generator[Msg, Any, Any]) -> Any:
        """Run a plan and return what it returns."""
        kept: list[Any] = []

        def keep() -> Generator[Msg, Any, None]:
            kept.append((yield from plan))

        self.engine(keep())
        return kept[0]

    @property
    def three(self) -> tuple[Any, Any, Any]:
        """Camera, column and stage."""
        return self.devices.camera, self.devices.column, self.devices.stage

    def set(self, **settings: Any) -> None:
        """Change settings of the column."""
        import bluesky.plan_stubs as bps

        for name, value in settings.items():
            self.run(bps.mv(getattr(self.devices.column, name), value))


def run(arguments: Sequence[str]) -> int:
    """Measure and print; the exit status is 1 if a limit is not kept.

    Raises
    ------
    ConfigurationError
        An option is unknown, or the documentation to write to is not there.
    """
    options = _options(arguments)
    page = Path(montango.__file__ or "").parents[1] / PAGE
    if options.write_docs and not page.parent.is_dir():
        raise ConfigurationError(f"there is no {page.parent} to write to; run this in a checkout")
    with tempfile.TemporaryDirectory(prefix="montango-bench-") as folder:
        rows = _measure(Path(folder), options)
    if options.write_docs and any(math.isnan(row.error) for row in rows):
        say("not written: a measurement failed")
    elif options.write_docs:
        page.write_text(table(rows, options.frame_px, "fast" if options.fast else "real"))
        say(f"written: {page}")
    return 0 if all(row.kept for row in rows) else 1


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="montango bench calibrate", exit_on_error=False)
    parser.add_argument("--write-docs", action="store_true", help=f"write {PAGE}")
    parser.add_argument("--fast", action="store_true", help="no simulated delays: the stage is still at once")
    parser.add_argument("--frame-px", type=int, default=2048, help="side of the camera's frames")
    parser.add_argument("--only", nargs="+", default=[], help="some of the measurements, by name")
    try:
        options = parser.parse_args(list(arguments))
    except argparse.ArgumentError as error:
        raise ConfigurationError(f"montango bench calibrate: {error}") from None
    if options.only and options.write_docs:
        raise ConfigurationError("--write-docs writes the whole table; leave --only out")
    return options


def _config(frame_px: int, timing: str) -> MontangoConfig:
    data = yaml.safe_load(dump_config(load_config()))
    simulation = data["simulation"]
    simulation["timing"] = timing
    simulation["camera"].update(width_px=frame_px, height_px=frame_px)
    for section, values in TRUTH.items():
        simulation[section] = {**(simulation.get(section) or {}), **values}
    data["paths"]["minimum_free_gb"] = 0.5
    data["lab"]["name"] = "bench"
    data["facility"]["ioc"] = None
    return MontangoConfig.model_validate(data)


def _measure(folder: Path, options: argparse.Namespace) -> list[Row]:
    from montango.bench._calibrations import MEASUREMENTS
    from plans.calibrations import CalibrationStore

    frame_px, timing = options.frame_px, "fast" if options.fast else "real"
    config = _config(frame_px, timing)
    assert config.simulation is not None
    say(f"calibrations against the simulation's truth, {frame_px} px frames, timing {timing}")
    rows: list[Row] = []
    with running_lab(config, folder / "lab") as lab:
        store = CalibrationStore(folder / "calibrations")
        bench = Bench(RunEngine({}), instruments(lab.info()), store, config.simulation)
        for measurement in MEASUREMENTS:
            if not options.only or measurement.__name__ in options.only:
                rows += _safely(measurement, bench)
    return rows


def _safely(measurement: Callable[[Bench], list[Row]], bench: Bench) -> list[Row]:
    """Run a measurement and print its rows; one that fails is a row that keeps no limit."""
    started = time.monotonic()
    try:
        rows = measurement(bench)
    except MontangoError as error:
        rows = [Row(measurement.__name__.replace("_", " "), "", f"failed: {error}", math.nan, 1.0, "")]
    for row in rows:
        ratio = f"{row.error:.3g} {row.unit} / {row.limit:g} {row.unit} = {row.ratio:.2f}"
        say(f"  {row.what:34s}{row.measured:34s}{ratio}   {'kept' if row.kept else 'NOT KEPT'}")
    say(f"    ({time.monotonic() - started:.0f} s)")
    return rows


def table(rows: Sequence[Row], frame_px: int, timing: str) -> str:
    """Return the page of the documentation."""
    head = HEAD.format(px=frame_px, timing=timing)
    lines = [
        f"| {row.what} | {row.truth} | {row.measured} | {row.error:.2g} {row.unit} | "
        f"{row.limit:g} {row.unit} | {row.ratio:.2f}{'' if row.kept else ' (not kept)'} |"
        for row in rows
    ]
    return head + "\n".join(lines) + TAIL
