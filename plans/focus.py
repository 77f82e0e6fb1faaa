"""Focusing as runs of their own: autofocus, autostigmation, and a map of the focus over a specimen."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any, TypeVar

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.column.device import Column
from devices.errors import ConfigurationError, LimitError
from devices.stage.device import Stage
from plans.calibrations import CalibrationStore
from plans.preprocessors import plain_errors, tolerate, with_baseline
from plans.specs.focus import POINTS_NEEDED, FocusSpec
from plans.specs.focus_map import FocusMap
from plans.stubs.ask import ask
from plans.stubs.focus import (
    FocusResult,
    StigmatorResult,
    autofocus,
    autostigmate,
    measure_focus_map,
    save_focus,
)
from plans.stubs.view import read_setup
from plans.unbroken import unbroken

T = TypeVar("T")
SOFTWARE = ("montango", "bluesky", "ophyd-async", "pytango")


def autofocus_run(
    camera: Camera,
    column: Column,
    stage: Stage,
    spec: FocusSpec,
    md: dict[str, Any] | None = None,
    *,
    calibrations: CalibrationStore | None = None,
) -> Generator[Msg, Any, FocusResult]:
    """Focus where the stage is, as a run with one event in stream ``focus``.

    However it ends, the beam is blanked, the stage still, and beam tilt, magnification and illuminated area
    are as before; the defocus too, unless focus was found.

    Parameters
    ----------
    camera, column, stage
        The instruments; the sequencer must be idle.
    spec
        How.
    md
        Metadata of the run.
    calibrations
        Measured pixel sizes and rotations; None takes the nominal ones.

    Returns
    -------
    FocusResult
        What was found; see its ``converged`` and ``reason``.

    Raises
    ------
    LimitError
        The place is outside the stage's limits; nothing has moved.
    MontangoError
        An instrument failed; the error names it and says what to do.

    Examples
    --------
    >>> RE(autofocus_run(camera, column, stage, FocusSpec(target_defocus_um=-1.0)))  # doctest: +SKIP
    """

    def measure() -> Generator[Msg, Any, FocusResult]:
        result = yield from autofocus(camera, column, stage, spec, calibrations=calibrations)
        yield from save_focus(result)
        return result

    return (yield from _run("autofocus_run", column, stage, camera, spec, md, measure(), None, calibrations))


def autostigmate_run(
    camera: Camera,
    column: Column,
    stage: Stage,
    spec: FocusSpec,
    md: dict[str, Any] | None = None,
    *,
    calibrations: CalibrationStore | None = None,
) -> Generator[Msg, Any, StigmatorResult]:
    """Correct astigmatism where the stage is, as a run with one event in stream ``focus``.

    The image should be in focus within about 2 um. However it ends, the beam is blanked, the stage still, and
    everything but the objective stigmator as before; that too, unless astigmatism was corrected.

    Parameters
    ----------
    camera, column, stage
        The instruments; the sequencer must be idle.
    spec
        How; `plans.stubs.focus.autostigmate` says which fields matter.
    md
        Metadata of the run.
    calibrations
        Measured pixel sizes and rotations; None takes the nominal ones.

    Returns
    -------
    StigmatorResult
        What was found and what is left; see its ``converged`` and ``reason``.

    Raises
    ------
    LimitError
        The place is outside the stage's limits; nothing has moved.
    MontangoError
        An instrument failed; the error names it and says what to do.

    Examples
    --------
    >>> sharp = FocusSpec(magnification=10_000, binning=1)  # doctest: +SKIP
    >>> RE(autostigmate_run(camera, column, stage, sharp))  # doctest: +SKIP
    """

    def measure() -> Generator[Msg, Any, StigmatorResult]:
        result = yield from autostigmate(camera, column, stage, spec, calibrations=calibrations)
        yield from save_focus(result)
        return result

    return (
        yield from _run("autostigmate_run", column, stage, camera, spec, md, measure(), None, calibrations)
    )


def focus_map_run(
    camera: Camera,
    column: Column,
    stage: Stage,
    spec: FocusSpec,
    md: dict[str, Any] | None = None,
    *,
    calibrations: CalibrationStore | None = None,
) -> Generator[Msg, Any, FocusMap]:
    """Measure focus at ``spec.map_points_um`` and fit a surface: a run with an event in ``focus`` a place.

    However it ends, the beam is blanked, the stage still, and the column as before.

    Parameters
    ----------
    camera, column, stage
        The instruments; the sequencer must be idle.
    spec
        How, with ``map`` and ``map_points_um``.
    md
        Metadata of the run.
    calibrations
        Measured pixel sizes and rotations; None takes the nominal ones.

    Returns
    -------
    FocusMap
        Its `offset_um` is what must be added to a defocus at a place.

    Raises
    ------
    ConfigurationError
        ``map`` or ``map_points_um`` is missing (nothing has moved), the points lie on a line, or focus was
        found at too few of them.
    LimitError
        A place is outside the stage's limits; nothing has moved.
    MontangoError
        An instrument failed; the error names it and says what to do.

    Examples
    --------
    >>> spec = FocusSpec(map="plane", map_points_um=((0, 0), (80, 0), (0, 80)))  # doctest: +SKIP
    >>> RE(focus_map_run(camera, column, stage, spec))  # doctest: +SKIP
    """

    def measure() -> Generator[Msg, Any, FocusMap]:
        places = spec.map_points_um or ()
        surface, _ = yield from measure_focus_map(
            camera, column, stage, spec, places, save=save_focus, calibrations=calibrations
        )
        return surface

    if spec.map is None or spec.map_points_um is None:
        raise ConfigurationError(
            f"a focus map needs map ('plane' or 'paraboloid') and map_points_um, at least "
            f"{POINTS_NEEDED[spec.map or 'plane']} places in stage um"
        )
    return (
        yield from _run(
            "focus_map_run", column, stage, camera, spec, md, measure(), spec.map_points_um, calibrations
        )
    )


def check_places(
    stage: Stage, spec: FocusSpec, places_um: Sequence[tuple[float, float]] | None = None
) -> Generator[Msg, Any, None]:
    """Refuse places for focusing that are outside the stage's limits; None is where the stage is.

    Raises
    ------
    LimitError
        Naming the place.
    """
    limits = yield from ask(stage.limits)
    if places_um is None:
        position = (yield Msg("locate", stage))["readback"]
        places_um = [(position[0], position[1])]
    for x, y in places_um:
        x_um, y_um = x + spec.offset_um[0], y + spec.offset_um[1]
        try:
            limits.check({"x_um": x_um, "y_um": y_um})
        except LimitError as error:
            raise LimitError(
                f"the focus place ({x_um:g}, {y_um:g}) um lies outside the stage's limits: {error}; or "
                f"choose another offset_um or map_points_um"
            ) from None


def _run(
    plan_name: str,
    column: Column,
    stage: Stage,
    camera: Camera,
    spec: FocusSpec,
    md: dict[str, Any] | None,
    body: Generator[Msg, Any, T],
    places_um: Sequence[tuple[float, float]] | None,
    calibrations: CalibrationStore | None,
) -> Generator[Msg, Any, T]:
    metadata: dict[str, Any] = {
        "plan_name": plan_name,
        "technique": "TEM focusing",
        "purpose": "focus",
        "focus_id": f"f{datetime.now():%Y%m%d}-{secrets.token_hex(3)}",
        "focus_spec": spec.model_dump(mode="json"),
        "software": {name: version(name) for name in SOFTWARE},
        **(md or {}),
    }

    def safe() -> Generator[Msg, Any, None]:
        yield from tolerate(bps.abs_set(column.beam_blanked, True, wait=True), "blanking the beam")
        yield from tolerate(bps.stop(stage), "stopping the stage")

    found: list[T] = []

    def measured() -> Generator[Msg, Any, None]:
        yield from bps.clear_checkpoint()  # an exposure is never made twice
        found.append((yield from body))

    def checked() -> Generator[Msg, Any, None]:
        yield from check_places(stage, spec, places_um)
        if calibrations is not None:
            setup = yield from read_setup(camera, column)
            magnification = spec.magnification or setup.magnification
            used = calibrations.newest("stage_camera", magnification=magnification, camera=setup.camera)
            metadata["calibration_uids"] = [used.uid] if used else []
        devices = [column, stage, camera.exposure_time_s, camera.binning]
        recorded = with_baseline(bpp.run_wrapper(measured(), md=metadata), devices)
        yield from bpp.finalize_wrapper(recorded, safe)

    yield from plain_errors(unbroken(checked()))
    return found[0]
