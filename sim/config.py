"""What a virtual microscope is made of: one frozen, validated description.

The world file stores it, so every driver of a lab sees the same. Lengths end in their unit; a value outside
its range, and a name that does not exist, is refused when the description is read.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from sim.faults import Fault
from sim.sample import ApertureConfig, Part, SampleConfig, SectionConfig, SpecimenConfig

__all__ = [
    "MAGNIFICATIONS",
    "ApertureConfig",
    "CameraConfig",
    "ColumnConfig",
    "MagnificationEntry",
    "SampleConfig",
    "SectionConfig",
    "SimulationConfig",
    "SpecimenConfig",
    "StageConfig",
]


class CameraConfig(Part):
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


class MagnificationEntry(Part):
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


class ColumnConfig(Part):
    """The optics: electron source, lenses, beam.

    ``image_rotation_deg`` is that of every magnification that names none of its own; left out, it is 1.5 deg
    (0 where recorded tiles are replayed: their grid is the camera's). ``dose_rate_e_nm2_s`` is the flux at
    the specimen in the middle of the beam at magnification 5000; intensity zoom keeps the flux a pixel at
    other magnifications. ``beam_edge`` is the width of the beam's edge and ``beam_falloff`` the loss from its
    middle to its edge, both as fractions.

    What the column reports is nominal. True are: a pixel larger by ``pixel_size_error`` (relative) and turned
    by ``rotation_error_deg`` more; ``image_shift_matrix``, stage um seen per um of image shift; the beam's
    centre at ``beam_offset_um`` (stage axes, from the image's centre) with ``beam_shift_um`` 0, moved by
    ``beam_tilt_pivot_um_per_mrad`` where it is tilted; a beam wider by ``beam_size_error`` (relative, its
    current kept); and axes of the objective stigmator turned by ``stigmator_rotation_deg`` against the
    components (0 and 45 deg) of astigmatism.
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
    stigmator_rotation_deg: float = Field(default=0.0, ge=-180, le=180)
    pixel_size_error: float = Field(default=0.0, ge=-0.2, le=0.2, description="true over nominal, less 1")
    rotation_error_deg: float = Field(default=0.0, ge=-45, le=45, description="true less nominal")
    image_shift_matrix: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.0), (0.0, 1.0))
    beam_offset_um: tuple[float, float] = (0.0, 0.0)
    beam_size_error: float = Field(default=0.0, ge=-0.5, le=2, description="true over nominal, less 1")
    beam_tilt_pivot_um_per_mrad: tuple[float, float] = (0.0, 0.0)
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


class StageConfig(Part):
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


class SimulationConfig(Part):
    """A virtual microscope.

    ``timing`` "real" takes the time that a fast microscope takes (0.32 s a tile), divided by ``time_scale``;
    "fast" takes none, and then the stage has settled whenever it has arrived.

    With ``samples`` the loader's cassette holds them, and the sample of ``loaded_slot`` lies on the stage at
    the beginning (0: none, and the beam passes freely). Without, the one ``specimen`` always lies there.
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
    samples: tuple[SampleConfig, ...] = Field(default=(), max_length=200)
    loaded_slot: int = Field(default=0, ge=0, description="slot of the sample on the stage at the start")
    camera: CameraConfig = CameraConfig()
    column: ColumnConfig = ColumnConfig()
    stage: StageConfig = StageConfig()
    faults: tuple[Fault, ...] = ()

    @model_validator(mode="after")
    def _cassette(self) -> SimulationConfig:
        for key, values in (
            ("slot", [sample.slot for sample in self.samples]),
            ("barcode", [sample.barcode for sample in self.samples if sample.barcode]),
        ):
            if len(set(values)) < len(values):
                raise ValueError(f"samples must each have a {key} of their own")
        if self.loaded_slot and self.sample(self.loaded_slot) is None:
            raise ValueError(f"loaded_slot = {self.loaded_slot} is not the slot of one of the samples")
        for sample in self.samples:
            try:
                if self.specimen_of(sample).kind == "replay":
                    raise ValueError("recorded tiles are no sample of a loader; leave samples out")
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"]))
                raise ValueError(f"samples, slot {sample.slot}: specimen.{where}: {first['msg']}") from None
        return self

    def sample(self, slot: int) -> SampleConfig | None:
        """Return the sample of a slot, None where the slot is empty."""
        return next((sample for sample in self.samples if sample.slot == slot), None)

    def specimen_of(self, sample: SampleConfig | None) -> SpecimenConfig:
        """Return the specimen of a sample: the simulation's, with the sample's changes."""
        if sample is None or not sample.specimen:
            return self.specimen
        return SpecimenConfig.model_validate({**self.specimen.model_dump(), **sample.specimen})

    def delay_s(self, seconds: float) -> float:
        """Return how long something that takes ``seconds`` takes here, s on the wall."""
        return 0.0 if self.timing == "fast" else seconds / self.time_scale

    @property
    def default_rotation_deg(self) -> float:
        """Rotation from camera to stage axes of a magnification that names none, deg."""
        if self.column.image_rotation_deg is not None:
            return self.column.image_rotation_deg
        return 0.0 if self.specimen.kind == "replay" else 1.5
