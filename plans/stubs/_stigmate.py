"""Astigmatism: measured at three settings of the stigmator, whose effect is learned, and corrected."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from plans.stubs._focus_methods import FROZEN
from plans.stubs._focus_probe import NO_BEAM, Pair, Plan, Probe
from plans.stubs._focus_record import StigmatorResult
from processing.kernels.stigmation import Aberration, measure_aberration

Matrix = npt.NDArray[np.float64]
STEP_UM = 3.0
MIN_ACCURACY_UM = 0.03
_NOTHING = ((math.nan, math.nan), (math.nan, math.nan))


def correct_astigmatism(probe: Probe) -> Plan[StigmatorResult]:
    """Measure, learn the stigmator's matrix, correct, and measure again until little is left.

    The defocus is as before afterwards; where the correction fails, so is the stigmator.
    """
    if not probe.has_beam:
        return _result(probe, None, None, reason=NO_BEAM)
    first = yield from measure_here(probe)
    if first.reason:
        return _result(probe, first, None, reason=first.reason)
    matrix, reason = yield from _learn(probe, first)
    if reason:
        yield from probe.stigmate(probe.stigmator)
        return _result(probe, first, None, reason=reason)
    setting, seen = np.array(probe.stigmator), first
    limit = max(probe.spec.accuracy_um, MIN_ACCURACY_UM)
    for _ in range(probe.spec.max_iterations):
        setting = setting - np.linalg.solve(matrix, np.array(seen.astigmatism_um))
        if np.abs(setting).max() > 1:
            reason = f"the correction ({setting[0]:.2f}, {setting[1]:.2f}) is over the stigmator's limit 1"
            break
        yield from probe.stigmate((float(setting[0]), float(setting[1])))
        seen = yield from measure_here(probe)
        if seen.reason:
            reason = seen.reason
            break
        if seen.amplitude_um <= limit:
            return _result(probe, first, seen, setting=setting, matrix=matrix)
    yield from probe.stigmate(probe.stigmator)
    reason = reason or (
        f"{seen.amplitude_um:.3g} um of astigmatism are left, more than {limit:g} um; expose longer, "
        f"at a higher magnification, or where there is more detail"
    )
    return _result(probe, first, seen, matrix=matrix, reason=reason)


def measure_here(probe: Probe) -> Plan[Aberration]:
    """Return defocus and astigmatism with the lenses as they are; the defocus is put back."""
    steps = (-STEP_UM, 0.0, STEP_UM)
    frames, frozen = [], False
    for step in steps:
        yield from probe.focus(probe.defocus_um + step)
        frames.append((yield from probe.expose()))
        frozen = frozen or probe.frozen
    yield from probe.focus(probe.defocus_um)
    if frozen:
        return Aberration(math.nan, (math.nan, math.nan), math.inf, math.inf, FROZEN)
    return measure_aberration(frames, steps)


def _learn(probe: Probe, first: Aberration) -> Plan[tuple[Matrix, str]]:
    """Return the astigmatism of a stigmator at 1, (component, axis) in um, and why it is not known, or ""."""
    columns, errors = [], [first.error_um]
    for axis in range(2):
        setting = list(probe.stigmator)
        step = probe.spec.stigmator_step * (-1 if setting[axis] > 0 else 1)
        setting[axis] += step
        yield from probe.stigmate((setting[0], setting[1]))
        seen = yield from measure_here(probe)
        if seen.reason:
            return np.zeros((2, 2)), seen.reason
        columns.append((np.array(seen.astigmatism_um) - np.array(first.astigmatism_um)) / step)
        errors.append(seen.error_um)
    matrix = np.stack(columns, axis=1)
    weakest = float(np.linalg.svd(matrix, compute_uv=False)[-1])
    if weakest * probe.spec.stigmator_step < 3 * max(errors):
        return matrix, (
            f"a stigmator step of {probe.spec.stigmator_step:g} changes the image too little to learn from; "
            f"make stigmator_step larger"
        )
    return matrix, ""


def _result(
    probe: Probe,
    first: Aberration | None,
    last: Aberration | None,
    *,
    setting: npt.NDArray[np.float64] | None = None,
    matrix: Matrix | None = None,
    reason: str = "",
) -> StigmatorResult:
    kept: Pair = probe.stigmator if setting is None else (float(setting[0]), float(setting[1]))
    learned = _NOTHING
    if matrix is not None:
        (a, b), (c, d) = matrix.tolist()
        learned = ((a, b), (c, d))
    return StigmatorResult(
        amplitude_um=first.amplitude_um if first else math.nan,
        angle_deg=first.angle_deg if first else math.nan,
        residual_um=last.amplitude_um if last else math.nan,
        error_um=(last or first).error_um if last or first else math.inf,  # type: ignore[union-attr]
        stigmator=kept,
        matrix_um=learned,
        x_um=probe.x_um,
        y_um=probe.y_um,
        exposures=probe.exposures,
        dose_e_per_a2=probe.dose_e_per_a2,
        converged=not reason,
        reason=reason,
    )
