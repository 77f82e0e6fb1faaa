"""The montage: a grid of overlapping tiles, judged while it runs; a tile that fails is acquired again."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import Readable
from bluesky.utils import Msg
from ophyd_async.core import DetectorTrigger, TriggerInfo

from devices.camera.device import Camera
from devices.column.device import Column
from devices.sequencer.device import Sequencer
from devices.stage.device import Stage
from plans.checks import check_disk, check_dose, check_positions, dose_per_exposure, largest_dose
from plans.preprocessors import plain_errors, tolerate
from plans.specs.grid import FieldOfView, Grid, make_grid
from plans.specs.montage import MontageSpec
from plans.stubs.acquire import Acquisition, acquire_sequenced, acquire_stepped
from plans.stubs.ask import ask, read_now
from plans.verdicts import Verdicts

SOFTWARE = ("montango", "bluesky", "ophyd-async", "pytango")


def montage(
    sequencer: Sequencer,
    camera: Camera,
    column: Column,
    stage: Stage,
    spec: MontageSpec,
    md: dict[str, Any] | None = None,
    *,
    verdicts: Verdicts | None = None,
    baseline: Sequence[Readable[Any]] = (),
    minimum_free_gb: float = 2.0,
) -> Generator[Msg, Any, str]:
    """Acquire a rectangular montage.

    Limits, disk and dose are checked before anything moves. Lines of tiles run on the sequencer, the next
    stage move overlapping the readout (``spec.mode="stepped"``: the plan moves and exposes every tile).
    Frames and what is recorded of each tile are stream ``tiles``; every verdict is an event of stream ``qc``;
    a tile that failed is acquired again, up to ``spec.max_attempts`` times. However the plan ends, the beam
    is blanked and the stage still.

    Parameters
    ----------
    sequencer, camera, column, stage
        The instruments.
    spec
        What to acquire.
    md
        Metadata of the run: sample, operator, purpose, proposal, ... ``montage_id`` is made where absent.
    verdicts
        Who judges the tiles; None acquires every tile once, unjudged.
    baseline
        More devices to read before and after, such as the facility's signals.
    minimum_free_gb
        What must stay free on the disk of the frames, in GB.

    Returns
    -------
    str
        The montage id.

    Raises
    ------
    LimitError
        A tile outside the stage's limits, too little disk, or too much dose; nothing has moved.
    MontangoError
        An instrument failed; the error names it and says what to do.

    Examples
    --------
    >>> RE(montage(sequencer, camera, column, stage, MontageSpec(rows=3, columns=3)))  # doctest: +SKIP
    """
    return (
        yield from plain_errors(
            _montage(sequencer, camera, column, stage, spec, md or {}, verdicts, baseline, minimum_free_gb)
        )
    )


def _montage(
    sequencer: Sequencer,
    camera: Camera,
    column: Column,
    stage: Stage,
    spec: MontageSpec,
    md: dict[str, Any],
    verdicts: Verdicts | None,
    baseline: Sequence[Readable[Any]],
    minimum_free_gb: float,
) -> Generator[Msg, Any, str]:
    grid, calibration = yield from _check(camera, column, stage, spec, minimum_free_gb)
    metadata = {**describe_run(spec, calibration, grid), **md}
    camera.file_label = str(metadata["montage_id"])
    acquisition = Acquisition(sequencer, camera, column, stage, spec, verdicts)
    acquire = acquire_sequenced if spec.mode == "sequenced" else acquire_stepped

    def tiles() -> Generator[Msg, Any, None]:
        yield from bps.clear_checkpoint()  # a montage is ended, or resumed as a new run; never rewound
        if spec.defocus_um is not None:
            yield from bps.abs_set(column.defocus_um, spec.defocus_um, wait=True)
        yield from bps.declare_stream(camera, name="tiles", collect=True)
        yield from bps.kickoff(camera, wait=True)
        yield from acquire(acquisition, grid)

    def run() -> Generator[Msg, Any, None]:
        info = TriggerInfo(
            trigger=DetectorTrigger.EXTERNAL_EDGE, number_of_events=0, livetime=spec.exposure_time_s
        )
        yield from bps.prepare(camera, info, wait=True)
        settings = (camera.exposure_time_s, camera.binning, camera.temperature_degc)
        yield from bpp.baseline_wrapper(
            bpp.run_wrapper(tiles(), md=metadata), [column, stage, *settings, *baseline]
        )

    guarded = bpp.contingency_wrapper(
        bpp.stage_wrapper(run(), [camera]),
        except_plan=lambda _: tolerate(bps.stop(sequencer), "ending the sequencer"),
    )
    yield from bpp.finalize_wrapper(guarded, lambda: make_safe(column, stage))
    return str(metadata["montage_id"])


class FrameGeometry(NamedTuple):
    """What a frame shows: its field of view, the size of its pixels (binned) in nm, its bytes."""

    field: FieldOfView
    pixel_size_nm: float
    size_bytes: int


def read_geometry(camera: Camera, column: Column) -> Generator[Msg, Any, FrameGeometry]:
    """Return what a frame shows with the settings that column and camera have now.

    Raises
    ------
    ConfigurationError
        Pixel size or rotation are not calibrated for the magnification.
    """
    width, height, binning = yield from read_now(camera, "width_px", "height_px", "binning")
    unbinned_nm, rotation_deg = yield from read_now(column, "pixel_size_nm", "image_rotation_deg")
    pixel_nm = float(unbinned_nm) * int(binning)
    field = FieldOfView(width * pixel_nm * 1e-3, height * pixel_nm * 1e-3, float(rotation_deg))
    return FrameGeometry(field, pixel_nm, int(width) * int(height) * 2)


def describe_run(spec: MontageSpec, calibration: Mapping[str, float], grid: Grid) -> dict[str, Any]:
    """Return the start document's metadata of a montage; the caller's own goes on top."""
    return {
        "plan_name": "montage",
        "technique": "TEM montage",
        "purpose": "montage",
        "montage_id": f"m{datetime.now():%Y%m%d}-{secrets.token_hex(3)}",
        "montage_spec": spec.model_dump(mode="json"),
        "montage_shape": [grid.rows, grid.columns],
        "num_points": len(grid.tiles),
        "software": {name: version(name) for name in SOFTWARE},
        "calibration": dict(calibration),
    }


def make_safe(column: Column, stage: Stage) -> Generator[Msg, Any, None]:
    """Blank the beam and stop the stage, each even if the other does not answer."""
    yield from tolerate(bps.abs_set(column.beam_blanked, True, wait=True), "blanking the beam")
    yield from tolerate(bps.stop(stage), "stopping the stage")


def _check(
    camera: Camera, column: Column, stage: Stage, spec: MontageSpec, minimum_free_gb: float
) -> Generator[Msg, Any, tuple[Grid, dict[str, float]]]:
    """Lay out the grid and refuse it if anything speaks against it; nothing moves."""
    field, pixel_nm, size_bytes = yield from read_geometry(camera, column)
    position = (yield Msg("locate", stage))["readback"]
    grid = make_grid(spec, field, (position[0], position[1]))
    check_positions(grid.tiles, (yield from ask(stage.limits)))
    check_disk(Path(camera.data_dir), size_bytes * len(grid.tiles), minimum_free_gb)
    if spec.max_dose_e_per_a2 is not None:
        current_na, diameter_um = yield from read_now(column, "beam_current_na", "illuminated_area_um")
        dose = dose_per_exposure(current_na, diameter_um, spec.exposure_time_s)
        check_dose(spec.max_dose_e_per_a2, largest_dose(spec, field, grid, diameter_um, dose))
    return grid, {"pixel_size_nm": pixel_nm, "image_rotation_deg": field.rotation_deg}
