"""The facility's signals over EPICS, simulated: ``python -m sim.facility_ioc --prefix SIM:FAC:``.

One analog record a signal of `devices.facility.signals`, updated once a second with a slow wander and noise.
``PREFIX + FAULT`` forces one of them beyond its alarm limits; ``PREFIX + SIGNAL:SIM`` gives a signal a value
of its own until NaN is written there, several at once if need be. Both show at once. EPICS takes its
addresses and ports from the environment. Prints READY when it answers; SIGTERM or SIGINT ends it.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

from devices.facility.signals import FACILITY_SIGNALS, FAULT_CHOICES, FAULT_PV, FacilitySignal
from sim.ca_repeater import confirm_clients

PERIOD_S = 1.0
SIM_SUFFIX = ":SIM"
"""What follows a signal's name in that of the record that sets its value; NaN there lets it wander."""


class Wander:
    """A value that drifts around its normal one: a slow wave, a random walk pulled back, and noise."""

    def __init__(self, facility_signal: FacilitySignal, seed: int) -> None:
        self._signal = facility_signal
        self._chance = random.Random(seed)
        low, high = facility_signal.warning
        self._room = min(high - facility_signal.normal, facility_signal.normal - low)
        self._walk = 0.0

    def value(self, now_s: float, faulty: bool) -> float:
        """Return the value now, in the signal's unit; beyond its upper alarm limit when faulty."""
        self._walk = 0.98 * self._walk + self._chance.gauss(0.0, 0.02)
        wave = 0.25 * math.sin(2 * math.pi * now_s / (420.0 + 60.0 * self._signal.precision))
        noise = self._chance.gauss(0.0, 0.02)
        around = self._room * (wave + self._walk + noise)
        if not faulty:
            return self._signal.normal + around
        low, high = self._signal.alarm
        # water fails by not flowing; everything else fails upwards
        beyond = low * 0.3 if self._signal.pv == "WATER_FLOW" else high * 1.1
        return beyond + 0.1 * around


def _record(facility_signal: FacilitySignal) -> Any:
    from softioc import builder

    (low, high), (lolo, hihi) = facility_signal.warning, facility_signal.alarm
    return builder.aIn(
        facility_signal.pv,
        initial_value=facility_signal.normal,
        EGU=facility_signal.unit,
        PREC=facility_signal.precision,
        DESC=facility_signal.description,
        LOPR=lolo,
        HOPR=hihi,
        LOLO=lolo,
        LOW=low,
        HIGH=high,
        HIHI=hihi,
        LLSV="MAJOR",
        LSV="MINOR",
        HSV="MINOR",
        HHSV="MAJOR",
    )


def _setting(facility_signal: FacilitySignal, changed: threading.Event) -> Any:
    from softioc import builder

    return builder.aOut(
        facility_signal.pv + SIM_SUFFIX,
        initial_value=math.nan,
        EGU=facility_signal.unit,
        PREC=facility_signal.precision,
        DESC="value set by hand, NaN for none",
        on_update=lambda _: changed.set(),
    )


def serve(prefix: str, seed: int, end: threading.Event) -> None:
    """Serve the signals until ``end`` is set."""
    from softioc import asyncio_dispatcher, builder, softioc

    builder.SetDeviceName(prefix.rstrip(":"))
    records = {item.pv: (_record(item), Wander(item, seed + at)) for at, item in enumerate(FACILITY_SIGNALS)}
    changed = threading.Event()
    settings = {item.pv: _setting(item, changed) for item in FACILITY_SIGNALS}
    fault = builder.mbbOut(
        FAULT_PV,
        *FAULT_CHOICES,
        initial_value=0,
        DESC="signal forced out of range",
        on_update=lambda _: changed.set(),
    )
    builder.LoadDatabase()
    softioc.iocInit(asyncio_dispatcher.AsyncioDispatcher())
    print("READY", flush=True)
    while not end.is_set():
        changed.clear()
        chosen = FAULT_CHOICES[fault.get()]
        for pv, (record, wander) in records.items():
            value, by_hand = wander.value(time.time(), pv == chosen), settings[pv].get()
            record.set(value if math.isnan(by_hand) else by_hand)
        # a fault shows at once; otherwise once a second
        changed.wait(PERIOD_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the IOC until it is told to end; return the exit code."""
    parser = argparse.ArgumentParser(description="simulated facility signals over EPICS Channel Access")
    parser.add_argument("--prefix", default="SIM:FAC:", help="prefix of the PV names (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the wander (default %(default)s)")
    options = parser.parse_args(arguments)
    end = threading.Event()
    confirm_clients()
    # libca's threads do not join; the process has nothing to save, so it leaves at once
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    serve(options.prefix, options.seed, end)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
