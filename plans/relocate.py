"""Finding the stage again after a power cut: one image of a tile that was acquired says how far it is off."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Generator
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.camera.snap import Snap
from devices.column.device import Column
from devices.errors import InstrumentFault, LimitError
from devices.stage.device import Stage
from plans.acquired_tiles import (
    AcquiredTile,
    acquired_tiles,
    choose_tile,
    diagonal_um,
    locate,
    near_tiles,
)
from plans.dose import DoseMap
from plans.record import MontageRecord
from plans.specs.grid import make_grid
from plans.specs.montage import MontageSpec
from plans.specs.view import View
from plans.stubs.acquisition import Beam
from plans.stubs.ask import ask, read_now
from plans.stubs.setup import read_beam, with_settings
from plans.stubs.snap import snap
from plans.stubs.stage_offset import ReferenceImage, StageOffset, reference_doses
from processing.kernels.shift import MIN_SIDE_PX, Shift

logger = logging.getLogger(__name__)

MAX_OFFSET_UM = 10.0
MIN_PEAK = 0.3
"""Smallest correlation that is believed; images of other places reach 0.1 or so."""
SPARING = 2
"""Factor by which the image is binned more than the tiles; squared, by which it is exposed less."""


def find_stage_offset(
    camera: Camera,
    column: Column,
    stage: Stage,
    record: MontageRecord,
    spec: MontageSpec,
    *,
    max_offset_um: float = MAX_OFFSET_UM,
) -> Generator[Msg, Any, StageOffset]:
    """Take one image at a good tile of a montage and return how far the stage is off.

    The tile is one whose exposure reaches none that is still to be acquired, with as many acquired tiles as
    possible around it and much contrast. The image has a quarter of a tile's dose where the camera can bin by
    2 more.

    Parameters
    ----------
    camera, column, stage
        The instruments. The sequencer must be idle.
    record, spec
        The montage: what there is of it, and what is acquired.
    max_offset_um
        A larger offset is refused.

    Raises
    ------
    ConfigurationError
        There is no good tile to compare with.
    LimitError
        The image would exceed ``spec.max_dose_e_per_a2``, or lies outside the stage's limits; nothing has
        moved.
    InstrumentFault
        The image looks like nothing that was acquired there, or the offset is too large.
    """
    if not (math.isfinite(max_offset_um) and max_offset_um > 0):
        raise LimitError(f"max_offset_um = {max_offset_um:g} is not a distance over 0 um")

    def search() -> Generator[Msg, Any, StageOffset]:
        return (yield from _search(camera, column, stage, record, spec, max_offset_um))

    return (yield from with_settings(camera, column, spec, search))


def _search(
    camera: Camera,
    column: Column,
    stage: Stage,
    record: MontageRecord,
    spec: MontageSpec,
    max_offset_um: float,
) -> Generator[Msg, Any, StageOffset]:
    view, known = View(**record.start["montage_view"]), StageOffset.known(record)
    beam = yield from read_beam(column)
    good = yield from ask(lambda: asyncio.to_thread(acquired_tiles, record))
    tile = yield from ask(
        lambda: asyncio.to_thread(choose_tile, good, record, spec, view, beam, max_offset_um)
    )
    _check_dose(record, spec, known, beam, tile)
    shift_x, shift_y = (yield from read_now(column, "image_shift_um"))[0]
    (a, b), (c, d) = view.stage_per_shift
    seen_x, seen_y = a * shift_x + b * shift_y, c * shift_x + d * shift_y
    ((x_um, y_um),) = known.places([tile.centre_um])
    target = float(x_um - seen_x), float(y_um - seen_y)
    (yield from ask(stage.limits)).check({"x_um": target[0], "y_um": target[1]})
    if spec.defocus_um is not None:
        yield from bps.abs_set(column.defocus_um, spec.defocus_um, wait=True)
    yield from bps.abs_set(stage, target, wait=True)
    if spec.settle_s:
        yield from bps.sleep(spec.settle_s)
    position = (yield Msg("locate", stage))["readback"]
    image = yield from _sparing_snap(camera, column, spec)
    at_um = float(position[0] + seen_x), float(position[1] + seen_y)
    near = near_tiles(good, tile.centre_um, max_offset_um + diagonal_um(view))
    (binning,) = yield from read_now(camera, "binning")
    scale = image.binning / float(binning)
    found, place_um = yield from ask(lambda: asyncio.to_thread(locate, image.data, scale, near, view))
    offset_um = at_um[0] - place_um[0], at_um[1] - place_um[1]
    _check(record, found, math.dist(offset_um, known.offset_um), max_offset_um)
    logger.warning(
        "montage %s: the stage reads (%+.3f, %+.3f) um against its coordinates (correlation %.2f)",
        record.montage_id, *offset_um, found.peak,
    )  # fmt: skip
    dose = beam.flux_e_per_a2_s * image.exposure_time_s
    pixel_um = view.pixel_size_nm * 1e-3 * scale
    about = ReferenceImage(
        *tile.key, *place_um, found.peak, found.error_px * pixel_um, image.exposure_time_s, image.binning,
        dose, beam.diameter_um,
    )  # fmt: skip
    return StageOffset(offset_um, about)


def _sparing_snap(camera: Camera, column: Column, spec: MontageSpec) -> Generator[Msg, Any, Snap]:
    """Take the image with as little dose as the camera allows."""
    binning, region, height_px, width_px = yield from read_now(
        camera, "binning", "region_px", "height_px", "width_px"
    )
    region_px = [int(number) for number in region]
    if min(height_px, width_px) >= 2 * SPARING * MIN_SIDE_PX:
        exposure_s, coarse = spec.exposure_time_s / SPARING**2, int(binning) * SPARING
        try:
            return (yield from snap(camera, column, exposure_s, binning=coarse, region_px=region_px))
        except LimitError as error:
            logger.info("the reference image is exposed as a tile: %s", error)
    return (yield from snap(camera, column, spec.exposure_time_s, binning=int(binning), region_px=region_px))


def _check_dose(
    record: MontageRecord, spec: MontageSpec, known: StageOffset, beam: Beam, tile: AcquiredTile
) -> None:
    """Refuse an image that would give a place more than the montage may."""
    limit, dose = spec.max_dose_e_per_a2, beam.flux_e_per_a2_s * spec.exposure_time_s
    if limit is None:
        return
    doses = DoseMap()
    grid = make_grid(spec, View(**record.start["montage_view"]), tuple(record.start["montage_centre_um"]))
    for one in known.shifted(grid).tiles:
        for _ in range(record.next_attempt(one)):
            doses.add(one.centre_x_um, one.centre_y_um, beam.diameter_um, dose)
    for disc in reference_doses(record, known):
        doses.add(*disc)
    ((x_um, y_um),) = known.places([tile.centre_um])
    prior = doses.largest(x_um, y_um, beam.diameter_um)
    if not prior + dose <= limit * (1 + 1e-9):
        raise LimitError(
            f"the reference image at row {tile.key.row}, column {tile.key.column} may give {dose:.3g} e/A^2 "
            f"to a place that has had {prior:.3g}, over max_dose_e_per_a2 = {limit:g}; resume with "
            f"reference = readback, or accept a higher limit"
        )


def _check(record: MontageRecord, found: Shift, changed_um: float, max_offset_um: float) -> None:
    if not found.found or found.peak < MIN_PEAK:
        raise InstrumentFault(
            f"montage {record.montage_id} does not go on: the reference image looks like no tile within "
            f"max_offset_um = {max_offset_um:g} (correlation {found.peak:.2f}, {MIN_PEAK:g} are needed); see "
            f"whether the right sample is in, in focus, with beam; bring the stage to where it was, or, if "
            f"it is right as it reads, resume with reference = readback"
        )
    if changed_um > max_offset_um:
        raise InstrumentFault(
            f"montage {record.montage_id} does not go on: the stage is {changed_um:.2f} um off, over "
            f"max_offset_um = {max_offset_um:g}; find its reference again, or allow more"
        )
