"""How long a montage takes, from a model of a tile: move, settle, expose, read out."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import pairwise

from plans.specs.focus import FocusSchedule, FocusSpec
from plans.specs.grid import Grid, Tile
from plans.specs.montage import MontageSpec

FOCUS_EXPOSURES = {"beam_tilt": 6, "sharpness": 14, "power_spectrum": 6}
"""Exposures of one focusing, by method: twice what one measurement takes, since most need a second."""
DRIFT_EXPOSURE_S = 0.05
MAP_POINTS = {"plane": 5, "paraboloid": 9}
"""Places where a focus map is measured when none are named."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What an instrument takes for the steps of a tile; the defaults are those of a fast TEM.

    Attributes
    ----------
    move_overhead_s
        Time of a stage move besides its way, s.
    acceleration_um_s2, speed_um_s
        The stage's acceleration and highest speed.
    image_shift_s
        Time to change image shift, s.
    readout_s
        Time from the end of an exposure until the next may begin, s.
    software_s
        What control adds to a tile, s.
    """

    move_overhead_s: float = 0.05
    acceleration_um_s2: float = 2000.0
    speed_um_s: float = 400.0
    image_shift_s: float = 0.01
    readout_s: float = 0.15
    software_s: float = 0.002

    def move_s(self, way_um: float) -> float:
        """Return the time of a stage move: constant acceleration up to the highest speed."""
        if way_um <= 0:
            return 0.0
        speeding_um = self.speed_um_s**2 / self.acceleration_um_s2
        if way_um < speeding_um:
            return self.move_overhead_s + 2 * math.sqrt(way_um / self.acceleration_um_s2)
        return self.move_overhead_s + way_um / self.speed_um_s + self.speed_um_s / self.acceleration_um_s2


@dataclass(frozen=True, slots=True)
class Duration:
    """How long a montage takes, s, in parts that add up.

    ``readout_s`` is only what moving and settling do not hide; ``move_s`` counts stage and image shift.
    """

    move_s: float = 0.0
    settle_s: float = 0.0
    expose_s: float = 0.0
    readout_s: float = 0.0
    software_s: float = 0.0
    focus_s: float = 0.0

    @property
    def total_s(self) -> float:
        """The whole."""
        return float(sum(getattr(self, field.name) for field in fields(self)))


def estimate_time(spec: MontageSpec, grid: Grid, timing: Timing) -> Duration:
    """Return how long the tiles of a grid take.

    A tile's move and settling run while the frame before is read out. Every tile is acquired once; the way to
    the first tile, waiting for verdicts, and until a read-back or an image is still, are not known.
    """
    move, readout = 0.0, timing.readout_s if grid.tiles else 0.0
    settle_s = spec.settle_s
    if spec.settle_mode == "drift":
        settle_s += 2 * (DRIFT_EXPOSURE_S + timing.readout_s)
    for before, tile in pairwise(grid.tiles):
        step_s = _step_s(spec, timing, before, tile)
        move += step_s
        readout += max(0.0, timing.readout_s - step_s - settle_s)
    tiles = len(grid.tiles)
    return Duration(
        move,
        tiles * settle_s,
        tiles * spec.exposure_time_s,
        readout,
        tiles * timing.software_s,
        _focus_s(spec.focus, grid, timing) if spec.focus is not None else 0.0,
    )


def _step_s(spec: MontageSpec, timing: Timing, before: Tile, tile: Tile) -> float:
    """Return the time from one tile to the next: by the stage with its approach, or by image shift."""
    if tile.station == before.station:
        return timing.image_shift_s
    way_um = math.hypot(tile.x_um - before.x_um, tile.y_um - before.y_um)
    back_um = math.hypot(*spec.approach_um)
    return timing.move_s(way_um + back_um) + timing.move_s(back_um)


def _focus_s(focus: FocusSpec, grid: Grid, timing: Timing) -> float:
    """Return the time of focusing: as often as its schedule says, and for its map."""
    schedule, times = FocusSchedule(focus), 0
    for block in grid.blocks():
        for index, tile in enumerate(block):
            if schedule.due(tile, block_begins=index == 0):
                times += 1
                schedule.done(tile)
            schedule.acquired()
    if focus.map is not None:
        times += len(focus.map_points_um) if focus.map_points_um else MAP_POINTS[focus.map]
    exposure_s = focus.exposure_time_s + timing.readout_s
    aside_s = 2 * timing.move_s(math.hypot(*focus.offset_um))
    return times * (FOCUS_EXPOSURES[focus.method] * exposure_s + aside_s)
