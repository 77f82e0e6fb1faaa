"""The facility's signals: one table that devices, simulated IOC, documents and tests share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FacilitySignal:
    """One reading of the building or of the column's supplies, served over EPICS Channel Access.

    ``pv`` follows the facility's prefix; ``normal`` is its usual value, ``precision`` the digits shown;
    ``warning`` and ``alarm`` are the limits (low, high) of minor and major severity, in ``unit``.
    """

    name: str
    pv: str
    unit: str
    description: str
    normal: float
    precision: int
    warning: tuple[float, float]
    alarm: tuple[float, float]


FACILITY_SIGNALS: tuple[FacilitySignal, ...] = (
    FacilitySignal(
        "hall_temperature_degc",
        "HALL_TEMPERATURE",
        "degC",
        "air in the hall at the column",
        21.0,
        2,
        (20.0, 22.0),
        (18.5, 23.5),
    ),
    FacilitySignal(
        "water_flow_l_min",
        "WATER_FLOW",
        "l/min",
        "cooling water through the lenses",
        4.2,
        2,
        (3.6, 5.0),
        (3.0, 6.0),
    ),
    FacilitySignal(
        "water_temperature_degc",
        "WATER_TEMPERATURE",
        "degC",
        "cooling water at the inlet",
        18.0,
        2,
        (17.0, 19.0),
        (16.0, 20.5),
    ),
    FacilitySignal(
        "column_vacuum_pa",
        "COLUMN_VACUUM",
        "Pa",
        "pressure in the column",
        2.1e-5,
        8,
        (0.0, 1e-4),
        (0.0, 1e-3),
    ),
    FacilitySignal(
        "mains_voltage_v", "MAINS_VOLTAGE", "V", "mains, rms", 230.0, 1, (219.0, 241.0), (207.0, 253.0)
    ),
    FacilitySignal(
        "hall_magnetic_field_nt",
        "HALL_MAGNETIC_FIELD",
        "nT",
        "alternating field in the hall, rms",
        28.0,
        1,
        (0.0, 60.0),
        (0.0, 120.0),
    ),
)

FAULT_PV = "FAULT"
"""Suffix of the simulated IOC's record that forces one signal out of its alarm limits."""
NO_FAULT = "NONE"
FAULT_CHOICES: tuple[str, ...] = (NO_FAULT, *(signal.pv for signal in FACILITY_SIGNALS))
"""States of that record, in order."""
