"""Exposures for focusing: what is changed for them, counted, and put back afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
import numpy.typing as npt
from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.column.device import Column
from devices.stage.device import Stage
from plans.calibrations import CalibrationStore
from plans.dose import flux_e_per_a2_s
from plans.preprocessors import tolerate
from plans.specs.focus import FocusSpec
from plans.stubs.ask import read_now
from plans.stubs.snap import snap
from plans.stubs.view import view_from

T = TypeVar("T")
Plan = Generator[Msg, Any, T]
Pixels = npt.NDArray[np.uint16]
Pair = tuple[float, float]
NO_BEAM = "there is no beam: beam_current_na is 0"


@dataclass
class Probe:
    """The place, the lens settings before, and the exposures made so far.

    ``stage_per_px_um`` turns pixels of the frames (binned) into stage um.
    """

    camera: Camera
    column: Column
    spec: FocusSpec
    binning: int
    defocus_um: float
    tilt_mrad: Pair
    stigmator: Pair
    x_um: float
    y_um: float
    stage_per_px_um: npt.NDArray[np.float64]
    dose_per_exposure: float
    exposures: int = 0
    last: Pixels | None = field(default=None, repr=False)
    frozen: bool = False

    @property
    def dose_e_per_a2(self) -> float:
        """What the place received."""
        return self.exposures * self.dose_per_exposure

    @property
    def has_beam(self) -> bool:
        """Whether the column has a beam."""
        return self.dose_per_exposure > 0

    def expose(self) -> Plan[Pixels]:
        """Return a frame, (y, x) counts, with the lenses as they are."""
        frame = yield from snap(self.camera, self.column, self.spec.exposure_time_s, binning=self.binning)
        self.exposures += 1
        self.frozen = self.last is not None and bool(np.array_equal(self.last, frame.data))
        self.last = frame.data
        return frame.data

    def tilt(self, mrad: float) -> Plan[None]:
        """Tilt the beam along x from where it was before."""
        pair = np.array([self.tilt_mrad[0] + mrad, self.tilt_mrad[1]])
        yield from bps.abs_set(self.column.beam_tilt_mrad, pair, wait=True)

    def focus(self, defocus_um: float) -> Plan[None]:
        """Set the column's defocus."""
        yield from bps.abs_set(self.column.defocus_um, defocus_um, wait=True)

    def stigmate(self, stigmator: Pair) -> Plan[None]:
        """Set the objective stigmator."""
        yield from bps.abs_set(self.column.objective_stigmator, np.array(stigmator), wait=True)


def probing(
    camera: Camera,
    column: Column,
    stage: Stage,
    spec: FocusSpec,
    measure: Callable[[Probe], Plan[T]],
    calibrations: CalibrationStore | None = None,
) -> Plan[T]:
    """Run a measurement beside the tile, with the settings for focusing, and put everything else back.

    Stage, magnification, illuminated area and beam tilt are as before afterwards, and the beam is blanked,
    whatever fails. Defocus and stigmator are the measurement's own affair, but are put back if it raises.

    Raises
    ------
    LimitError
        The place beside the tile is outside the stage's limits; nothing has moved.
    ConfigurationError
        The magnification for focusing has no pixel size, measured or nominal.
    """
    names = ("magnification", "illuminated_area_um", "beam_tilt_mrad", "defocus_um", "objective_stigmator")
    magnification, area_um, tilt, defocus, stigmator = yield from read_now(column, *names)
    (own_binning,) = yield from read_now(camera, "binning")
    position = (yield Msg("locate", stage))["readback"]
    x_um, y_um = position[0] + spec.offset_um[0], position[1] + spec.offset_um[1]
    moved = spec.offset_um != (0.0, 0.0)
    zoomed = spec.magnification is not None and not math.isclose(spec.magnification, magnification)

    def body() -> Plan[T]:
        yield from bps.abs_set(column.beam_blanked, True, wait=True)
        if moved:
            yield from bps.abs_set(stage, (x_um, y_um), wait=True)
        if zoomed:
            yield from bps.abs_set(column.magnification, spec.magnification, wait=True)
        binning = int(spec.binning or own_binning)
        to_stage = yield from _to_stage(calibrations, camera, column, binning)
        dose = yield from _dose(column, spec.exposure_time_s)
        probe = Probe(
            camera,
            column,
            spec,
            binning,
            float(defocus),
            (float(tilt[0]), float(tilt[1])),
            (float(stigmator[0]), float(stigmator[1])),
            x_um,
            y_um,
            to_stage,
            dose,
        )
        return (yield from measure(probe))

    def unlearn(_: Exception) -> Plan[None]:
        yield from _restore(column.defocus_um, float(defocus), "restoring the defocus")
        yield from _restore(column.objective_stigmator, stigmator, "restoring the stigmator")

    def put_back() -> Plan[None]:
        yield from _restore(column.beam_blanked, True, "blanking the beam")
        yield from _restore(column.beam_tilt_mrad, tilt, "restoring the beam tilt")
        if zoomed:
            yield from _restore(column.magnification, magnification, "restoring the magnification")
            yield from _restore(column.illuminated_area_um, area_um, "restoring the illuminated area")
        if moved:
            yield from tolerate(
                bps.abs_set(stage, (position[0], position[1]), wait=True), "moving the stage back"
            )

    guarded = bpp.contingency_wrapper(body(), except_plan=unlearn)
    return (yield from bpp.finalize_wrapper(guarded, put_back))  # type: ignore[no-any-return]


def _restore(signal: Any, value: Any, what: str) -> Plan[None]:
    yield from tolerate(bps.abs_set(signal, value, wait=True), what)


def _to_stage(
    calibrations: CalibrationStore | None, camera: Camera, column: Column, binning: int
) -> Plan[npt.NDArray[np.float64]]:
    """Return the matrix from pixels of a frame of this binning to stage um."""
    view = yield from view_from(calibrations, camera, column)
    (set_binning,) = yield from read_now(camera, "binning")
    return np.array(view.stage_per_px_um) * (binning / int(set_binning))


def _dose(column: Column, exposure_time_s: float) -> Plan[float]:
    """Return the dose of an exposure, e/A^2 (0: no beam)."""
    current_na, area_um = yield from read_now(column, "beam_current_na", "illuminated_area_um")
    lit = current_na > 0 and area_um > 0
    return flux_e_per_a2_s(float(current_na), float(area_um)) * exposure_time_s if lit else 0.0
