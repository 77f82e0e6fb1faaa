"""What every calibration has around it: its run, its event, its place in the store, and a safe end."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, TypeVar

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
import numpy.typing as npt
from bluesky.protocols import Readable, Reading
from bluesky.utils import Msg, RunEngineControlException
from event_model import DataKey

from devices.camera.device import Camera
from devices.column.device import Column
from devices.errors import InstrumentFault, LimitError
from devices.stage.device import Stage
from plans.calibrations import ABOUT, Calibration, CalibrationKind, CalibrationStore, Value
from plans.preprocessors import plain_errors, tolerate
from plans.stubs.ask import ask, read_now
from plans.stubs.view import Setup, read_setup
from plans.unbroken import unbroken

T = TypeVar("T")
STREAM = "calibration"
READINGS = 9
"""Positions read to know one: their median is three times less noisy."""
SOFTWARE = ("montango", "bluesky", "ophyd-async", "pytango")


@dataclass(frozen=True)
class Measured:
    """What a measurement found; names of ``values`` and ``residuals`` end in their unit."""

    values: dict[str, Value]
    residuals: dict[str, float]
    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Calibrating:
    """The instruments and the store of a calibration, and the calibrations that it rests on."""

    camera: Camera
    column: Column
    stage: Stage | None
    store: CalibrationStore
    used: tuple[Calibration, ...] = ()
    binning: int = 1


def calibrate(
    kind: CalibrationKind,
    on: Calibrating,
    measure: Callable[[], Generator[Msg, Any, Measured]],
    *,
    md: Mapping[str, Any] | None,
    restore: Sequence[str] = (),
    settings: Mapping[str, Any],
) -> Generator[Msg, Any, Calibration]:
    """Run a measurement as a run of its own, keep its result, and leave the instruments as they were.

    However it ends, the beam is blanked, the stage still and the column's ``restore`` attributes as before.

    Raises
    ------
    MontangoError
        An instrument failed, or the measurement says nothing; no calibration is kept.
    """
    setup = yield from read_setup(on.camera, on.column)
    before = yield from read_now(on.column, *restore) if restore else _nothing()
    metadata = {**_describe(kind, on, settings), **(md or {})}

    def finish() -> Generator[Msg, Any, None]:
        yield from tolerate(bps.abs_set(on.column.beam_blanked, True, wait=True), "blanking the beam")
        if on.stage is not None:
            yield from tolerate(bps.stop(on.stage), "stopping the stage")
        for name, value in zip(restore, before, strict=True):
            back = bps.abs_set(getattr(on.column, name), value, wait=True)
            yield from tolerate(back, f"restoring {name}")

    plan = _run(kind, on, measure, setup._replace(binning=on.binning), metadata)
    kept: Calibration = yield from plain_errors(unbroken(bpp.finalize_wrapper(plan, finish)))
    return kept


def _run(
    kind: CalibrationKind,
    on: Calibrating,
    measure: Callable[[], Generator[Msg, Any, Measured]],
    setup: Setup,
    metadata: dict[str, Any],
) -> Generator[Msg, Any, Calibration]:
    uid = yield from bps.open_run(metadata)

    def body() -> Generator[Msg, Any, Calibration]:
        yield from bps.clear_checkpoint()  # half a calibration is made again, not rewound
        measured = yield from measure()
        made = Calibration(
            uid=uid,
            kind=kind,
            made_at_s=time.time(),
            magnification=setup.magnification,
            high_voltage_kv=setup.high_voltage_kv,
            camera=setup.camera,
            binning=setup.binning,
            values=measured.values,
            residuals=measured.residuals,
        )
        kept = yield from compute(on.store.add, made, measured.arrays)
        yield from _save(kept)
        return kept

    def fail(error: Exception) -> Generator[Msg, Any, None]:
        controlled = isinstance(error, RunEngineControlException)
        status = error.exit_status if controlled else "fail"  # type: ignore[attr-defined]
        yield from bps.close_run(exit_status=status, reason=str(error))

    kept = yield from bpp.contingency_wrapper(body(), except_plan=fail, else_plan=bps.close_run)
    return kept  # type: ignore[no-any-return]


def _nothing() -> Generator[Msg, Any, list[Any]]:
    yield from bps.null()
    return []


def _describe(kind: CalibrationKind, on: Calibrating, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "plan_name": ABOUT[kind].plan,
        "technique": "calibration",
        "purpose": "calibration",
        "calibration_kind": kind,
        "calibration_settings": dict(settings),
        "calibration_uids": {one.kind: one.uid for one in on.used},
        "software": {name: version(name) for name in SOFTWARE},
    }


class _CalibrationReadable(Readable[Any]):
    """A calibration as one event of stream ``calibration``."""

    name = STREAM
    parent = None

    def __init__(self, one: Calibration) -> None:
        self._data: dict[str, Any] = {
            "kind": one.kind,
            "magnification": one.magnification,
            "high_voltage_kv": one.high_voltage_kv,
            "camera": one.camera,
            "binning": one.binning,
            **{f"value_{name}": value for name, value in one.values.items()},
            **{f"residual_{name}": value for name, value in one.residuals.items()},
            "arrays": str(one.arrays or ""),
        }

    def read(self) -> dict[str, Reading[Any]]:
        """Return values and residuals."""
        now = time.time()
        return {key: Reading(value=value, timestamp=now) for key, value in self._data.items()}

    def describe(self) -> dict[str, DataKey]:
        """Describe values and residuals."""
        return {
            key: DataKey(source="plans.calibrate", dtype=_dtype(value), shape=list(np.shape(value)))
            for key, value in self._data.items()
        }


def _dtype(value: object) -> Any:
    if isinstance(value, str):
        return "string"
    if isinstance(value, list):
        return "array"
    return "integer" if isinstance(value, int) else "number"


def _save(one: Calibration) -> Generator[Msg, Any, None]:
    yield Msg("create", None, name=STREAM)
    yield Msg("read", _CalibrationReadable(one))
    yield Msg("save")


def compute(function: Callable[..., T], *arguments: Any) -> Generator[Msg, Any, T]:
    """Run a function that takes long in a thread, and return its result; the engine's loop goes on."""
    return (yield from ask(lambda: asyncio.to_thread(function, *arguments)))


def move(stage: Stage, target_um: npt.ArrayLike, settle_s: float) -> Generator[Msg, Any, None]:
    """Move the stage to x, y (um) and wait ``settle_s`` after its arrival."""
    x_um, y_um = np.asarray(target_um, float)
    yield from bps.abs_set(stage, (float(x_um), float(y_um)), wait=True)
    if settle_s:
        yield from bps.sleep(settle_s)


def position(stage: Stage) -> Generator[Msg, Any, npt.NDArray[np.float64]]:
    """Return x, y of the stage, um, the median of `READINGS` read-backs."""
    readings = []
    for _ in range(READINGS):
        (vector,) = yield from read_now(stage, "position")
        readings.append(np.asarray(vector, float)[:2])
    return np.median(readings, axis=0)  # type: ignore[no-any-return]


def check_reach(stage: Stage, targets_um: Sequence[npt.ArrayLike], what: str) -> Generator[Msg, Any, None]:
    """Refuse stage targets (x, y, um) of which one is outside the stage's limits; nothing moves.

    Raises
    ------
    LimitError
        Naming the target and the limit.
    """
    limits = yield from ask(stage.limits)
    for x_um, y_um in np.asarray(targets_um, float):
        try:
            limits.check({"x_um": float(x_um), "y_um": float(y_um)})
        except LimitError as error:
            raise LimitError(
                f"{what} does not fit into the stage's limits: {error}; start elsewhere"
            ) from None


def check_between(name: str, value: float, low: float, high: float, unit: str = "") -> None:
    """Refuse an argument of a plan outside its range (NaN is outside).

    Raises
    ------
    LimitError
        Naming it, its value and its range.
    """
    if not (math.isfinite(value) and low <= value <= high):
        raise LimitError(f"{name} = {value:g} is outside {low:g} to {high:g} {unit}".rstrip())


def failed(kind: CalibrationKind, why: str) -> InstrumentFault:
    """Return the error of a measurement that says nothing."""
    return InstrumentFault(f"calibration {kind} ({ABOUT[kind].title}) failed and is not kept: {why}")
