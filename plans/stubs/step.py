"""A tile from the plan, without the sequencer: for plans that decide at every tile."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import numpy as np
from bluesky.utils import FailedStatus, Msg

from devices.errors import InstrumentFault
from devices.sequencer.driver import Blanking
from devices.stage.moves import MoveRequest
from plans.preprocessors import cause_of
from plans.stubs.acquisition import Acquisition, Item
from plans.stubs.ask import read_now
from plans.stubs.blocks import within_dose
from plans.stubs.judge import describe


def step_tiles(run: Acquisition, items: Sequence[Item]) -> Generator[Msg, Any, None]:
    """Move, settle and expose tiles; the readout of each goes on while the plan goes on."""
    for item in items:
        prior = run.prior_dose(item.tile)
        if within_dose(run, item, prior):
            run.count_dose(item.tile)
            run.exposed.append(item)
            yield from _step_tile(run, item, prior)


def _step_tile(run: Acquisition, item: Item, prior: float) -> Generator[Msg, Any, None]:
    tile, request = item.tile, run.request(item, prior)
    each = run.options.blanking == Blanking.COLUMN
    if not run.unblanked:
        (run.defocus_um,) = yield from read_now(run.column, "defocus_um")
        run.unblanked = True
        if not each:
            yield from bps.abs_set(run.column.beam_blanked, False, wait=True)
    yield from _lenses(run, item)
    started = time.perf_counter()
    tries, position = yield from _move(run, item)
    arrived = time.perf_counter()
    if run.spec.settle_s:
        yield from bps.sleep(run.spec.settle_s)
        position = (yield Msg("locate", run.stage))["readback"]
    settled = time.perf_counter()
    columns = (
        tile.raster_index,
        tile.roi,
        tile.row,
        tile.column,
        item.attempt,
        tile.x_um,
        tile.y_um,
        *position[:3],
        position[0] + request.centre_dx_um,
        position[1] + request.centre_dy_um,
        *run.shift_um,
        run.defocus_um,
        arrived - started,
        settled - arrived,
        tries,
        math.nan,
        run.exposure_dose,
        prior,
    )
    if each:
        yield from bps.abs_set(run.column.beam_blanked, False, wait=True)
    yield Msg("set", run.camera.shutter, np.array(columns, float), group="expose")
    yield Msg("wait", None, group="expose")
    if each:
        yield from bps.abs_set(run.column.beam_blanked, True, wait=True)


def park(run: Acquisition) -> Generator[Msg, Any, None]:
    """Blank the beam: no tile follows at once."""
    if run.unblanked:
        run.unblanked = False
        yield from bps.abs_set(run.column.beam_blanked, True, wait=True)


def _lenses(run: Acquisition, item: Item) -> Generator[Msg, Any, None]:
    """Set image shift and defocus where they differ from what is set."""
    tile, defocus_um = item.tile, run.defocus_of(item.tile)
    if run.grid.supertile != (1, 1):
        shift = (tile.image_shift_x_um, tile.image_shift_y_um)
        if shift != run.shift_um:
            yield from bps.abs_set(run.column.image_shift_um, np.array(shift), wait=True)
            run.shift_um = shift
    if not math.isnan(defocus_um) and defocus_um != run.defocus_um:
        yield from bps.abs_set(run.column.defocus_um, defocus_um, wait=True)
        run.defocus_um = defocus_um


def _move(run: Acquisition, item: Item) -> Generator[Msg, Any, tuple[int, Sequence[float]]]:
    """Move until the stage is within the tolerance; return the moves it took, and where it is.

    Raises
    ------
    InstrumentFault
        It never was.
    """
    tile, spec = item.tile, run.spec
    request = MoveRequest(tile.x_um, tile.y_um, tolerance_um=spec.tolerance_um, retries=spec.stage_retries)
    status = yield Msg("set", run.stage, request, group="move")
    try:
        yield Msg("wait", None, group="move")
    except FailedStatus as failure:
        error = cause_of(failure)
        if type(error) is InstrumentFault:
            raise InstrumentFault(f"tile {describe(item)}: {error}") from None
        raise
    result = status.result()
    return result.tries, result
