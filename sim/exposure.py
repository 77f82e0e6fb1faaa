"""What the column shows at an exposure: the state of stage, lenses and faults, in one record."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Final

from devices.stage.driver import StagePosition
from sim.alignment import astigmatism_um, beam_centre_um, image_shift_um, tilt_shift_um
from sim.faults import Fault
from sim.lenses import Lenses, dose_rate_e_nm2_s, true_geometry
from sim.motion import true_position
from sim.placement import Placement
from sim.world import TrueExposure, World

FOCUS_JUMP_UM: Final = -20.0
DRIFT_BURST_UM: Final = 0.2
_SAMPLES: Final = 7


@dataclass(frozen=True, slots=True)
class Shot:
    """What the camera needs to draw one frame.

    ``x_um``, ``y_um`` is the specimen point at the image's centre; ``pixel_size_nm`` that of an unbinned
    pixel; ``defocus_um`` is negative under focus; ``astigmatism_um`` the two components (0 and 45 deg) of the
    difference of focus; ``drift_um`` the way the specimen ran; ``dose_e_nm2`` that in the middle of the beam,
    whose centre is ``beam_um`` off the image's and whose radius is ``beam_radius_um``; ``placement`` says
    which sample is there and how it lies.
    """

    index: int
    exposure_s: float
    x_um: float
    y_um: float
    pixel_size_nm: float
    rotation_rad: float
    defocus_um: float
    astigmatism_um: tuple[float, float]
    drift_um: tuple[float, float]
    dose_e_nm2: float
    beam_um: tuple[float, float]
    beam_radius_um: float
    beam_on: bool
    diffraction: bool
    faults: tuple[Fault, ...]
    placement: Placement

    def fault(self, name: str) -> float:
        """Return the severity of a fault in this exposure, 0 where there is none."""
        return max((fault.severity for fault in self.faults if fault.name == name), default=0.0)


def _drift(path: list[StagePosition]) -> tuple[StagePosition, tuple[float, float]]:
    """Return the mean position and the length of the smear along each axis."""
    if len(path) == 1:
        return path[0], (0.0, 0.0)
    xs, ys = [p.x_um for p in path], [p.y_um for p in path]
    mean = StagePosition(statistics.fmean(xs), statistics.fmean(ys), path[-1].z_um, path[-1].alpha_deg)
    # the standard deviation of a uniform smear of length L is L / sqrt(12)
    length_x, length_y = (math.sqrt(12.0) * statistics.pstdev(values) for values in (xs, ys))
    along = (xs[-1] - xs[0]) * (ys[-1] - ys[0])
    return mean, (length_x, math.copysign(length_y, along))


def expose(world: World, index: int, started_s: float, exposure_s: float, wall_s: float) -> Shot:
    """Return what exposure ``index`` shows; it began at ``started_s`` (monotonic) and took ``wall_s``."""
    config, motion, lenses = world.config, world.motion(), world.lenses()
    settled = config.timing == "fast"
    count = 1 if settled else _SAMPLES
    where, drift = _drift(
        [
            true_position(config.stage, motion, started_s + wall_s * (i + 0.5) / count, settled=settled)
            for i in range(count)
        ]
    )
    return _shot(world, index, exposure_s, where, drift, lenses, world.acting(index))


def _shot(
    world: World,
    index: int,
    exposure_s: float,
    where: StagePosition,
    drift: tuple[float, float],
    lenses: Lenses,
    faults: tuple[Fault, ...],
) -> Shot:
    config, placement = world.config, world.placement()
    column = config.column
    pixel_size_nm, rotation_deg = true_geometry(config, lenses)
    severity = {fault.name: fault.severity for fault in faults}
    burst_um = DRIFT_BURST_UM * severity.get("drift_burst", 0.0)
    angle = 2.4 * index
    height_um = where.z_um + world.specimen().height_um(*placement.to_sample(where.x_um, where.y_um))
    defocus_um = lenses.defocus_um + height_um + FOCUS_JUMP_UM * severity.get("focus_jump", 0.0)
    moved_x, moved_y = image_shift_um(column, lenses)
    tilted_x, tilted_y = tilt_shift_um(column, lenses, defocus_um)
    beam_x, beam_y = beam_centre_um(column, lenses)
    return Shot(
        index=index,
        exposure_s=exposure_s,
        x_um=where.x_um + moved_x + tilted_x,
        y_um=where.y_um + moved_y + tilted_y,
        pixel_size_nm=pixel_size_nm,
        rotation_rad=math.radians(rotation_deg),
        defocus_um=defocus_um,
        astigmatism_um=astigmatism_um(column, lenses),
        drift_um=(drift[0] + burst_um * math.cos(angle), drift[1] + burst_um * math.sin(angle)),
        dose_e_nm2=dose_rate_e_nm2_s(column, lenses) * exposure_s,
        beam_um=(beam_x - tilted_x, beam_y - tilted_y),
        beam_radius_um=lenses.illuminated_area_um / 2 * (1.0 + column.beam_size_error),
        beam_on=lenses.beam_on_camera and "beam_loss" not in severity,
        diffraction=lenses.projection_mode == "DIFFRACTION",
        faults=faults,
        placement=placement,
    )


def truth(shot: Shot, start_s: float, z_um: float) -> TrueExposure:
    """Return the record of an exposure that began at ``start_s`` (Unix time)."""
    return TrueExposure(
        shot.index,
        start_s,
        shot.x_um,
        shot.y_um,
        z_um,
        shot.defocus_um,
        shot.drift_um[0],
        shot.drift_um[1],
        shot.pixel_size_nm,
        shot.dose_e_nm2,
        tuple(sorted({fault.name for fault in shot.faults})),
        shot.beam_on,
        shot.astigmatism_um,
        shot.x_um + shot.beam_um[0],
        shot.y_um + shot.beam_um[1],
        shot.beam_radius_um,
        shot.placement.slot,
    )
