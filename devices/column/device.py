"""ophyd-async wrapper of a column."""

from __future__ import annotations

from typing import Annotated as A

import numpy as np
from ophyd_async.core import Array1D, Command, SignalR, SignalRW, StandardReadable
from ophyd_async.core import StandardReadableFormat as Format

from devices._tango.wrapper import InstrumentDevice

Pair = Array1D[np.float64]


class Column(InstrumentDevice, StandardReadable):
    """The electron column; every setting of `devices.column.settings` is a signal of the same name.

    Units are in the names: ``_um _nm _mm _kv _mrad _deg _pa _na``; defocus negative is underfocus.
    """

    DONE_ATTRIBUTE = "settings_done"

    settings_done: SignalR[int]
    high_voltage_kv: A[SignalRW[float], Format.CONFIG_SIGNAL]
    spot_size_index: A[SignalRW[int], Format.CONFIG_SIGNAL]
    intensity: A[SignalRW[float], Format.UNCACHED_SIGNAL]
    illuminated_area_um: A[SignalRW[float], Format.UNCACHED_SIGNAL]
    magnification: A[SignalRW[float], Format.CONFIG_SIGNAL]
    magnification_index: A[SignalRW[int], Format.CONFIG_SIGNAL]
    projection_mode: A[SignalRW[str], Format.CONFIG_SIGNAL]
    projection_submode: A[SignalR[str], Format.CONFIG_SIGNAL]
    camera_length_mm: A[SignalRW[float], Format.CONFIG_SIGNAL]
    defocus_um: A[SignalRW[float], Format.HINTED_SIGNAL]
    target_defocus_um: A[SignalRW[float], Format.CONFIG_SIGNAL]
    absolute_focus: A[SignalRW[float], Format.UNCACHED_SIGNAL]
    image_shift_um: A[SignalRW[Pair], Format.UNCACHED_SIGNAL]
    beam_shift_um: A[SignalRW[Pair], Format.UNCACHED_SIGNAL]
    beam_tilt_mrad: A[SignalRW[Pair], Format.UNCACHED_SIGNAL]
    objective_stigmator: A[SignalRW[Pair], Format.UNCACHED_SIGNAL]
    condenser_stigmator: A[SignalRW[Pair], Format.UNCACHED_SIGNAL]
    diffraction_shift_mrad: A[SignalRW[Pair], Format.UNCACHED_SIGNAL]
    beam_blanked: A[SignalRW[bool], Format.UNCACHED_SIGNAL]
    screen_position: A[SignalRW[str], Format.UNCACHED_SIGNAL]
    screen_current_na: A[SignalR[float], Format.UNCACHED_SIGNAL]
    beam_current_na: A[SignalR[float], Format.UNCACHED_SIGNAL]
    column_valves_open: A[SignalRW[bool], Format.UNCACHED_SIGNAL]
    column_pressure_pa: A[SignalR[float], Format.UNCACHED_SIGNAL]
    gun_pressure_pa: A[SignalR[float], Format.UNCACHED_SIGNAL]
    vacuum_gauge_status: A[SignalR[str], Format.UNCACHED_SIGNAL]
    objective_aperture_state: A[SignalR[str], Format.UNCACHED_SIGNAL]
    pixel_size_nm: A[SignalR[float], Format.CONFIG_SIGNAL]
    image_rotation_deg: A[SignalR[float], Format.CONFIG_SIGNAL]
    Normalize: Command[[str], int]
