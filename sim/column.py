"""The simulated column: the driver that a column server loads as ``sim.column:SimulatedColumn``."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from devices.column.driver import LENS_GROUPS, check_setting
from devices.column.settings import BY_NAME, Value
from devices.errors import InstrumentFault, LimitError
from sim.lenses import (
    AREA_MAX_UM,
    AREA_MIN_UM,
    Lenses,
    area_of,
    beam_current_na,
    calibration,
    intensity_of,
    nearest_index,
)
from sim.world import World

_HELD: Final = frozenset(field.name for field in fields(Lenses)) - {"zoomed_area_um"}
_FOCUS_RANGE_UM: Final = 1000.0
BAD_VACUUM_PA: Final = 0.1
"""Pressure that the fault "vacuum" of severity 1 adds in the column; the alarm level is 1e-3 Pa."""


class SimulatedColumn:
    """A column of a `World`, which keeps its settings.

    ``intensity`` and ``illuminated_area_um`` are two views of one lens, as are ``defocus_um`` and
    ``absolute_focus``; with intensity zoom a change of magnification changes the beam with it.

    Parameters
    ----------
    world
        Path of the world's file.
    """

    def __init__(self, world: str | Path) -> None:
        self._world = World.open(world)
        self._config = self._world.config
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def open(self) -> None:
        """Connect; the settings are the world's."""
        self._closed.clear()

    def close(self) -> None:
        """Disconnect; the column stays as it is."""
        self._closed.set()

    def get(self, name: str) -> Value:
        """Return a setting or reading as the hardware has it now.

        Raises
        ------
        ConfigurationError
            A calibration (pixel size, rotation) that this magnification does not have.
        LimitError
            There is no such setting.
        """
        lenses = self._lenses()
        if name in _HELD:
            value: Value = getattr(lenses, name)
            return value
        reading = getattr(self, f"_get_{name}", None)
        if reading is None:
            raise LimitError(f"column has no setting {name!r}; see devices.column.settings for the names")
        return reading(lenses)  # type: ignore[no-any-return]

    def set(self, name: str, value: Value) -> None:
        """Change a setting and return when the lens has followed.

        Raises
        ------
        LimitError
            The value is outside its range, or not of its kind; nothing is changed.
        InstrumentFault
            The valves are to open with the high voltage off.
        """
        clean = _as_kind(name, value)
        check_setting(name, clean)
        self._closed.wait(self._config.delay_s(self._config.setting_time_s))
        with self._lock:
            lenses = self._lenses()
            changed = self._changed(lenses, name, clean)
            self._world.column.write(changed.pack())
            if changed.beam_on_sample != lenses.beam_on_sample:
                self._world.log_beam("column", changed.beam_on_sample)

    def normalize(self, lens_group: str) -> None:
        """Normalise a lens group of `LENS_GROUPS`; takes about a second.

        Raises
        ------
        LimitError
            There is no such group.
        """
        if lens_group not in LENS_GROUPS:
            raise LimitError(f"lens group {lens_group!r} is not one of {', '.join(LENS_GROUPS)}")
        self._closed.wait(self._config.delay_s(self._config.normalize_time_s))

    def _lenses(self) -> Lenses:
        return self._world.lenses()

    def _changed(self, lenses: Lenses, name: str, value: Any) -> Lenses:
        if name == "intensity":
            return replace(lenses, illuminated_area_um=area_of(value), zoomed_area_um=0.0)
        if name == "illuminated_area_um":
            return replace(lenses, illuminated_area_um=value, zoomed_area_um=0.0)
        if name == "absolute_focus":
            return replace(lenses, defocus_um=value * _FOCUS_RANGE_UM)
        if name == "magnification_index":
            return self._magnified(lenses, self._magnification_at(value))
        if name == "magnification":
            return self._magnified(lenses, value)
        if name == "column_valves_open" and value and lenses.high_voltage_kv == 0:
            raise InstrumentFault("column valves stay closed while high_voltage_kv is 0; switch it on first")
        return replace(lenses, **{name: value})

    def _magnification_at(self, index: int) -> float:
        table = self._config.column.magnifications
        if index > len(table):
            raise LimitError(
                f"column magnification_index = {index} is over the {len(table)} steps of the table"
            )
        return table[index - 1].magnification

    def _magnified(self, lenses: Lenses, magnification: float) -> Lenses:
        if not self._config.column.intensity_zoom:
            return replace(lenses, magnification=magnification)
        wanted_um = lenses.zoomed_area_um or lenses.illuminated_area_um
        wanted_um *= lenses.magnification / magnification
        area_um = min(max(wanted_um, AREA_MIN_UM), AREA_MAX_UM)
        return replace(
            lenses,
            magnification=magnification,
            illuminated_area_um=area_um,
            zoomed_area_um=0.0 if area_um == wanted_um else wanted_um,
        )

    def _get_intensity(self, lenses: Lenses) -> float:
        return intensity_of(lenses.illuminated_area_um)

    def _get_absolute_focus(self, lenses: Lenses) -> float:
        return lenses.defocus_um / _FOCUS_RANGE_UM

    def _get_magnification_index(self, lenses: Lenses) -> int:
        return nearest_index(self._config.column, lenses.magnification)

    def _get_pixel_size_nm(self, lenses: Lenses) -> float:
        return calibration(self._config, lenses)[0]

    def _get_image_rotation_deg(self, lenses: Lenses) -> float:
        return calibration(self._config, lenses)[1]

    def _get_projection_submode(self, lenses: Lenses) -> str:
        if lenses.projection_mode == "DIFFRACTION":
            return "LAD" if lenses.magnification < 1900 else "D"
        if lenses.magnification < 1900:
            return "LM"
        if lenses.magnification < 4000:
            return "M"
        return "SA" if lenses.magnification < 100_000 else "MH"

    def _get_beam_current_na(self, lenses: Lenses) -> float:
        if not lenses.emitting or self._world.severity("beam_loss"):
            return 0.0
        return beam_current_na(self._config.column, lenses) * self._flicker(0.004, 31.0)

    def _get_screen_current_na(self, lenses: Lenses) -> float:
        if lenses.screen_position == "UP" or lenses.beam_blanked:
            return 0.0
        return 0.9 * self._get_beam_current_na(lenses)

    def _get_column_pressure_pa(self, _: Lenses) -> float:
        bad = self._world.severity("vacuum")
        normal = 2.1e-5 * self._flicker(0.03, 47.0)
        return normal + BAD_VACUUM_PA * (0.1 + 0.9 * bad) if bad else normal

    def _get_gun_pressure_pa(self, _: Lenses) -> float:
        return 3.4e-7 * self._flicker(0.02, 83.0)

    def _get_vacuum_gauge_status(self, _: Lenses) -> str:
        return "OVERFLOW" if self._world.severity("vacuum") else "VALID"

    def _get_objective_aperture_state(self, _: Lenses) -> str:
        return "INSERTED"

    def _flicker(self, relative: float, period_s: float) -> float:
        return 1.0 + relative * math.sin(2 * math.pi * time.time() / period_s)


def _as_kind(name: str, value: Value) -> Value:
    setting = BY_NAME.get(name)
    if setting is None or not setting.writable:
        return value
    kind = setting.kind
    if kind == "pair" and isinstance(value, tuple | list) and len(value) == 2:
        return float(value[0]), float(value[1])
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "str" and isinstance(value, str):
        return value
    if kind in ("int", "float") and isinstance(value, int | float) and not isinstance(value, bool):
        if kind == "int" and value != int(value):
            raise LimitError(f"column {name} = {value!r} is not a whole number")
        return int(value) if kind == "int" else float(value)
    raise LimitError(f"column {name} = {value!r} is not of its kind, {kind}")
