"""Finding a place again: by correlation with an anchor, and from one magnification to the next."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
import numpy.typing as npt
from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.column.device import Column
from devices.errors import ConfigurationError, InstrumentFault
from devices.stage.device import Stage
from plans.calibrations import CalibrationStore
from plans.specs.samples import RealignSpec
from plans.specs.view import View
from plans.stubs.ask import read_now
from plans.stubs.reference import snap_reference
from plans.stubs.snap import snap
from plans.stubs.view import view_from
from plans.verdicts import EventReadable, save_event
from processing.kernels.shift import MIN_SIDE_PX, measure_shift
from processing.survey import Matrix, SurveyImage

if TYPE_CHECKING:
    from processing.kernels.reference import Reference

MIN_COVERED = 0.6
"""Share of a comparison that the anchor must cover."""


@dataclass(frozen=True, slots=True, eq=False)
class Anchor:
    """A picture of a place: ``centre_um`` is where the stage was when the place was in the image's middle."""

    picture: SurveyImage
    centre_um: tuple[float, float]

    @property
    def magnification(self) -> float:
        """Nominal magnification of the picture."""
        return self.picture.magnification


@dataclass(frozen=True, slots=True)
class Realignment:
    """Where a place was found.

    Attributes
    ----------
    offset_um
        Stage x, y of the place, less what they were in the anchor.
    residual_um
        How far from the image's middle the place lies at the last image.
    peak
        Correlation of the last image, 0 to 1.
    images
        Images taken.
    converged
        Whether the residual is within the tolerance.
    """

    offset_um: tuple[float, float]
    residual_um: float
    peak: float
    images: int
    converged: bool


def realign(
    camera: Camera,
    column: Column,
    stage: Stage,
    anchor: Anchor,
    *,
    spec: RealignSpec | None = None,
    magnification: float | None = None,
    calibrations: CalibrationStore | None = None,
    md: dict[str, Any] | None = None,
) -> Generator[Msg, Any, Realignment]:
    """Bring a place of an anchor into the middle of the image, at the magnification wanted.

    The stage goes to the place, an image at the anchor's magnification is correlated with the anchor, and the
    stage corrected until the residual is within the tolerance. Then the same at each magnification of
    ``spec.magnifications`` and at ``magnification``, each time against the image before: what the optics
    moves the image between magnifications is corrected too. The column is left at the last magnification,
    with the beam blanked.

    Parameters
    ----------
    camera, column, stage
        The instruments. The sequencer must be idle.
    anchor
        The place, and a picture of it.
    spec
        Steps, tolerance and exposure; None: the defaults of `RealignSpec`.
    magnification
        The last magnification; None: the anchor's.
    calibrations
        Measured pixel sizes and rotations, dark and bright references; None takes the nominal ones, and
        images as they are.
    md
        Metadata of the run.

    Returns
    -------
    Realignment
        Where the place is; its ``offset_um`` holds for everything near it.

    Raises
    ------
    ConfigurationError
        Two magnifications that follow each other are too far apart to be compared.
    InstrumentFault
        The images do not look alike, or are further apart than ``spec.max_shift_um``.

    Examples
    --------
    >>> found = yield from realign(  # doctest: +SKIP
    ...     camera, column, stage, Anchor(picture, (120.0, -40.0)), magnification=2000
    ... )
    """
    asked = spec or RealignSpec()
    metadata: dict[str, Any]
    metadata = {"plan_name": "realign", "purpose": "survey", "inputs": list(anchor.picture.run_uids)}
    metadata |= {"parameters": asked.model_dump(mode="json"), **(md or {})}
    steps = list(dict.fromkeys((anchor.magnification, *asked.magnifications)))
    if magnification is not None and magnification != steps[-1]:
        steps.append(magnification)

    results: list[Realignment] = []

    def run() -> Generator[Msg, Any, None]:
        yield from bps.abs_set(stage, anchor.centre_um, wait=True)
        reference, images = anchor, 0
        for step in steps:
            yield from bps.abs_set(column.magnification, step, wait=True)
            view = yield from view_from(calibrations, camera, column)
            flat = yield from snap_reference(
                calibrations, camera, column, asked.exposure_time_s, asked.binning
            )
            reference, result = yield from _centre(camera, column, stage, view, flat, reference, asked)
            images += result.images
        x_um, y_um = (yield Msg("locate", stage))["readback"][:2]
        offset = float(x_um) - anchor.centre_um[0], float(y_um) - anchor.centre_um[1]
        final = replace(result, offset_um=offset, images=images)
        yield from save_event(EventReadable("alignment", "processing.kernels.shift"), _event(final))
        results.append(final)

    yield from bpp.run_wrapper(run(), md=metadata)  # which returns the run's uid
    return results[0]


def _centre(
    camera: Camera,
    column: Column,
    stage: Stage,
    view: View,
    flat: Reference | None,
    reference: Anchor,
    spec: RealignSpec,
) -> Generator[Msg, Any, tuple[Anchor, Realignment]]:
    """Bring the place into the middle at one magnification; the last image is the anchor of the next."""
    magnification, binning = yield from _settings(camera, column)
    for iteration in range(1, spec.max_iterations + 1):
        frame = yield from snap(camera, column, spec.exposure_time_s, binning=spec.binning)
        x_um, y_um = (yield Msg("locate", stage))["readback"][:2]
        at = float(x_um), float(y_um)
        data = frame.data if flat is None else flat.apply(frame.data)
        picture = as_picture(data, scaled(view, spec.binning / binning), at, magnification)
        dx_um, dy_um, peak = displacement(reference, picture, at, spec)
        residual = math.hypot(dx_um, dy_um)
        place = at[0] + dx_um, at[1] + dy_um
        if residual <= spec.tolerance_um or iteration == spec.max_iterations:
            break
        yield from bps.abs_set(stage, place, wait=True)
    found = Realignment((0.0, 0.0), residual, peak, iteration, residual <= spec.tolerance_um)
    return Anchor(picture, place), found


def _settings(camera: Camera, column: Column) -> Generator[Msg, Any, tuple[float, int]]:
    (magnification,) = yield from read_now(column, "magnification")
    (binning,) = yield from read_now(camera, "binning")
    return float(magnification), int(binning)


def scaled(view: View, factor: float) -> Matrix:
    """Return the matrix of a view whose pixels are larger by a factor."""
    (a, b), (c, d) = view.stage_per_px_um
    return (a * factor, b * factor), (c * factor, d * factor)


def as_picture(
    frame: npt.NDArray[np.uint16],
    stage_per_px_um: Matrix,
    centre_um: tuple[float, float],
    magnification: float,
) -> SurveyImage:
    """Return a frame as a picture whose middle lies at a stage position."""
    height, width = frame.shape
    middle = np.array(stage_per_px_um) @ ((width - 1) / 2, (height - 1) / 2)
    origin = centre_um[0] - float(middle[0]), centre_um[1] - float(middle[1])
    return SurveyImage(frame, np.ones(frame.shape, np.bool_), stage_per_px_um, origin, magnification)


def displacement(
    reference: Anchor, picture: SurveyImage, at_um: tuple[float, float], spec: RealignSpec
) -> tuple[float, float, float]:
    """Return how far from a picture's middle the place of an anchor lies, stage x, y in um, and the peak.

    Both are compared in the picture's axes, at the larger of their pixels, over the picture's field.

    Raises
    ------
    ConfigurationError
        The picture is too small for that, or the anchor does not reach over it.
    InstrumentFault
        They do not look alike, or are further apart than ``spec.max_shift_um``.
    """
    fine_um, pixel_um = picture.pixel_um, max(picture.pixel_um, reference.picture.pixel_um)
    raster = np.array(picture.stage_per_px_um) * (pixel_um / fine_um)
    height, width = (int(side * fine_um / pixel_um) for side in picture.pixels.shape)
    step = f"from magnification {reference.magnification:g} to {picture.magnification:g}"
    if min(height, width) < MIN_SIDE_PX:
        raise ConfigurationError(
            f"realign {step}: the finer image is only {min(height, width)} px of the coarser one, "
            f"{MIN_SIDE_PX} are needed; put a step between them into realign.magnifications"
        )
    anchor, share = reference.picture.resampled(reference.centre_um, raster, (width, height))
    if share < MIN_COVERED:
        raise ConfigurationError(
            f"realign {step}: the anchor covers {share:.0%} of the image around "
            f"({reference.centre_um[0]:.1f}, {reference.centre_um[1]:.1f}) um, {MIN_COVERED:.0%} are needed; "
            f"survey a larger area"
        )
    image, _ = picture.resampled(at_um, raster, (width, height))
    shift = measure_shift(anchor, image, max_shift_px=spec.max_shift_um / pixel_um)
    if not shift.found or shift.peak < spec.min_peak:
        raise InstrumentFault(
            f"realign {step}: image and anchor do not look alike (correlation {shift.peak:.2f}, "
            f"realign.min_peak {spec.min_peak:g}); see whether the right sample is loaded, in focus"
        )
    dx_um, dy_um = (float(number) for number in raster @ (shift.dx_px, shift.dy_px))
    if math.hypot(dx_um, dy_um) > spec.max_shift_um:
        raise InstrumentFault(
            f"realign {step}: the place lies {math.hypot(dx_um, dy_um):.1f} um off, over max_shift_um = "
            f"{spec.max_shift_um:g}; begin at a lower magnification"
        )
    return dx_um, dy_um, shift.peak


def _event(found: Realignment) -> dict[str, Any]:
    return {
        "offset_x_um": found.offset_um[0],
        "offset_y_um": found.offset_um[1],
        "residual_um": found.residual_um,
        "peak": found.peak,
        "images": found.images,
        "converged": found.converged,
    }
