"""Pre-irradiation: the area of a montage gets a dose before it is imaged, so that it shrinks first."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.column.device import Column
from devices.errors import ConfigurationError
from devices.stage.device import Stage
from plans.checks import check_positions
from plans.montage import make_safe
from plans.preprocessors import plain_errors, tolerate
from plans.specs.grid import Grid, Tile, make_grid
from plans.specs.montage import MontageSpec
from plans.specs.view import View
from plans.stubs.ask import ask, read_now
from plans.stubs.setup import read_beam, with_settings
from plans.stubs.view import view_from
from plans.unbroken import unbroken
from plans.verdicts import EventReadable, save_event

Point = tuple[float, float]


def preirradiate(
    camera: Camera,
    column: Column,
    stage: Stage,
    spec: MontageSpec,
    md: dict[str, Any] | None = None,
    *,
    dose_e_per_a2: float | None = None,
    time_s: float | None = None,
) -> Generator[Msg, Any, float]:
    """Irradiate the area of a montage with the beam as it is, without taking images.

    Discs of the illuminated area are laid so that every tile is covered; the beam is on only while the stage
    is still. Overlapping discs give some places up to four times the dose of one.

    Parameters
    ----------
    camera, column, stage
        The instruments. The camera's pre-specimen shutter is opened meanwhile.
    spec
        The montage whose area it is.
    md
        Metadata of the run.
    dose_e_per_a2, time_s
        Dose of one disc, e/A^2, or its time, s: one of them.

    Returns
    -------
    float
        The time of a disc, s.

    Raises
    ------
    ConfigurationError
        Both or neither of dose and time, not over 0, or the dose is not known; nothing has moved.
    LimitError
        A place outside the stage's limits; nothing has moved.

    Examples
    --------
    >>> RE(preirradiate(camera, column, stage, spec, dose_e_per_a2=20.0))  # doctest: +SKIP
    """
    value = dose_e_per_a2 if dose_e_per_a2 is not None else time_s
    if (dose_e_per_a2 is None) == (time_s is None) or value is None or not 0 < value < math.inf:
        raise ConfigurationError(
            f"preirradiate with dose_e_per_a2 = {dose_e_per_a2}, time_s = {time_s}: give one of them, over 0"
        )

    def plan() -> Generator[Msg, Any, float]:
        beam = yield from read_beam(column, required=True)
        seconds = time_s if time_s is not None else (dose_e_per_a2 or 0.0) / beam.flux_e_per_a2_s
        view = yield from view_from(None, camera, column)
        position = (yield Msg("locate", stage))["readback"]
        places = cover(make_grid(spec, view, (position[0], position[1])), view, beam.diameter_um)
        tiles = [Tile(i, 0, 0, i, x, y, 0.0, 0.0, x, y, i) for i, (x, y) in enumerate(places)]
        check_positions(tiles, (yield from ask(stage.limits)))
        metadata = {
            "plan_name": "preirradiate",
            "purpose": "irradiation",
            "montage_spec": spec.model_dump(mode="json"),
            "num_points": len(places),
            "dose_e_per_a2": beam.flux_e_per_a2_s * seconds,
            **(md or {}),
        }
        exposed = _irradiate(camera, column, stage, places, seconds, beam.flux_e_per_a2_s)
        yield from bpp.finalize_wrapper(
            bpp.run_wrapper(exposed, md=metadata), lambda: make_safe(column, stage)
        )
        return seconds

    return (yield from plain_errors(unbroken(with_settings(camera, column, spec, plan))))


def _irradiate(
    camera: Camera, column: Column, stage: Stage, places: Iterable[Point], seconds: float, flux: float
) -> Generator[Msg, Any, None]:
    readable = EventReadable("irradiation", "plans.preirradiate")
    (shutter,) = yield from read_now(camera, "shutter_mode")

    def body() -> Generator[Msg, Any, None]:
        yield from bps.clear_checkpoint()  # a pause would leave the beam on: it ends the plan instead
        yield from bps.abs_set(column.beam_blanked, True, wait=True)
        yield from bps.abs_set(camera.shutter_mode, "NONE", wait=True)
        for x_um, y_um in places:
            yield from bps.abs_set(stage, (x_um, y_um), wait=True)
            yield from bps.abs_set(column.beam_blanked, False, wait=True)
            yield from bps.sleep(seconds)
            yield from bps.abs_set(column.beam_blanked, True, wait=True)
            data = {"irradiated_x_um": x_um, "irradiated_y_um": y_um, "irradiated_e_per_a2": flux * seconds}
            yield from save_event(readable, data)

    def close_shutter() -> Generator[Msg, Any, None]:
        yield from tolerate(bps.abs_set(column.beam_blanked, True, wait=True), "blanking the beam")
        yield from tolerate(
            bps.abs_set(camera.shutter_mode, shutter, wait=True), "setting the camera's shutter back"
        )

    yield from bpp.finalize_wrapper(body(), close_shutter)


def cover(grid: Grid, view: View, diameter_um: float) -> list[Point]:
    """Return the centres of discs that cover every tile of a grid, in stage um, back and forth along x.

    Parameters
    ----------
    grid, view
        The tiles, and what a frame shows.
    diameter_um
        Of a disc. Its inscribed squares cover the plane.
    """
    pitch = diameter_um / math.sqrt(2)
    reach = math.hypot(view.width_um, view.height_um) / 2
    cells: set[tuple[int, int]] = set()
    for tile in grid.tiles:
        x0, x1 = (round((tile.centre_x_um + side * reach) / pitch) for side in (-1, 1))
        y0, y1 = (round((tile.centre_y_um + side * reach) / pitch) for side in (-1, 1))
        cells |= {(i, j) for i in range(x0, x1 + 1) for j in range(y0, y1 + 1)}
    ordered = sorted(cells, key=lambda cell: (cell[1], cell[0] if cell[1] % 2 == 0 else -cell[0]))
    return [(i * pitch, j * pitch) for i, j in ordered]
