"""Focusing as a part of plans: these open no run, and the sequencer must be idle while they work."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Generator, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.column.device import Column
from devices.errors import ConfigurationError
from devices.stage.device import Stage
from plans.calibrations import CalibrationStore
from plans.preprocessors import tolerate
from plans.specs.focus import FocusSchedule, FocusSpec
from plans.specs.focus_map import FocusMap, MapPoint, spread_points
from plans.stubs._focus_methods import Found, find_focus
from plans.stubs._focus_probe import Plan, Probe, probing
from plans.stubs._focus_record import FocusReadable, FocusResult, StigmatorResult, save_focus
from plans.stubs._stigmate import correct_astigmatism
from plans.stubs.ask import read_now

__all__ = [
    "FocusMap",
    "FocusReadable",
    "FocusResult",
    "FocusSchedule",
    "FocusSpec",
    "MapPoint",
    "StigmatorResult",
    "autofocus",
    "autostigmate",
    "measure_focus_map",
    "save_focus",
    "spread_points",
]


def autofocus(
    camera: Camera,
    column: Column,
    stage: Stage,
    spec: FocusSpec,
    *,
    calibrations: CalibrationStore | None = None,
) -> Generator[Msg, Any, FocusResult]:
    """Measure the defocus beside the stage's position and set what the specification asks for.

    Afterwards the column has the defocus wanted (and the stigmator, with ``spec.stigmate``); everything else
    is as before and the beam is blanked, whatever fails. A place where focus cannot be measured leaves the
    defocus as it was: the result says so, and why. Opens no run; `save_focus` writes the result into one.

    Parameters
    ----------
    camera, column, stage
        The instruments.
    spec
        How.
    calibrations
        Measured pixel sizes and rotations, which displacements are told from; None takes the nominal ones.

    Returns
    -------
    FocusResult
        ``offset_um`` is what must be added to a defocus; ``converged`` whether it is known.

    Raises
    ------
    LimitError
        The place is outside the stage's limits; nothing has moved.
    MontangoError
        An instrument failed; defocus, stigmator and beam tilt are as before.
    """

    def measure(probe: Probe) -> Plan[FocusResult]:
        found = yield from find_focus(probe)
        result = _result(probe, found)
        if not spec.stigmate or not result.converged:
            return result
        # astigmatism is measured about the sharpest focus
        sharpest_um = result.offset_um + spec.sharpest_defocus_um
        inner = dataclasses.replace(probe, defocus_um=sharpest_um, exposures=0)
        stigmator = yield from correct_astigmatism(inner)
        probe.exposures += inner.exposures
        yield from probe.focus(result.defocus_um)
        return dataclasses.replace(
            result, stigmator=stigmator, exposures=probe.exposures, dose_e_per_a2=probe.dose_e_per_a2
        )

    return (yield from probing(camera, column, stage, spec, measure, calibrations))


def autostigmate(
    camera: Camera,
    column: Column,
    stage: Stage,
    spec: FocusSpec,
    *,
    calibrations: CalibrationStore | None = None,
) -> Generator[Msg, Any, StigmatorResult]:
    """Measure astigmatism beside the stage's position, and correct it with the objective stigmator.

    The image should be in focus within about 2 um. Astigmatism is measured from power spectra at three defoci
    and three settings of the stigmator, whose effect is learned thereby; use a pixel of 2 nm or less
    (``spec.magnification``) and ``binning=1`` for amplitudes under 1 um. Everything but the stigmator is as
    before afterwards; so is that where it did not converge.

    Parameters
    ----------
    camera, column, stage
        The instruments.
    spec
        How: ``accuracy_um`` is the amplitude that may be left (at least 0.03 um).
    calibrations
        As for `autofocus`.

    Raises
    ------
    LimitError
        The place is outside the stage's limits; nothing has moved.
    MontangoError
        An instrument failed; defocus and stigmator are as before.
    """
    return (yield from probing(camera, column, stage, spec, correct_astigmatism, calibrations))


def measure_focus_map(
    camera: Camera,
    column: Column,
    stage: Stage,
    spec: FocusSpec,
    places_um: Sequence[tuple[float, float]],
    *,
    save: Callable[[FocusResult], Plan[None]] | None = None,
    calibrations: CalibrationStore | None = None,
) -> Generator[Msg, Any, tuple[FocusMap, list[FocusResult]]]:
    """Measure focus at several places (each moved by ``spec.offset_um``) and fit a surface to what was found.

    The stage stays at the last place; the column's defocus is as it was.

    Parameters
    ----------
    camera, column, stage
        The instruments.
    spec
        How; ``spec.map`` is the kind of surface, a plane where it is None.
    places_um
        Where, in stage um.
    save
        What to do with each result: `save_focus` where a run is open.
    calibrations
        As for `autofocus`.

    Raises
    ------
    LimitError
        A place outside the stage's limits.
    ConfigurationError
        Focus was found at too few places, or they lie on a line: it says which failed, and why.
    """
    (before,) = yield from read_now(column, "defocus_um")
    results: list[FocusResult] = []

    def visit() -> Plan[None]:
        for x_um, y_um in places_um:
            yield from bps.abs_set(stage, (x_um, y_um), wait=True)
            found = yield from autofocus(camera, column, stage, spec, calibrations=calibrations)
            results.append(found)
            if save is not None:
                yield from save(found)

    yield from bpp.finalize_wrapper(
        visit(), lambda: tolerate(bps.abs_set(column.defocus_um, before, wait=True), "restoring the defocus")
    )
    good = [result for result in results if result.converged]
    points = [MapPoint(r.x_um, r.y_um, r.offset_um, max(r.error_um, 0.01)) for r in good]
    try:
        return FocusMap.fit(points, spec.map or "plane"), results
    except ConfigurationError as error:
        failed = "; ".join(f"({r.x_um:.0f}, {r.y_um:.0f}) um: {r.reason}" for r in results if not r.converged)
        raise ConfigurationError(f"{error}{' - not found at ' + failed if failed else ''}") from None


def _result(probe: Probe, found: Found) -> FocusResult:
    spec, known = probe.spec, not found.reason
    return FocusResult(
        offset_um=found.column_um,
        defocus_um=found.column_um + spec.target_defocus_um if known else probe.defocus_um,
        x_um=probe.x_um,
        y_um=probe.y_um,
        residual_um=found.residual_um,
        error_um=found.error_um,
        method=spec.method,
        exposures=probe.exposures,
        dose_e_per_a2=probe.dose_e_per_a2 if probe.has_beam else math.nan,
        converged=known,
        confidence=found.confidence,
        reason=found.reason,
    )
