"""Focusing within a montage: when the schedule says so, after a fault, and the map before the first tile."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator
from typing import Any

import bluesky.plan_stubs as bps
import numpy as np
from bluesky.utils import Msg

from devices.errors import Aborted
from plans.preprocessors import cause_of
from plans.specs.focus import POINTS_NEEDED
from plans.specs.grid import Tile
from plans.stubs.acquisition import Acquisition
from plans.stubs.focus import FocusResult, autofocus, measure_focus_map, save_focus, spread_points

logger = logging.getLogger(__name__)

EXTRA_POINTS = {"plane": 2, "paraboloid": 3}
"""Places more than the surface needs, so that residuals say something."""
TRIES = 3


def refocus(run: Acquisition, tile: Tile, reason: str) -> Generator[Msg, Any, None]:
    """Measure focus at a tile and use it from there on. The sequencer must be idle."""
    assert run.spec.focus is not None
    assert run.schedule is not None
    logger.info("focusing at tile (row %d, column %d): %s", tile.row, tile.column, reason)
    with run.clock("focus" if run.exposed else "before"):
        yield from _unshift(run)
        result = yield from _measure(run, tile)
    run.schedule.done(tile)
    run.focus_wanted = ""
    if not result.converged:
        logger.warning("focus was not found at (%.1f, %.1f) um: %s", result.x_um, result.y_um, result.reason)
    else:
        run.correct_map(result.offset_um, result.x_um, result.y_um)


def map_focus(run: Acquisition) -> Generator[Msg, Any, None]:
    """Measure the focus map that the specification asks for, before the first tile."""
    spec = run.spec.focus
    assert spec is not None
    assert spec.map is not None
    places = run.stage_offset.places(spec.map_points_um or ())
    if not places:
        count = POINTS_NEEDED[spec.map] + EXTRA_POINTS[spec.map]
        places = spread_points([(tile.centre_x_um, tile.centre_y_um) for tile in run.grid.tiles], count)
    with run.clock("before"):
        yield from _unshift(run)
        run.focus_map, _ = yield from measure_focus_map(
            run.camera,
            run.column,
            run.stage,
            spec,
            places,
            save=lambda result: _keep(run, result),
            calibrations=run.calibrations,
        )
    logger.info("focus map: %s, residual %.3f um", run.focus_map.kind, run.focus_map.residual_um)


def _measure(run: Acquisition, tile: Tile) -> Generator[Msg, Any, FocusResult]:
    """Focus at a tile; begun again where a pause of the RunEngine stopped the stage on its way."""
    spec = run.spec.focus
    assert spec is not None
    for left in reversed(range(TRIES)):
        try:
            yield from bps.abs_set(run.stage, (tile.centre_x_um, tile.centre_y_um), wait=True)
            result: FocusResult = yield from autofocus(
                run.camera, run.column, run.stage, spec, calibrations=run.calibrations
            )
        except Exception as failure:
            if not left or not isinstance(cause_of(failure), Aborted):
                raise
            logger.warning("focusing was stopped and begins again: %s", cause_of(failure))
        else:
            yield from _keep(run, result)
            return result
    raise AssertionError


def _keep(run: Acquisition, result: FocusResult) -> Generator[Msg, Any, None]:
    """Write a result into stream ``focus``, and its exposures into the map of doses."""
    yield from save_focus(result)
    if not math.isnan(result.dose_e_per_a2) and not math.isnan(run.beam.diameter_um):
        run.doses.add(result.x_um, result.y_um, run.beam.diameter_um, result.dose_e_per_a2)


def _unshift(run: Acquisition) -> Generator[Msg, Any, None]:
    """Bring the image shift back to where it was before the montage: focus is measured about the axis."""
    if run.grid.supertile != (1, 1):
        yield from bps.abs_set(run.column.image_shift_um, np.array(run.base_shift_um), wait=True)
