"""The three ways of measuring defocus; each sets the column's defocus and says what it found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plans.specs.focus import FocusMethod
from plans.stubs._focus_probe import NO_BEAM, Pixels, Plan, Probe
from processing.kernels.focus import (
    Peak,
    fit_peak,
    sharpness,
    spherical_defocus_um,
    tilt_displacement,
)
from processing.kernels.stigmation import measure_aberration

Vector = npt.NDArray[np.float64]
BLANK = "the exposures show nothing in common: a blank place, or far out of focus"
FROZEN = "the camera sent the same frame twice; restart it (`montango restart camera`)"
LEARNING_STEP_UM = 2.0
_LEAST_STEP_UM = 0.3
_COARSE, _FINE = 7, 7
_FIT_STEP_UM = 3.0


@dataclass(frozen=True, slots=True)
class Found:
    """``column_um`` is the column's defocus at which the image has none; NaN, with a reason, if not found."""

    column_um: float
    residual_um: float
    error_um: float
    confidence: float
    reason: str = ""


def nothing(reason: str, residual_um: float = math.nan, error_um: float = math.inf) -> Found:
    """Return that nothing was found, and why."""
    return Found(math.nan, residual_um, error_um, 0.0, reason)


def find_focus(probe: Probe) -> Plan[Found]:
    """Measure by the method of the specification, and set the defocus that it asks for."""
    if not probe.has_beam:
        return nothing(NO_BEAM)
    found = yield from METHODS[probe.spec.method](probe)
    if not found.reason and abs(found.column_um + probe.spec.target_defocus_um - probe.defocus_um) > (
        probe.spec.range_um
    ):
        correction = found.column_um + probe.spec.target_defocus_um - probe.defocus_um
        found = nothing(
            f"a correction of {correction:+.2f} um is over range_um = {probe.spec.range_um:g}",
            found.residual_um,
            found.error_um,
        )
    if found.reason:
        yield from probe.focus(probe.defocus_um)
    else:
        yield from probe.focus(found.column_um + probe.spec.target_defocus_um)
    return found


@dataclass(frozen=True, slots=True)
class _Tilted:
    """What a triplet showed on the specimen, um: the displacement between opposite tilts and its error,
    the drift between two exposures; and the correlation.
    """

    defocus_set_um: float
    displacement_um: Vector
    drift_um: Vector
    error_um: float
    peak: float


def by_beam_tilt(probe: Probe) -> Plan[Found]:
    """Measure the image's displacement between opposite beam tilts until the defocus agrees.

    The displacement a um of defocus follows from the tilt; where the image moves otherwise (tilt axes turned,
    another sign), it is learned from what a known change of defocus does.
    """
    spec = probe.spec
    per_um = np.array([2e-3 * spec.beam_tilt_mrad, 0.0])
    spherical_um = spherical_defocus_um(spec.spherical_aberration_mm, spec.beam_tilt_mrad)
    where: float = probe.defocus_um
    first: _Tilted | None = None
    drift_um = np.zeros(2)
    residual_um, error_um = math.nan, math.inf
    for _ in range(spec.max_iterations + 1):
        yield from probe.focus(where)
        now = yield from _tilted(probe, where)
        if probe.frozen:
            return nothing(FROZEN)
        if not math.isfinite(now.error_um):
            return nothing(BLANK)
        if first is not None:
            per_um = _learned(per_um, first, now)
            if not per_um.any():
                return nothing("the image does not follow the defocus; is the beam tilt working?")
        scale = float(np.linalg.norm(per_um))
        error_um = now.error_um / scale
        seen_um = float(now.displacement_um @ per_um) / scale**2
        if first is None and _goes_elsewhere(now, per_um):
            first, where = now, where + LEARNING_STEP_UM
            continue
        residual_um = seen_um - spherical_um - spec.target_defocus_um
        # steady drift cancels; while it changes, as after a move, about a quarter of the change is left
        unsteady_um = float(np.linalg.norm(now.drift_um - drift_um)) / 4 / scale
        drift_um = now.drift_um
        if max(abs(residual_um), error_um, unsteady_um) <= spec.accuracy_um:
            confidence = now.peak * (1 - 0.5 * error_um / spec.accuracy_um)
            return Found(where - seen_um + spherical_um, abs(residual_um), error_um, confidence)
        first, where = first or now, where - residual_um
        if abs(where - probe.defocus_um) > 1.5 * spec.range_um:
            return nothing(
                f"a correction of {where - probe.defocus_um:+.2f} um is over range_um = {spec.range_um:g}",
                abs(residual_um),
                error_um,
            )
    return nothing(_not_agreed(probe, residual_um, error_um), abs(residual_um), error_um)


def _tilted(probe: Probe, where_um: float) -> Plan[_Tilted]:
    frames: list[Pixels] = []
    frozen = False
    for sign in (1, -1, 1):
        yield from probe.tilt(sign * probe.spec.beam_tilt_mrad)
        frames.append((yield from probe.expose()))
        frozen = frozen or probe.frozen
    yield from probe.tilt(0.0)
    probe.frozen = frozen
    moved = tilt_displacement(*frames)
    pixel_um = math.sqrt(abs(float(np.linalg.det(probe.stage_per_px_um))))
    # what lies at the centre moves against the image's content: the centre at +t less that at -t
    displacement = probe.stage_per_px_um @ np.array([moved.dx_px, moved.dy_px])
    drift = probe.stage_per_px_um @ np.array([moved.drift_x_px, moved.drift_y_px])
    return _Tilted(where_um, displacement, drift, moved.error_px * pixel_um, moved.peak)


def _learned(per_um: Vector, first: _Tilted, now: _Tilted) -> Vector:
    """Return the displacement a um of defocus: as it was, unless what was seen since shows another.

    Zero where the image did not move with the defocus at all.
    """
    step = now.defocus_set_um - first.defocus_set_um
    if abs(step) < _LEAST_STEP_UM:
        return per_um
    shown: Vector = (now.displacement_um - first.displacement_um) / step
    error = math.hypot(now.error_um, first.error_um) / abs(step)
    if np.linalg.norm(shown - per_um) <= max(0.25 * float(np.linalg.norm(per_um)), 4 * error):
        return per_um
    if np.linalg.norm(shown) <= max(6 * error, 0.02 * float(np.linalg.norm(per_um))):
        return np.zeros(2)
    return shown


def _goes_elsewhere(seen: _Tilted, per_um: Vector) -> bool:
    """Whether the image moved across the direction in which tilt moves it."""
    length = float(np.linalg.norm(seen.displacement_um))
    (along_x, along_y), (x, y) = per_um, seen.displacement_um
    across = abs(float(along_x * y - along_y * x)) / float(np.linalg.norm(per_um))
    return across > max(6 * seen.error_um, 0.25 * length)


def by_sharpness(probe: Probe) -> Plan[Found]:
    """Take a series over the range and a finer one about its sharpest; focus is the parabola's vertex."""
    spec = probe.spec
    centre, reach = probe.defocus_um - spec.target_defocus_um, spec.range_um
    peak = Peak(math.nan, math.inf, math.inf, inside=False)
    for turn in range(spec.max_iterations):
        peak = yield from _series(probe, centre, reach, _COARSE if turn == 0 else _FINE)
        if probe.frozen:
            return nothing(FROZEN)
        if not math.isfinite(peak.defocus_um):
            return nothing(peak.reason)
        fine = reach <= max(_FIT_STEP_UM, spec.range_um / 4)
        centre = min(max(peak.defocus_um, centre - reach), centre + reach)
        if peak.inside and fine and peak.error_um <= spec.accuracy_um:
            found = peak.defocus_um - spec.sharpest_defocus_um
            return Found(found, peak.error_um, peak.error_um, math.exp(-peak.residual))
        if peak.inside:
            reach = max(_FIT_STEP_UM, reach / 4)
    reason = peak.reason or _not_agreed(probe, peak.error_um, peak.error_um)
    return nothing(reason, peak.error_um, peak.error_um)


def _series(probe: Probe, centre_um: float, reach_um: float, count: int) -> Plan[Peak]:
    places = [float(x) for x in np.linspace(centre_um - reach_um, centre_um + reach_um, count)]
    values, frozen = [], False
    for place in places:
        yield from probe.focus(place)
        values.append(sharpness((yield from probe.expose())))
        frozen = frozen or probe.frozen
    probe.frozen = frozen
    return fit_peak(places, values)


def by_power_spectrum(probe: Probe) -> Plan[Found]:
    """Take three defoci and move by what their spectra tell, until that is nothing."""
    spec = probe.spec
    where, step = probe.defocus_um, _FIT_STEP_UM
    residual_um = math.nan
    error_um = math.inf
    for turn in range(spec.max_iterations + 1):
        steps = (-step, 0.0, step)
        frames, frozen = [], False
        for one in steps:
            yield from probe.focus(where + one)
            frames.append((yield from probe.expose()))
            frozen = frozen or probe.frozen
        if frozen:
            return nothing(FROZEN)
        seen = measure_aberration(frames, steps)
        if seen.reason and turn == 0:
            step = max(step, spec.range_um / 2)
            continue
        if seen.reason:
            return nothing(seen.reason)
        true_um = seen.defocus_um + spec.sharpest_defocus_um
        residual_um, error_um = abs(true_um - spec.target_defocus_um), seen.defocus_error_um
        if residual_um <= spec.accuracy_um and error_um <= spec.accuracy_um:
            confidence = 1 - 0.5 * error_um / spec.accuracy_um
            return Found(where - true_um, residual_um, error_um, confidence)
        where, step = where - true_um + spec.target_defocus_um, _FIT_STEP_UM
        if abs(where - probe.defocus_um) > 1.5 * spec.range_um:
            break
    return nothing(_not_agreed(probe, residual_um, error_um), residual_um, error_um)


def _not_agreed(probe: Probe, residual_um: float, error_um: float) -> str:
    spec = probe.spec
    return (
        f"after {probe.exposures} exposures it is known to {residual_um:.3g} um (error {error_um:.2g} um), "
        f"not to accuracy_um = {spec.accuracy_um:g}; expose longer, or elsewhere"
    )


METHODS: dict[FocusMethod, Callable[[Probe], Plan[Found]]] = {
    "beam_tilt": by_beam_tilt,
    "sharpness": by_sharpness,
    "power_spectrum": by_power_spectrum,
}
