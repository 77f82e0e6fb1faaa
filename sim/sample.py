"""What lies on the stage: specimen, sections on film, the aperture around them, the samples of a cassette.

Everything is given in the coordinates of the sample, which are the stage's where no ``samples`` table moves
it (`sim.placement`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().absolute()


AbsolutePath = Annotated[Path | None, AfterValidator(_absolute)]
Point = tuple[float, float]


class Part(BaseModel):
    """A part of the description: frozen, and a name that it does not have is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ApertureConfig(Part):
    """Opaque frame around holes: one at ``centre_um``, or a grid of them where ``pitch_um`` is given.

    A ``disc`` has ``radius_um``; a ``slot`` is a rectangle of ``size_um`` whose corners are rounded by
    ``radius_um`` (at most half of its shorter side). The edge is rough by ``roughness_um`` (rms), in a known
    way that leaves the centroid where it is to a tenth of that: `sim.specimen.substrate.Frame.depth_um`.
    """

    shape: Literal["disc", "slot"] = "disc"
    radius_um: float = Field(default=50.0, gt=0, le=5000)
    size_um: Point | None = None
    pitch_um: Point | None = None
    centre_um: Point = (0.0, 0.0)
    rotation_deg: float = Field(default=0.0, ge=-180, le=180)
    roughness_um: float = Field(default=0.3, ge=0, le=20, description="rms of the edge")

    @model_validator(mode="after")
    def _fits(self) -> ApertureConfig:
        if self.shape == "slot" and self.size_um is None:
            raise ValueError("an aperture of shape 'slot' needs size_um: width and height of the slot")
        if min(self.half_um) <= 0:
            raise ValueError("size_um must be two lengths over 0 um")
        if self.pitch_um is not None and any(
            pitch < 2 * half + 6 * self.roughness_um
            for pitch, half in zip(self.pitch_um, self.half_um, strict=True)
        ):
            raise ValueError("pitch_um must exceed the hole: apertures may not touch")
        return self

    @property
    def half_um(self) -> Point:
        """Half of the width and of the height of a hole, um."""
        if self.shape == "disc" or self.size_um is None:
            return self.radius_um, self.radius_um
        return self.size_um[0] / 2, self.size_um[1] / 2

    @property
    def corner_um(self) -> float:
        """Radius of the corners of a hole, um."""
        return min(self.radius_um, *self.half_um)


class SectionConfig(Part):
    """A section on the film: tissue within its outline (a simple polygon, um), bare film around it."""

    name: str = ""
    outline_um: tuple[Point, ...] = Field(min_length=3, max_length=500)

    @field_validator("outline_um")
    @classmethod
    def _has_an_inside(cls, outline: tuple[Point, ...]) -> tuple[Point, ...]:
        pairs = zip(outline, outline[1:] + outline[:1], strict=True)
        if abs(sum(ax * by - bx * ay for (ax, ay), (bx, by) in pairs)) < 1e-6:
            raise ValueError("outline_um must enclose an area")
        return outline


class SpecimenConfig(Part):
    """What lies on the stage.

    ``tissue`` is procedural, endless and a function of the seed; ``image`` is a micrograph (PNG, TIFF, JPEG,
    MRC) with its centre at (0, 0), mirrored or followed by resin beyond its border; ``replay`` is a folder of
    recorded tiles named ``*_ROW_COL.EXT`` (1-based), the middle of the grid at stage (0, 0). With
    ``sections`` the specimen is seen within their outlines alone; ``aperture`` carries it. The height over
    z = 0 at (x, y) is ``offset + slope_x x + slope_y y + curvature (x^2 + y^2)``.
    """

    kind: Literal["tissue", "image", "replay"] = "tissue"
    file: AbsolutePath = None
    folder: AbsolutePath = None
    specimen_pixel_size_nm: float = Field(default=4.0, gt=0.01, le=10_000)
    border: Literal["mirror", "resin"] = "mirror"
    replay_overlap: float = Field(default=0.1, ge=0, lt=0.9, description="fraction of a tile, both axes")
    texture_px: Literal[512, 1024, 2048, 4096] = Field(default=4096, description="side of the tissue texture")
    texel_size_nm: float = Field(default=3.0, ge=1, le=8)
    resin_fraction: float = Field(default=0.06, ge=0, le=0.9, description="of the area that is blank resin")
    grain: float = Field(
        default=0.0, ge=0, le=0.5, description="rms contrast of amorphous structure at a pixel of 1 nm"
    )
    sections: tuple[SectionConfig, ...] = Field(default=(), max_length=200)
    film: float = Field(default=0.97, gt=0, le=1, description="transmission of the bare film")
    aperture: ApertureConfig | None = None
    focus_offset_um: float = Field(
        default=0.0, ge=-50, le=50, description="height of the specimen over z = 0"
    )
    focus_slope_um_per_mm: float = Field(
        default=0.3, ge=-20, le=20, description="tilt of the specimen along x"
    )
    focus_slope_y_um_per_mm: float = Field(default=0.0, ge=-20, le=20)
    focus_curvature_um_per_mm2: float = Field(default=0.0, ge=-50, le=50, description="bow of the specimen")

    @model_validator(mode="after")
    def _source(self) -> SpecimenConfig:
        if self.kind == "image" and self.file is None:
            raise ValueError(
                "a specimen of kind 'image' needs file: give the path of a PNG, TIFF, JPEG or MRC"
            )
        if self.kind == "replay" and self.folder is None:
            raise ValueError("a specimen of kind 'replay' needs folder: tiles named *_ROW_COL.png")
        return self

    def height_um(self, x_um: float, y_um: float) -> float:
        """Return the height of the specimen over z = 0 at a point of the sample, um."""
        x_mm, y_mm = x_um * 1e-3, y_um * 1e-3
        slope = self.focus_slope_um_per_mm * x_mm + self.focus_slope_y_um_per_mm * y_mm
        return self.focus_offset_um + slope + self.focus_curvature_um_per_mm2 * (x_mm**2 + y_mm**2)


class SampleConfig(Part):
    """A sample in a slot of the loader.

    ``specimen`` overrides keys of the simulation's ``specimen``; ``seed`` left out is that of the simulation
    plus the slot. On the stage the sample lies ``offset_um`` off and ``rotation_deg`` turned, and each time
    it is loaded again elsewhere by ``reload_um`` and ``reload_deg`` (rms, none at the first time).
    """

    slot: int = Field(ge=1, le=1000)
    barcode: str = Field(default="", max_length=64)
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    specimen: dict[str, JsonValue] = {}
    offset_um: Point = (0.0, 0.0)
    rotation_deg: float = Field(default=0.0, ge=-180, le=180)
    reload_um: float = Field(default=0.0, ge=0, le=200)
    reload_deg: float = Field(default=0.0, ge=0, le=20)
