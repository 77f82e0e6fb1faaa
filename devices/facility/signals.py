"""The signals of the building that a microscope feels: one table for the simulated IOC, the device and tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FacilitySignal:
    """One process variable: its ophyd attribute ends in the unit; ``low`` and ``high`` are alarm levels."""

    name: str
    pv_suffix: str
    unit: str
    precision: int
    low: float
    high: float
    description: str


FACILITY_SIGNALS: tuple[FacilitySignal, ...] = (
    FacilitySignal("hall_temperature_degc", "HALL_TEMPERATURE", "degC", 2, 18, 24, "air of the hall"),
    FacilitySignal("water_flow_l_min", "WATER_FLOW", "l/min", 2, 3, 12, "flow of the cooling water"),
    FacilitySignal("water_temperature_degc", "WATER_TEMPERATURE", "degC", 2, 16, 22, "cooling water"),
    FacilitySignal("column_vacuum_pa", "COLUMN_VACUUM", "Pa", 7, 0, 1e-3, "vacuum of the column, facility's gauge"),
    FacilitySignal("mains_voltage_v", "MAINS_VOLTAGE", "V", 1, 215, 245, "voltage of the mains"),
    FacilitySignal("hall_magnetic_field_nt", "HALL_MAGNETIC_FIELD", "nT", 1, -300, 300, "stray field in the hall"),
)
