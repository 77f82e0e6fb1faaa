"""The state of the simulated column: what its section of the world holds, and what follows from it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Final

from devices.errors import ConfigurationError
from sim.config import ColumnConfig, MagnificationEntry, SimulationConfig

AREA_MIN_UM: Final = 0.05
AREA_MAX_UM: Final = 500.0
ELECTRON_CHARGE_C: Final = 1.602176634e-19
_SPOT_DEFAULT: Final = 3


@dataclass(frozen=True, slots=True)
class Lenses:
    """The settings that the column's hardware holds; names and units of `devices.column.settings`."""

    high_voltage_kv: float = 120.0
    spot_size_index: int = _SPOT_DEFAULT
    illuminated_area_um: float = 22.0
    magnification: float = 5000.0
    projection_mode: str = "IMAGING"
    camera_length_mm: float = 300.0
    defocus_um: float = 0.0
    target_defocus_um: float = -1.0
    image_shift_um: tuple[float, float] = (0.0, 0.0)
    beam_shift_um: tuple[float, float] = (0.0, 0.0)
    beam_tilt_mrad: tuple[float, float] = (0.0, 0.0)
    objective_stigmator: tuple[float, float] = (0.0, 0.0)
    condenser_stigmator: tuple[float, float] = (0.0, 0.0)
    diffraction_shift_mrad: tuple[float, float] = (0.0, 0.0)
    beam_blanked: bool = False
    screen_position: str = "UP"
    column_valves_open: bool = True
    zoomed_area_um: float = 0.0
    """Diameter that intensity zoom would give the beam, um, where that is out of its range; else 0."""

    @classmethod
    def first(cls, config: ColumnConfig) -> Lenses:
        """Return the state of a column that has just been switched on."""
        return cls(
            high_voltage_kv=config.high_voltage_kv,
            illuminated_area_um=config.illuminated_area_um,
            magnification=config.magnification,
            defocus_um=config.defocus_um,
        )

    def pack(self) -> bytes:
        """Return the state as bytes for the world's file."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def unpack(cls, payload: bytes) -> Lenses:
        """Return the state that `pack` made."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in json.loads(payload).items()
        }
        return cls(**values)

    @property
    def emitting(self) -> bool:
        """Whether the gun's beam passes the valves."""
        return self.column_valves_open and self.high_voltage_kv > 0

    @property
    def beam_on_sample(self) -> bool:
        """Whether the column lets electrons through to the sample."""
        return self.emitting and not self.beam_blanked

    @property
    def beam_on_camera(self) -> bool:
        """Whether electrons can reach the camera."""
        return self.beam_on_sample and self.screen_position == "UP"


def relative_current(lenses: Lenses) -> float:
    """Return the beam current relative to that of the default spot size; each step halves it."""
    return 2.0 ** (_SPOT_DEFAULT - lenses.spot_size_index)


def intensity_of(area_um: float) -> float:
    """Return the C2 setting, 0 to 1, at which the beam has this diameter (um)."""
    return math.log(area_um / AREA_MIN_UM) / math.log(AREA_MAX_UM / AREA_MIN_UM)


def area_of(intensity: float) -> float:
    """Return the diameter of the beam, um, at this C2 setting (0 to 1)."""
    return AREA_MIN_UM * math.exp(intensity * math.log(AREA_MAX_UM / AREA_MIN_UM))


def dose_rate_e_nm2_s(config: ColumnConfig, lenses: Lenses) -> float:
    """Return the flux in the middle of the beam, electrons a nm^2 and s: current over illuminated area."""
    spread = (config.illuminated_area_um / lenses.illuminated_area_um / (1.0 + config.beam_size_error)) ** 2
    return config.dose_rate_e_nm2_s * relative_current(lenses) * spread


def beam_current_na(config: ColumnConfig, lenses: Lenses) -> float:
    """Return the current of the beam, nA: what makes the flux that `dose_rate_e_nm2_s` says.

    The beam falls off parabolically, so its mean is ``1 - beam_falloff / 2`` of its middle.
    """
    area_nm2 = math.pi * (config.illuminated_area_um * 1e3 / 2) ** 2
    electrons_s = config.dose_rate_e_nm2_s * (1.0 - config.beam_falloff / 2) * area_nm2
    return 1e9 * ELECTRON_CHARGE_C * electrons_s * relative_current(lenses)


def nearest_index(config: ColumnConfig, magnification: float) -> int:
    """Return the index (from 1) of the step of the table that is nearest to a magnification."""
    steps = [abs(math.log(entry.magnification / magnification)) for entry in config.magnifications]
    return steps.index(min(steps)) + 1


def calibration(config: SimulationConfig, lenses: Lenses) -> tuple[float, float]:
    """Return the calibrated pixel size (nm) and image rotation (deg) of the magnification in use.

    Raises
    ------
    ConfigurationError
        There is none: the magnification is not in the table, has no pixel size there, or the column is in
        diffraction.
    """
    if lenses.projection_mode != "IMAGING":
        raise ConfigurationError(
            "there is no pixel size in projection_mode DIFFRACTION; set projection_mode to IMAGING"
        )
    entry = _entry(config.column, lenses.magnification)
    if entry is None or entry.pixel_size_nm is None:
        known = ", ".join(f"{e.magnification:g}" for e in config.column.magnifications if e.pixel_size_nm)
        raise ConfigurationError(
            f"magnification {lenses.magnification:g} has no calibrated pixel size; calibrate it, "
            f"or use one of {known}"
        )
    return entry.pixel_size_nm, _rotation_deg(config, entry)


def true_geometry(config: SimulationConfig, lenses: Lenses) -> tuple[float, float]:
    """Return the pixel size (nm) and rotation (deg) that the optics really have, calibrated or not."""
    entry = _entry(config.column, lenses.magnification)
    pixel_nm, rotation_deg = (
        config.camera.pixel_size_um * 1e3 / lenses.magnification,
        config.default_rotation_deg,
    )
    if entry is not None and entry.pixel_size_nm is not None:
        pixel_nm, rotation_deg = entry.pixel_size_nm, _rotation_deg(config, entry)
    column = config.column
    return pixel_nm * (1.0 + column.pixel_size_error), rotation_deg + column.rotation_error_deg


def _entry(config: ColumnConfig, magnification: float) -> MagnificationEntry | None:
    for entry in config.magnifications:
        if math.isclose(entry.magnification, magnification, rel_tol=1e-6):
            return entry
    return None


def _rotation_deg(config: SimulationConfig, entry: MagnificationEntry) -> float:
    own = entry.image_rotation_deg
    return config.default_rotation_deg if own is None else own
