"""The specification of a montage: frozen, validated, JSON both ways; it knows no hardware."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from plans.calibrations import CalibrationKind
from plans.specs.focus import FocusSpec
from plans.specs.policy import VerdictPolicy
from plans.specs.roi import Finite, Roi, StagePoint

if TYPE_CHECKING:
    from plans.preview import Preview
    from plans.specs.view import View

Order = Literal["row_wise", "column_wise", "row_wise_snake", "column_wise_snake", "spiral", "centre_out"]
MAX_OVERLAP = 0.8
PLACES: tuple[tuple[str, ...], ...] = (
    ("rows", "columns"),
    ("width_um", "height_um"),
    ("corners_um",),
    ("rois",),
    ("positions_um",),
    ("rows", "columns", "positions_um"),
)
"""The ways to say where a montage is and how large: the fields that go together."""


def _fractions(value: float | tuple[float, float]) -> float | tuple[float, float]:
    for number in value if isinstance(value, tuple) else (value,):
        if not 0 <= number <= MAX_OVERLAP:
            raise ValueError(
                f"overlap is a fraction of a tile, 0 to {MAX_OVERLAP:g}; {number:g} is not (10 % is 0.1)"
            )
    return value


Overlap = Annotated[float | tuple[float, float], AfterValidator(_fractions)]
ImageShifts = Annotated[int, Field(ge=1, le=25)]
Approach = Annotated[float, Field(ge=-100, le=100)]


class MontageSpec(BaseModel):
    """A montage: where, how large, in which order, and how each tile is reached and exposed.

    Where and how large is said in one of six ways: ``rows`` and ``columns``; ``width_um`` and ``height_um``;
    ``corners_um``; ``rois``; ``positions_um``; ``positions_um`` with ``rows`` and ``columns`` at each.

    Examples
    --------
    >>> MontageSpec(rows=3, columns=4, overlap=0.1).tiles
    12
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int | None = Field(default=None, ge=1, le=1000, description="rows of tiles")
    columns: int | None = Field(default=None, ge=1, le=1000, description="columns of tiles")
    width_um: float | None = Field(
        default=None, gt=0, le=3000, description="width to cover, along the camera's x, um"
    )
    height_um: float | None = Field(
        default=None, gt=0, le=3000, description="height to cover, along the camera's y, um"
    )
    corners_um: tuple[StagePoint, ...] = Field(
        default=(),
        description="stage points; the smallest rectangle of the camera's axes around them is covered, um",
    )
    rois: tuple[Roi, ...] = Field(default=(), description="regions to cover; tiles outside are left out")
    positions_um: tuple[StagePoint, ...] = Field(
        default=(), description="stage points, um: a tile at each, or rows x columns, or a supertile"
    )
    overlap: Overlap = Field(
        default=0.1,
        description="overlap of neighbours, fraction of a tile, or (along camera x, along camera y)",
    )
    centre_um: tuple[Finite, Finite] | None = Field(
        default=None, description="stage x, y of the montage's centre, um; None is where the stage is"
    )
    order: Order = Field(default="row_wise_snake", description="order of acquisition")
    supertile: tuple[ImageShifts, ImageShifts] = Field(
        default=(1, 1), description="tiles reached by image shift from one stage position: columns, rows"
    )
    magnification: float | None = Field(
        default=None, ge=20, le=1_500_000, description="magnification; None leaves it"
    )
    binning: int | None = Field(default=None, ge=1, le=16, description="binning; None leaves it")
    exposure_time_s: float = Field(default=0.1, gt=0, le=600, description="exposure of a tile, s")
    settle_s: float = Field(default=0.05, ge=0, le=60, description="wait between arrival and exposure, s")
    settle_mode: Literal["fixed", "readback", "drift"] = Field(
        default="fixed",
        description="after settle_s: expose; or wait until the stage's read-back is still, or the image",
    )
    settle_limit_nm_s: float = Field(
        default=50.0, gt=0, le=1e6, description="drift below which the sample is still, nm/s"
    )
    settle_timeout_s: float = Field(
        default=5.0, gt=0, le=600, description="longest wait for it to be still, s; then it is exposed"
    )
    approach_um: tuple[Approach, Approach] = Field(
        default=(0.0, 0.0),
        description="last part of every move, along stage x, y, signed, um; 0: from either side",
    )
    tolerance_um: float = Field(
        default=0.5, ge=0, le=100, description="how far from its target the stage may stop, um; 0: any"
    )
    stage_retries: int = Field(default=3, ge=0, le=20, description="moves more that may reach tolerance_um")
    blanking: Literal["auto", "shutter", "column", "off"] = Field(
        default="auto",
        description="what blanks the beam between exposures: camera's shutter, column; auto: what there is",
    )
    defocus_um: float | None = Field(
        default=None,
        ge=-100,
        le=100,
        description="defocus of every tile, um, underfocus negative; None leaves it",
    )
    focus: FocusSpec | None = Field(default=None, description="autofocus: how and when; None: not at all")
    mode: Literal["sequenced", "stepped"] = Field(
        default="sequenced",
        description="sequenced: the sequencer runs rows; stepped: the plan runs every tile",
    )
    policy: VerdictPolicy = Field(
        default=VerdictPolicy(), description="what is done about each kind of fault of a tile"
    )
    max_attempts: int = Field(
        default=3, ge=1, le=10, description="acquisitions of one tile, the first included"
    )
    max_dose_e_per_a2: float | None = Field(
        default=None, gt=0, description="largest dose anywhere in the montage, e/A^2; None does not limit it"
    )
    calibrations: tuple[CalibrationKind, ...] = Field(
        default=(), description="calibrations that must be there; a supertile needs image_shift anyway"
    )

    @model_validator(mode="after")
    def _one_way_to_say_the_place(self) -> Self:
        names = dict.fromkeys(name for place in PLACES for name in place)
        given = [name for name in names if getattr(self, name) not in (None, ())]
        if tuple(given) not in PLACES:
            raise ValueError(
                f"the size of the montage is given by {' and '.join(given) or 'nothing'}; give rows and "
                f"columns, or width_um and height_um, or one of corners_um, rois and positions_um "
                f"(rows and columns may go with positions_um: so many tiles at each)"
            )
        if self.centre_um is not None and not {"rows", "width_um"}.intersection(given):
            raise ValueError(f"centre_um does not go with {given[-1]}, which says the place; leave it out")
        if self.centre_um is not None and self.positions_um:
            raise ValueError("centre_um does not go with positions_um, which say the place; leave it out")
        if given == ["corners_um"] and len(set(self.corners_um)) < 2:
            raise ValueError("corners_um needs at least 2 different points to span an area")
        return self

    @model_validator(mode="after")
    def _names_and_positions_once(self) -> Self:
        for what, values in (("rois", [roi.name for roi in self.rois]), ("positions_um", self.positions_um)):
            twice = [value for value, count in Counter[Any](values).items() if count > 1]
            if twice:
                raise ValueError(f"{what} has {twice[0]!r} twice; give each once")
        return self

    @model_validator(mode="after")
    def _neighbours_overlap(self) -> Self:
        counts = self.columns, self.rows
        if self.positions_um and self.rows is None:
            counts = self.supertile
        for axis, overlap, count in zip("xy", self.overlap_xy, counts, strict=True):
            if overlap == 0 and count != 1:
                raise ValueError(
                    f"overlap = 0 along camera {axis} leaves gaps between neighbours and nothing to join "
                    f"them by; give 0.05 to 0.2 (0 is for single tiles)"
                )
        return self

    @property
    def overlap_xy(self) -> tuple[float, float]:
        """Overlap along the camera's x and y, fractions of a tile."""
        return self.overlap if isinstance(self.overlap, tuple) else (self.overlap, self.overlap)

    @property
    def raster(self) -> tuple[int, int] | None:
        """Columns and rows of the raster (at each position), or None where the view decides."""
        if self.rows is not None and self.columns is not None:
            return self.columns, self.rows
        return self.supertile if self.positions_um else None

    @property
    def tiles(self) -> int | None:
        """Number of tiles, or None where it depends on the view."""
        if self.raster is None:
            return None
        return self.raster[0] * self.raster[1] * max(1, len(self.positions_um))

    def preview(self, view: View, **options: Any) -> Preview:
        """Return what the montage will be, before anything moves: see `plans.preview.preview`."""
        from plans.preview import preview

        return preview(self, view, **options)
