"""Before a montage: settings, grid and checks. Nothing moves, and what is set is put back."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.column.device import Column
from devices.errors import ConfigurationError
from devices.sequencer.driver import Blanking, MoveOptions
from devices.stage.device import Stage
from devices.stage.moves import SettleMode
from plans.calibrations import CalibrationKind, CalibrationStore
from plans.checks import check_disk, check_dose, check_positions, largest_dose
from plans.dose import flux_e_per_a2_s
from plans.preprocessors import tolerate
from plans.record import MontageRecord
from plans.specs.grid import Grid, make_grid
from plans.specs.montage import MontageSpec
from plans.specs.view import View
from plans.stubs.acquisition import Beam, Item
from plans.stubs.ask import ask, read_now
from plans.stubs.reference import references_for
from plans.stubs.stage_offset import StageOffset
from plans.stubs.view import read_setup, view_from

T = TypeVar("T")
SETTLE_MODES = {"fixed": SettleMode.FIXED, "readback": SettleMode.READBACK, "drift": SettleMode.DRIFT}
FRAME_NUMBERS_BYTES = 8 * 32
"""What is recorded of a tile beside its pixels."""


class Prepared(NamedTuple):
    """A montage that was checked: its tiles to acquire, and what their exposure needs to know."""

    grid: Grid
    items: list[Item]
    view: View
    centre_um: tuple[float, float]
    options: MoveOptions
    beam: Beam
    image_shift_um: tuple[float, float]
    calibration_uids: list[str]


def with_settings(
    camera: Camera, column: Column, spec: MontageSpec, plan: Callable[[], Generator[Msg, Any, T]]
) -> Generator[Msg, Any, T]:
    """Run a plan with the magnification and binning of a specification, and put back what was set before.

    A supertile's image shift is put back, too. The beam is blanked when the magnification changes.
    """
    names = ("magnification", "illuminated_area_um", "image_shift_um")
    magnification, area_um, shift = yield from read_now(column, *names)
    (binning,) = yield from read_now(camera, "binning")
    zoomed = spec.magnification is not None and not math.isclose(spec.magnification, magnification)
    binned = spec.binning is not None and spec.binning != binning

    def inner() -> Generator[Msg, Any, T]:
        if zoomed:
            yield from bps.abs_set(column.beam_blanked, True, wait=True)
            yield from bps.abs_set(column.magnification, spec.magnification, wait=True)
        if binned:
            yield from bps.abs_set(camera.binning, spec.binning, wait=True)
        return (yield from plan())

    def put_back() -> Generator[Msg, Any, None]:
        if spec.supertile != (1, 1):
            yield from _put_back(column.image_shift_um, shift, "restoring the image shift")
        if zoomed:
            yield from _put_back(column.magnification, magnification, "restoring the magnification")
            yield from _put_back(column.illuminated_area_um, area_um, "restoring the illuminated area")
        if binned:
            yield from _put_back(camera.binning, int(binning), "restoring the binning")

    return (yield from bpp.finalize_wrapper(inner(), put_back))  # type: ignore[no-any-return]


def _put_back(signal: Any, value: Any, what: str) -> Generator[Msg, Any, None]:
    yield from tolerate(bps.abs_set(signal, value, wait=True), what)


def prepare(
    camera: Camera,
    column: Column,
    stage: Stage,
    spec: MontageSpec,
    minimum_free_gb: float,
    calibrations: CalibrationStore | None,
    record: MontageRecord | None,
    offset: StageOffset,
) -> Generator[Msg, Any, Prepared]:
    """Lay out the grid, as the stage reads it now, and refuse it if anything speaks against it.

    Raises
    ------
    ConfigurationError
        A calibration, or what blanking or a settle mode needs, is missing.
    LimitError
        A tile outside the stage's limits, too little disk, or too much dose.
    """
    uids = yield from require(camera, column, spec, calibrations)
    view, centre_um = yield from _place(camera, column, stage, calibrations, record)
    grid = offset.shifted(make_grid(spec, view, centre_um))
    todo: Sequence[tuple[Any, int]] = record.todo(grid) if record else [(tile, 0) for tile in grid.tiles]
    items = [Item(tile, attempt) for tile, attempt in todo]
    roi_names = grid.roi_names if spec.rois else ()
    check_positions([item.tile for item in items], (yield from ask(stage.limits)), roi_names)
    frame_bytes = view.width_px * view.height_px * 2 + FRAME_NUMBERS_BYTES
    check_disk(Path(camera.data_dir), frame_bytes * len(items), minimum_free_gb)
    beam = yield from read_beam(column, required=spec.max_dose_e_per_a2 is not None)
    if spec.max_dose_e_per_a2 is not None and record is None:
        dose = beam.flux_e_per_a2_s * spec.exposure_time_s
        check_dose(spec.max_dose_e_per_a2, largest_dose(grid, beam.diameter_um, dose))
    options = yield from move_options(camera, spec)
    (shift,) = yield from read_now(column, "image_shift_um")
    base_shift = float(shift[0]), float(shift[1])
    return Prepared(grid, items, view, centre_um, options, beam, base_shift, uids)


def require(
    camera: Camera, column: Column, spec: MontageSpec, store: CalibrationStore | None
) -> Generator[Msg, Any, list[str]]:
    """Return the uids of the calibrations that a montage uses.

    Raises
    ------
    ConfigurationError
        One that it needs is missing; it names the plan that makes it.
    """
    needed: dict[CalibrationKind, None] = dict.fromkeys(spec.calibrations)
    if spec.supertile != (1, 1):
        needed["image_shift"] = None
    setup = yield from read_setup(camera, column)
    where: dict[str, Any] = {
        "magnification": setup.magnification,
        "camera": setup.camera,
        "binning": setup.binning,
        "exposure_time_s": spec.exposure_time_s,
    }
    if store is None:
        if needed:
            raise ConfigurationError(
                f"the montage needs calibration {', '.join(needed)}, but no calibrations were given; pass "
                f"calibrations=CalibrationStore(folder) to montage"
            )
        return []
    uids = [store.require(kind, **where).uid for kind in needed]
    used: tuple[CalibrationKind, ...] = ("stage_camera", "image_shift", "distortion")
    found = [one for kind in used if (one := store.newest(kind, **where))]
    width_px, height_px = yield from read_now(camera, "width_px", "height_px")
    size = int(width_px), int(height_px)
    found += references_for(store, setup, spec.exposure_time_s, size) or ()
    return [*uids, *(one.uid for one in found if one.uid not in uids)]


def _place(
    camera: Camera,
    column: Column,
    stage: Stage,
    calibrations: CalibrationStore | None,
    record: MontageRecord | None,
) -> Generator[Msg, Any, tuple[View, tuple[float, float]]]:
    """Return view and centre: as they are now, or as they were when the montage was begun."""
    view = yield from view_from(calibrations, camera, column)
    if record is not None and "montage_view" in record.start:
        before = View(**record.start["montage_view"])
        if (before.width_px, before.height_px) != (view.width_px, view.height_px):
            raise ConfigurationError(
                f"montage {record.montage_id} was begun with frames of {before.width_px} x "
                f"{before.height_px} px; the camera makes {view.width_px} x {view.height_px} now; set "
                f"binning and region as before"
            )
        x_um, y_um = record.start["montage_centre_um"]
        return before, (float(x_um), float(y_um))
    position = (yield Msg("locate", stage))["readback"]
    return view, (float(position[0]), float(position[1]))


def read_beam(column: Column, *, required: bool = False) -> Generator[Msg, Any, Beam]:
    """Return flux and diameter of the beam; NaN where the column reads no current.

    Raises
    ------
    ConfigurationError
        ``required``, and the dose is not known.
    """
    current_na, diameter_um = yield from read_now(column, "beam_current_na", "illuminated_area_um")
    if not required and not (current_na > 0 and diameter_um > 0):
        return Beam()
    return Beam(flux_e_per_a2_s(float(current_na), float(diameter_um)), float(diameter_um))


def move_options(camera: Camera, spec: MontageSpec) -> Generator[Msg, Any, MoveOptions]:
    """Return how the sequencer approaches, settles and blanks.

    Raises
    ------
    ConfigurationError
        The specification asks for what its mode or the camera cannot do.
    """
    (shutter,) = yield from read_now(camera, "shutter_mode")
    has_shutter = shutter == "PRE_SPECIMEN"
    if spec.blanking == "shutter" and not has_shutter:
        raise ConfigurationError(
            f"blanking = shutter, but shutter_mode of {camera.name} is {shutter}; set it to PRE_SPECIMEN "
            f"where the camera has such a shutter, or take blanking = column"
        )
    if spec.mode == "stepped":
        for name, plain in (("settle_mode", "fixed"), ("approach_um", (0.0, 0.0))):
            if getattr(spec, name) != plain:
                raise ConfigurationError(
                    f"{name} = {getattr(spec, name)} is the sequencer's work; take mode = sequenced, or "
                    f"leave it out"
                )
    auto = Blanking.SHUTTER if has_shutter else Blanking.COLUMN
    chosen = {"auto": auto, "shutter": Blanking.SHUTTER, "column": Blanking.COLUMN, "off": Blanking.OFF}
    return MoveOptions(
        tolerance_um=spec.tolerance_um,
        retries=spec.stage_retries,
        approach_x_um=spec.approach_um[0],
        approach_y_um=spec.approach_um[1],
        settle_mode=SETTLE_MODES[spec.settle_mode],
        settle_limit_nm_s=spec.settle_limit_nm_s,
        settle_timeout_s=spec.settle_timeout_s,
        blanking=chosen[spec.blanking],
    )


def describe_view(view: View) -> dict[str, Any]:
    """Return a view as a start document carries it."""
    return {
        key: [list(row) for row in value] if isinstance(value, tuple) else value
        for key, value in asdict(view).items()
    }
