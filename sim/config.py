"""What a virtual microscope is made of: one frozen, validated description.

The world file stores it, so every driver of a lab sees the same. Lengths end in their unit; a value outside
its range, and a name that does not exist, is refused when the description is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from sim.faults import Fault


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().absolute()


AbsolutePath = Annotated[Path | None, AfterValidator(_absolute)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SpecimenConfig(_Part):
    """What lies on the stage.

    ``tissue`` is procedural, endless and a function of the seed; ``image`` is a micrograph (PNG, TIFF, JPEG,
    MRC) with its centre at stage (0, 0), mirrored or followed by resin beyond its border; ``replay`` is a
    folder of recorded tiles named ``*_ROW_COL.EXT`` (1-based), the middle of the grid at stage (0, 0).
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
    focus_offset_um: float = Field(
        default=0.0, ge=-50, le=50, description="height of the specimen over z = 0"
    )
    focus_slope_um_per_mm: float = Field(
        default=0.3, ge=-20, le=20, description="tilt of the specimen along x"
    )

    @model_validator(mode="after")
    def _source(self) -> SpecimenConfig:
        if self.kind == "image" and self.file is None:
            raise ValueError(
                "a specimen of kind 'image' needs file: give the path of a PNG, TIFF, JPEG or MRC"
            )
        if self.kind == "replay" and self.folder is None:
            raise ValueError("a specimen of kind 'replay' needs folder: tiles named *_ROW_COL.png")
        return self


class CameraConfig(_Part):
    """The sensor.

    ``gain_counts`` is counts a primary electron; left out, blank resin comes to 45 % of full scale in 0.1 s
    at the default dose. ``offset_counts`` left out is 0.3 % of full scale. ``gain_spread`` is what the gain
    reference leaves.
    """

    model: str = "SimCam"
    width_px: int = Field(default=2048, ge=16, le=16384)
    height_px: int = Field(default=2048, ge=16, le=16384)
    bit_depth: int = Field(default=16, ge=8, le=16)
    pixel_size_um: float = Field(default=15.0, gt=0, le=200)
    gain_counts: float | None = Field(default=None, gt=0, le=1000)
    gain_spread: float = Field(default=0.01, ge=0, le=0.5, description="rms of the gain pattern")
    offset_counts: float | None = Field(default=None, ge=0, le=10_000)
    dark_current_e_s: float = Field(default=2.0, ge=0, le=10_000)
    read_noise_e: float = Field(default=2.0, ge=0, le=1000)
    blur_px: float = Field(default=0.45, ge=0, le=5, description="rms spread of an electron in the sensor")
    exposure_min_s: float = Field(default=0.001, gt=0, le=1)
    exposure_max_s: float = Field(default=60.0, ge=1, le=3600)
    temperature_degc: float = Field(default=-25.0, ge=-200, le=60)


class MagnificationEntry(_Part):
    """One step of the magnification: ``pixel_size_nm`` None where no calibration has been made."""

    magnification: float = Field(ge=20, le=1_500_000)
    pixel_size_nm: float | None = Field(default=None, gt=0.001, le=100_000)
    image_rotation_deg: float | None = Field(default=None, ge=-180, le=180)


MAGNIFICATIONS: tuple[MagnificationEntry, ...] = tuple(
    MagnificationEntry(magnification=magnification, pixel_size_nm=pixel_size_nm)
    for magnification, pixel_size_nm in (
        (50, 400.0), (100, 200.0), (200, 100.0), (400, 50.0), (800, 25.0), (1200, 16.667), (2000, 10.0),
        (2500, 8.0), (4000, 5.0), (5000, 4.0), (6300, 3.175), (8000, 2.5), (10_000, 2.0), (20_000, 1.0),
        (40_000, 0.5), (80_000, None),
    )
)  # fmt: skip


class ColumnConfig(_Part):
    """The optics: electron source, lenses, beam.

    ``image_rotation_deg`` is that of every magnification that names none of its own; left out, it is 1.5 deg
    (0 where recorded tiles are replayed: their grid is the camera's). ``dose_rate_e_nm2_s`` is the flux at
    the specimen in the middle of the beam at magnification 5000; intensity zoom keeps the flux a pixel at
    other magnifications. ``beam_edge`` is the width of the beam's edge and ``beam_falloff`` the loss from its
    middle to its edge, both as fractions.
    """

    high_voltage_kv: float = Field(default=120.0, ge=40, le=300)
    magnification: float = Field(default=5000.0, ge=20, le=1_500_000)
    magnifications: tuple[MagnificationEntry, ...] = Field(
        default=MAGNIFICATIONS, min_length=1, max_length=50
    )
    image_rotation_deg: float | None = Field(default=None, ge=-180, le=180)
    spherical_aberration_mm: float = Field(default=2.7, ge=0, le=10)
    convergence_mrad: float = Field(default=1.2, ge=0, le=20, description="half angle of the illumination")
    amplitude_contrast: float = Field(
        default=0.9, ge=0, le=1, description="1 is pure mass-thickness contrast"
    )
    defocus_um: float = Field(default=-0.5, ge=-1000, le=1000)
    astigmatism_um: float = Field(default=0.1, ge=0, le=50, description="residual of the objective")
    astigmatism_angle_deg: float = Field(default=30.0, ge=-180, le=180)
    stigmator_um: float = Field(default=10.0, gt=0, le=100, description="astigmatism of a stigmator at 1")
    distortion: float = Field(
        default=0.003,
        ge=-0.2,
        le=0.2,
        description="radial, relative at half the sensor's width: 3 px of 1024",
    )
    illuminated_area_um: float = Field(default=22.0, ge=0.05, le=500)
    beam_edge: float = Field(default=0.05, gt=0, le=0.5)
    beam_falloff: float = Field(default=0.25, ge=0, lt=1)
    dose_rate_e_nm2_s: float = Field(default=1500.0, gt=0, le=1e9)
    intensity_zoom: bool = True

    @field_validator("magnifications")
    @classmethod
    def _ordered(cls, table: tuple[MagnificationEntry, ...]) -> tuple[MagnificationEntry, ...]:
        values = [entry.magnification for entry in table]
        if values != sorted(set(values)):
            raise ValueError("magnifications must rise, each named once")
        return table


class StageConfig(_Part):
    """The stage: how it moves and how far it lands from where it was sent.

    ``step_noise_um`` (rms) is the miss that the encoder sees; backlash, cyclic error, ``skew_deg`` between
    the axes and creep it does not. A move takes ``move_overhead_s`` and then a profile of constant
    acceleration up to ``speed_um_s``: a step of 7.4 um takes 0.17 s.
    """

    step_noise_um: float = Field(default=0.05, ge=0, le=10)
    readback_noise_um: float = Field(default=0.004, ge=0, le=1)
    backlash_um: float = Field(default=0.06, ge=0, le=50)
    cyclic_amplitude_um: float = Field(default=0.02, ge=0, le=10)
    cyclic_period_um: tuple[float, float] = (61.0, 42.0)
    skew_deg: float = Field(default=0.02, ge=-5, le=5)
    drift_nm_s: float = Field(default=40.0, ge=0, le=10_000, description="creep right after a move of a tile")
    drift_decay_s: float = Field(default=0.6, gt=0, le=600)
    ring_um: float = Field(default=0.15, ge=0, le=10, description="amplitude of the vibration at arrival")
    ring_hz: float = Field(default=55.0, gt=0, le=1000)
    ring_decay_s: float = Field(default=0.012, gt=0, le=10)
    move_overhead_s: float = Field(default=0.05, ge=0, le=60)
    acceleration_um_s2: float = Field(default=2000.0, gt=0, le=1e6)
    speed_um_s: float = Field(default=400.0, gt=0, le=1e5)
    tilt_speed_deg_s: float = Field(default=10.0, gt=0, le=1000)

    @field_validator("cyclic_period_um")
    @classmethod
    def _positive(cls, periods: tuple[float, float]) -> tuple[float, float]:
        if min(periods) <= 0:
            raise ValueError("cyclic_period_um must be two lengths over 0 um")
        return periods

    def error_bound_um(self, reach_um: float = 100.0) -> float:
        """Return how far read-back and truth may differ on one axis within ``reach_um`` of the origin, um."""
        skew = abs(self.skew_deg) * 0.01746 * reach_um
        after_move = self.drift_nm_s * self.drift_decay_s * 1e-3 + 0.2 * self.ring_um
        return (
            self.backlash_um / 2 + self.cyclic_amplitude_um + 5 * self.readback_noise_um + skew + after_move
        )


class SimulationConfig(_Part):
    """A virtual microscope.

    ``timing`` "real" takes the time that a fast microscope takes (0.32 s a tile), divided by ``time_scale``;
    "fast" takes none, and then the stage has settled whenever it has arrived.
    """

    seed: int = Field(default=1, ge=0, lt=2**31)
    timing: Literal["real", "fast"] = "real"
    time_scale: float = Field(default=1.0, gt=0, le=1000)
    readout_time_s: float = Field(default=0.15, ge=0, le=60)
    setting_time_s: float = Field(
        default=0.005, ge=0, le=10, description="to change one setting of the column"
    )
    normalize_time_s: float = Field(default=1.0, ge=0, le=60)
    specimen: SpecimenConfig = SpecimenConfig()
    camera: CameraConfig = CameraConfig()
    column: ColumnConfig = ColumnConfig()
    stage: StageConfig = StageConfig()
    faults: tuple[Fault, ...] = ()

    def delay_s(self, seconds: float) -> float:
        """Return how long something that takes ``seconds`` takes here, s on the wall."""
        return 0.0 if self.timing == "fast" else seconds / self.time_scale

    @property
    def default_rotation_deg(self) -> float:
        """Rotation from camera to stage axes of a magnification that names none, deg."""
        if self.column.image_rotation_deg is not None:
            return self.column.image_rotation_deg
        return 0.0 if self.specimen.kind == "replay" else 1.5
