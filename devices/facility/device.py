"""The facility's signals, read by Channel Access with classic ophyd beside the Tango devices."""

from __future__ import annotations

from ophyd import Component, Device, EpicsSignalRO

from devices.facility.signals import FACILITY_SIGNALS

CONNECT_TIMEOUT_S = 10.0


class Facility(Device):
    """Hall temperature, cooling water, vacuum, mains, magnetic field; monitored, so that reading is free."""

    for _signal in FACILITY_SIGNALS:
        locals()[_signal.name] = Component(
            EpicsSignalRO, _signal.pv, auto_monitor=True, kind="normal", doc=_signal.description
        )
    del _signal
