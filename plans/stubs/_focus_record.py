"""What focusing found, and how it is written into a run."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from bluesky.protocols import Readable, Reading
from bluesky.utils import Msg
from event_model import DataKey

STREAM = "focus"


@dataclass(frozen=True, slots=True)
class StigmatorResult:
    """What `autostigmate` found and did.

    Attributes
    ----------
    amplitude_um, angle_deg
        Astigmatism before: half the difference between the foci of its two directions, and the direction of
        the higher one from the image's x axis, -90 to 90.
    residual_um
        Amplitude afterwards, as measured.
    error_um
        One standard deviation of it.
    stigmator
        The objective stigmator as it is set now, x and y, -1 to 1.
    matrix_um
        Astigmatism (its 0 and 45 deg components, um) of a stigmator at 1: ``matrix @ stigmator``.
    exposures, dose_e_per_a2
        How many, and what the place received.
    converged, reason
        Whether the residual is within the accuracy asked for; if not, why, and the stigmator is as before.
    """

    amplitude_um: float
    angle_deg: float
    residual_um: float
    error_um: float
    stigmator: tuple[float, float]
    matrix_um: tuple[tuple[float, float], tuple[float, float]]
    x_um: float
    y_um: float
    exposures: int
    dose_e_per_a2: float
    converged: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FocusResult:
    """What `autofocus` found and did.

    Attributes
    ----------
    offset_um
        What must be added to a defocus so that the image there has it: column defocus to set = defocus wanted
        + offset. NaN where nothing was found.
    defocus_um
        The column's defocus as it is set now.
    x_um, y_um
        Where focus was measured, stage coordinates.
    residual_um
        How far the last measurement was from what was set.
    error_um
        One standard deviation of the last measurement.
    method
        Of `plans.specs.focus.FocusSpec`.
    exposures, dose_e_per_a2
        How many, and what the place received (NaN where the beam current is not known).
    converged, reason
        Whether the defocus is known to the accuracy asked for; if not, why, and the column's defocus is as
        before.
    confidence
        0 to 1.
    stigmator
        What `autostigmate` did, where the specification asked for it.
    """

    offset_um: float
    defocus_um: float
    x_um: float
    y_um: float
    residual_um: float
    error_um: float
    method: str
    exposures: int
    dose_e_per_a2: float
    converged: bool
    confidence: float
    reason: str = ""
    stigmator: StigmatorResult | None = None


def as_event(result: FocusResult | StigmatorResult) -> dict[str, Any]:
    """Return the data of an event of stream ``focus``; every event has the same keys."""
    focus = result if isinstance(result, FocusResult) else None
    stigmator = result if isinstance(result, StigmatorResult) else result.stigmator
    data: dict[str, Any] = {
        "focus_method": focus.method if focus else "stigmator",
        "focus_x_um": result.x_um,
        "focus_y_um": result.y_um,
        "focus_converged": result.converged,
        "focus_reason": result.reason,
        "focus_exposures": result.exposures,
        "focus_dose_e_per_a2": result.dose_e_per_a2,
    }
    for name in ("offset_um", "defocus_um", "residual_um", "error_um", "confidence"):
        data[f"focus_{name}"] = float(getattr(focus, name)) if focus else math.nan
    data |= {
        "focus_stigmator_x": stigmator.stigmator[0] if stigmator else math.nan,
        "focus_stigmator_y": stigmator.stigmator[1] if stigmator else math.nan,
        "focus_astigmatism_um": stigmator.amplitude_um if stigmator else math.nan,
        "focus_astigmatism_angle_deg": stigmator.angle_deg if stigmator else math.nan,
        "focus_astigmatism_residual_um": stigmator.residual_um if stigmator else math.nan,
    }
    return data


class FocusReadable(Readable[Any]):
    """A readable that holds one result, so that a plan can save it as an event.

    All are equal: the RunEngine takes one and the same readable in every event of a stream.
    """

    name = STREAM
    parent = None

    def __init__(self, result: FocusResult | StigmatorResult) -> None:
        self._data = as_event(result)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FocusReadable)

    def __hash__(self) -> int:
        return hash(FocusReadable)

    def read(self) -> dict[str, Reading[Any]]:
        """Return the result's fields."""
        now = time.time()
        return {key: Reading(value=value, timestamp=now) for key, value in self._data.items()}

    def describe(self) -> dict[str, DataKey]:
        """Describe the result's fields."""
        return {
            key: DataKey(source="plans.stubs.focus", dtype=_dtype(value), shape=[], **_units(key))
            for key, value in self._data.items()
        }


def save_focus(result: FocusResult | StigmatorResult) -> Generator[Msg, Any, None]:
    """Write a result as an event of stream ``focus`` of the run that is open."""
    yield Msg("create", None, name=STREAM)
    yield Msg("read", FocusReadable(result))
    yield Msg("save")


def _dtype(value: object) -> Any:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    return "number" if isinstance(value, float) else "string"


def _units(key: str) -> Any:
    for suffix, unit in (("_um", "um"), ("_deg", "deg"), ("_e_per_a2", "e/A^2")):
        if key.endswith(suffix):
            return {"units": unit}
    return {}
