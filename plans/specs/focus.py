"""What focusing is: a validated specification, and the rule that says when; they know no hardware."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

FocusMethod = Literal["beam_tilt", "sharpness", "power_spectrum"]
MapKind = Literal["plane", "paraboloid"]

Finite = Annotated[float, Field(allow_inf_nan=False)]
Point = tuple[Finite, Finite]


class FocusSpec(BaseModel):
    """How focus and astigmatism are measured, and when.

    Lengths are in um, times in s, angles in mrad; defocus negative is underfocus. Settings that are None stay
    as they are; what is changed to measure (magnification, binning, beam tilt) is put back afterwards.

    Attributes
    ----------
    method
        ``beam_tilt``: the image's displacement between opposite beam tilts, a few exposures, -30..+30 um;
        ``sharpness``: a series through focus, about fourteen exposures; ``power_spectrum``: how the
        spectrum of the image changes over three defoci.
    target_defocus_um
        Defocus that the image shall have afterwards.
    exposure_time_s, magnification, binning
        Of the exposures for focusing.
    beam_tilt_mrad
        Half the angle between the two tilts; the image moves by 2 nm a mrad and um of defocus.
    range_um
        The largest correction that is believed; ``sharpness`` looks this far on both sides.
    max_iterations, accuracy_um
        The measurement is repeated until it agrees with what is set to within ``accuracy_um``, at most so
        many times.
    spherical_aberration_mm
        Of the objective; beam tilt shows ``Cs t^2`` more than the defocus.
    sharpest_defocus_um
        True defocus at which contrast is highest, for ``sharpness`` and ``power_spectrum``: under focus where
        a specimen shows phase contrast too. It is the difference of their result from that of ``beam_tilt``.
    offset_um
        Where focus is measured, (x, y) beside the tile in stage um: (0, 0) is on it.
    stigmate
        Whether astigmatism is corrected whenever focus is measured, by power spectra.
    stigmator_step
        How far a stigmator is moved to learn what it does, 0 to 0.5 of its full range 1.
    every_tiles, every_um, per
        When: after so many tiles, after so far a way on the stage from where it was last measured, at each
        line of tiles (``"block"``), at each region (``"roi"``) or once before the first tile (``"once"``).
        They may be combined; with none of them and no map, focus is measured once.
    after_focus_fault
        Whether a tile judged out of focus has focus measured before it is acquired again.
    map
        Fit a surface through ``map_points_um`` before the first tile and take every tile's defocus from it.
    map_points_um
        Where, in stage um; at least 3 for a plane, 6 for a paraboloid. None: points spread over the tiles.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: FocusMethod = "beam_tilt"
    target_defocus_um: float = Field(default=-0.5, ge=-100, le=100, allow_inf_nan=False)
    exposure_time_s: float = Field(default=0.1, gt=0, le=60, allow_inf_nan=False)
    magnification: float | None = Field(default=None, ge=20, le=1_500_000, allow_inf_nan=False)
    binning: int | None = Field(default=2, ge=1, le=16)
    beam_tilt_mrad: float = Field(default=10.0, gt=0, le=50, allow_inf_nan=False)
    range_um: float = Field(default=10.0, gt=0, le=200, allow_inf_nan=False)
    max_iterations: int = Field(default=4, ge=1, le=20)
    accuracy_um: float = Field(default=0.05, gt=0, le=20, allow_inf_nan=False)
    offset_um: Point = (0.0, 0.0)
    spherical_aberration_mm: float = Field(default=2.7, ge=0, le=20, allow_inf_nan=False)
    sharpest_defocus_um: float = Field(default=0.0, ge=-20, le=20, allow_inf_nan=False)
    stigmate: bool = False
    stigmator_step: float = Field(default=0.1, gt=0, le=0.5, allow_inf_nan=False)
    every_tiles: int | None = Field(default=None, ge=1)
    every_um: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    per: Literal["block", "roi", "once"] | None = None
    after_focus_fault: bool = True
    map: MapKind | None = None
    map_points_um: tuple[Point, ...] | None = None

    @model_validator(mode="after")
    def _enough_points(self) -> FocusSpec:
        if self.map_points_um is None:
            return self
        if self.map is None:
            raise ValueError("map_points_um without map: give map = 'plane' or 'paraboloid'")
        needed = POINTS_NEEDED[self.map]
        if len(set(self.map_points_um)) < needed:
            raise ValueError(
                f"map_points_um has {len(set(self.map_points_um))} different points, but a {self.map} needs "
                f"at least {needed}"
            )
        return self


POINTS_NEEDED: dict[MapKind, int] = {"plane": 3, "paraboloid": 6}


class Place(Protocol):
    """What the schedule has to know of a tile; a `plans.specs.grid.Tile` is one."""

    @property
    def roi(self) -> int:
        """Which region it belongs to."""

    @property
    def x_um(self) -> float:
        """Stage x."""

    @property
    def y_um(self) -> float:
        """Stage y."""


class FocusSchedule:
    """Says before which tiles focus is to be measured.

    The plan asks with `due` before each tile (or before each block, with its first tile), acts, and tells
    with `done` that focus was measured and with `acquired` how many tiles have followed.
    """

    def __init__(self, spec: FocusSpec) -> None:
        self._spec = spec
        self._measured: Place | None = None
        self._tiles = 0

    def due(self, tile: Place, *, block_begins: bool = False, focus_fault: bool = False) -> str:
        """Return why focus is due before a tile, in words, or ``""``.

        Parameters
        ----------
        tile
            The tile to come.
        block_begins
            Whether it is the first of a line of tiles.
        focus_fault
            Whether it was acquired before and judged out of focus.
        """
        spec, last = self._spec, self._measured
        if focus_fault and spec.after_focus_fault:
            return "a tile was out of focus"
        if last is None:
            return "" if spec.map is not None else "first tile"
        if spec.per == "block" and block_begins:
            return "a block begins"
        if spec.per in ("block", "roi") and tile.roi != last.roi:
            return "a region begins"
        if spec.every_tiles is not None and self._tiles >= spec.every_tiles:
            return f"{self._tiles} tiles since the last time"
        way_um = math.hypot(tile.x_um - last.x_um, tile.y_um - last.y_um)
        if spec.every_um is not None and way_um >= spec.every_um:
            return f"{way_um:.0f} um from the last place"
        return ""

    def acquired(self, tiles: int = 1) -> None:
        """Take note that tiles were acquired."""
        self._tiles += tiles

    def done(self, tile: Place) -> None:
        """Take note that focus was measured for a tile."""
        self._measured, self._tiles = tile, 0
