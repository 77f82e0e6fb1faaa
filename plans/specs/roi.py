"""A region of interest: a polygon on the stage, turned and widened."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from shapely import MultiPolygon, Polygon, affinity, is_valid_reason

Finite = Annotated[float, Field(allow_inf_nan=False)]
StagePoint = tuple[Finite, Finite]
NEGLIGIBLE_UM = 1e-6
"""A region is not widened by less: GEOS leaves nothing of it."""


class Roi(BaseModel):
    """A region to acquire: the polygon, turned about its centroid, then widened.

    Examples
    --------
    >>> Roi(name="a", polygon_um=((0, 0), (10, 0), (10, 5), (0, 5)), dilation_um=1.0).shape().bounds
    (-1.0, -1.0, 11.0, 6.0)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=100, description="name of the region, once in a montage")
    polygon_um: tuple[StagePoint, ...] = Field(
        description="corners in order around the region, stage x, y, um; the last need not repeat the first"
    )
    rotation_deg: float = Field(
        default=0.0, ge=-360, le=360, description="turn about the centroid, from stage x towards y, deg"
    )
    dilation_um: float = Field(
        default=0.0, ge=-1000, le=1000, description="widened by, um; negative: made smaller"
    )

    @model_validator(mode="after")
    def _is_an_outline(self) -> Self:
        points = self.polygon_um
        if len(set(points)) < 3:
            raise ValueError(f"ROI {self.name!r} has {len(set(points))} different corners; give at least 3")
        if (reason := is_valid_reason(Polygon(points))) != "Valid Geometry":
            place = re.search(r"\[(\S+) (\S+)\]", reason)
            where = f" at stage ({float(place[1]):g}, {float(place[2]):g}) um" if place else ""
            raise ValueError(
                f"the outline of ROI {self.name!r} crosses or touches itself{where}; "
                f"list its corners in order around it, each once"
            )
        if self.shape().is_empty:
            raise ValueError(
                f"nothing is left of ROI {self.name!r} with dilation_um = {self.dilation_um:g}; "
                f"make it larger"
            )
        return self

    def shape(self) -> Polygon | MultiPolygon:
        """Return the region itself in stage um, turned and widened."""
        shape = affinity.rotate(Polygon(self.polygon_um), self.rotation_deg, origin="centroid")
        grown = shape.buffer(self.dilation_um) if abs(self.dilation_um) > NEGLIGIBLE_UM else shape
        assert isinstance(grown, Polygon | MultiPolygon)
        return grown
