"""The specification of a montage: frozen, validated, JSON both ways; it knows no hardware."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Order = Literal["row_wise", "column_wise", "row_wise_snake", "column_wise_snake", "spiral"]
MAX_OVERLAP = 0.8


def _fractions(value: float | tuple[float, float]) -> float | tuple[float, float]:
    for number in value if isinstance(value, tuple) else (value,):
        if not 0 <= number <= MAX_OVERLAP:
            raise ValueError(
                f"overlap is a fraction of a tile, 0 to {MAX_OVERLAP:g}; {number:g} is not (10 % is 0.1)"
            )
    return value


Overlap = Annotated[float | tuple[float, float], AfterValidator(_fractions)]


class MontageSpec(BaseModel):
    """A rectangular montage, by rows x columns or by width x height.

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
    overlap: Overlap = Field(
        default=0.1,
        description="overlap of neighbours, fraction of a tile, or (along camera x, along camera y)",
    )
    centre_um: tuple[float, float] | None = Field(
        default=None, description="stage x, y of the montage's centre, um; None is where the stage is"
    )
    order: Order = Field(default="row_wise_snake", description="order of acquisition")
    exposure_time_s: float = Field(default=0.1, gt=0, le=600, description="exposure of a tile, s")
    settle_s: float = Field(default=0.05, ge=0, le=60, description="wait between arrival and exposure, s")
    defocus_um: float | None = Field(
        default=None,
        ge=-100,
        le=100,
        description="defocus of every tile, um, underfocus negative; None leaves it",
    )
    mode: Literal["sequenced", "stepped"] = Field(
        default="sequenced",
        description="sequenced: the sequencer runs rows; stepped: the plan runs every tile",
    )
    max_attempts: int = Field(
        default=3, ge=1, le=10, description="acquisitions of one tile, the first included"
    )
    max_dose_e_per_a2: float | None = Field(
        default=None, gt=0, description="largest dose anywhere in the montage, e/A^2; None does not limit it"
    )

    @model_validator(mode="after")
    def _one_way_to_say_the_size(self) -> Self:
        by_count = self.rows is not None and self.columns is not None
        by_size = self.width_um is not None and self.height_um is not None
        given = [
            name for name in ("rows", "columns", "width_um", "height_um") if getattr(self, name) is not None
        ]
        if by_count == by_size or len(given) != 2:
            raise ValueError(
                f"the size of the montage is given by {' and '.join(given) or 'nothing'}; "
                f"give rows and columns, or width_um and height_um"
            )
        return self

    @property
    def overlap_xy(self) -> tuple[float, float]:
        """Overlap along the camera's x and y, fractions of a tile."""
        return self.overlap if isinstance(self.overlap, tuple) else (self.overlap, self.overlap)

    @property
    def tiles(self) -> int | None:
        """Number of tiles, or None where the size is given in um."""
        return self.rows * self.columns if self.rows is not None and self.columns is not None else None
