"""The settings and readings of a column: one table that driver, server, wrapper and tests share.

Words and ranges follow temscript, pytemscript and SerialEM; units are in the names (``_mm`` a length in mm).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["float", "int", "bool", "str", "pair"]
Value = float | int | bool | str | tuple[float, float]


@dataclass(frozen=True, slots=True)
class Setting:
    """One attribute of the column.

    ``low`` and ``high`` bound each number of a float, int or pair; ``choices`` a string. ``alarm`` are the
    levels outside which a reading is in alarm. A ``pair`` is two numbers along x and y.
    """

    name: str
    kind: Kind
    unit: str = ""
    low: float | None = None
    high: float | None = None
    alarm: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    writable: bool = True
    description: str = ""


SETTINGS: tuple[Setting, ...] = (
    Setting("high_voltage_kv", "float", "kV", 0, 300, description="acceleration voltage"),
    Setting("spot_size_index", "int", "", 1, 11, description="index of the spot size"),
    Setting("intensity", "float", "", 0, 1, description="setting of the C2 lens, 0 to 1"),
    Setting("illuminated_area_um", "float", "um", 0.05, 500, description="diameter of the illuminated area"),
    Setting("magnification", "float", "", 20, 1_500_000, description="nominal magnification"),
    Setting("magnification_index", "int", "", 1, 50, description="index in the table of magnifications"),
    Setting(
        "projection_mode",
        "str",
        choices=("IMAGING", "DIFFRACTION"),
        description="mode of the projector system",
    ),
    Setting(
        "projection_submode",
        "str",
        choices=("LM", "M", "SA", "MH", "LAD", "D"),
        writable=False,
        description="range the magnification or camera length lies in",
    ),
    Setting("camera_length_mm", "float", "mm", 5, 50_000, description="camera length in diffraction"),
    Setting("defocus_um", "float", "um", -1000, 1000, description="defocus, underfocus negative"),
    Setting("target_defocus_um", "float", "um", -100, 100, description="defocus wanted of an autofocus"),
    Setting("absolute_focus", "float", "", -1, 1, description="objective lens over its full range"),
    Setting("image_shift_um", "pair", "um", -15, 15, description="image shift x, y"),
    Setting("beam_shift_um", "pair", "um", -150, 150, description="beam shift x, y"),
    Setting("beam_tilt_mrad", "pair", "mrad", -50, 50, description="beam tilt x, y"),
    Setting("objective_stigmator", "pair", "", -1, 1, description="objective stigmator x, y"),
    Setting("condenser_stigmator", "pair", "", -1, 1, description="condenser stigmator x, y"),
    Setting("diffraction_shift_mrad", "pair", "mrad", -200, 200, description="diffraction shift x, y"),
    Setting("beam_blanked", "bool", description="true while no electron reaches the sample"),
    Setting("screen_position", "str", choices=("UP", "DOWN"), description="fluorescent screen"),
    Setting(
        "screen_current_na",
        "float",
        "nA",
        0,
        1000,
        writable=False,
        description="current on the screen, or 0 with it up",
    ),
    Setting(
        "beam_current_na",
        "float",
        "nA",
        0,
        1000,
        (0.05, 900),
        writable=False,
        description="current of the beam",
    ),
    Setting("column_valves_open", "bool", description="valves between gun and column"),
    Setting(
        "column_pressure_pa",
        "float",
        "Pa",
        0,
        1e5,
        (1e-9, 1e-3),
        writable=False,
        description="pressure in the column",
    ),
    Setting(
        "gun_pressure_pa",
        "float",
        "Pa",
        0,
        1e5,
        (1e-11, 1e-5),
        writable=False,
        description="pressure in the gun",
    ),
    Setting(
        "vacuum_gauge_status",
        "str",
        choices=("VALID", "UNDERFLOW", "OVERFLOW", "INVALID"),
        writable=False,
        description="status of the gauge of the column",
    ),
    Setting(
        "objective_aperture_state",
        "str",
        choices=("INSERTED", "MOVING", "RETRACTED"),
        writable=False,
        description="state of the objective aperture",
    ),
    Setting(
        "pixel_size_nm",
        "float",
        "nm",
        0.001,
        100_000,
        writable=False,
        description="size at the specimen of one unbinned camera pixel, calibrated for this magnification",
    ),
    Setting(
        "image_rotation_deg",
        "float",
        "deg",
        -180,
        180,
        writable=False,
        description="rotation from camera axes to stage axes, calibrated for this magnification",
    ),
)

BY_NAME: dict[str, Setting] = {setting.name: setting for setting in SETTINGS}
