"""When the beam was on the sample: a log that column and camera append to, and what follows from it.

The log is a file of fixed records beside the world, ``NAME.beam``. Electrons reach the sample while the
column lets them (valves open, high voltage on, not blanked) and the camera's shutter above the sample is
open. A camera without such a shutter never writes of one, and it counts as open.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

BeamSource = Literal["column", "shutter", "exposure"]
SOURCES: Final[tuple[str, ...]] = get_args(BeamSource)
_RECORD: Final = struct.Struct("<ddB?6x")


@dataclass(frozen=True, slots=True)
class BeamEvent:
    """A change at ``time_s`` (Unix time).

    ``source`` "column": the column lets the beam through from now on, or does not; "shutter": the camera's
    shutter above the sample opens or closes; "exposure": one begins or ends. What begins ends by itself
    ``at_most_s`` later, as hardware does whose driver has died.
    """

    time_s: float
    source: BeamSource
    on: bool
    at_most_s: float = math.inf


class BeamLog:
    """The file of the events; any process appends to it."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def append(self, event: BeamEvent) -> None:
        """Append an event: one write of 24 bytes."""
        source = SOURCES.index(event.source)
        os.write(self._fd, _RECORD.pack(event.time_s, event.at_most_s, source, event.on))

    def events(self) -> list[BeamEvent]:
        """Return what has been logged so far, in the order of time."""
        data = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        whole = len(data) // _RECORD.size * _RECORD.size
        found = [
            BeamEvent(time_s, SOURCES[source], on, at_most_s)  # type: ignore[arg-type]
            for time_s, at_most_s, source, on in _RECORD.iter_unpack(data[:whole])
        ]
        return sorted(found, key=lambda event: event.time_s)


def stray_intervals(events: Iterable[BeamEvent], start_s: float, end_s: float) -> list[tuple[float, float]]:
    """Return when, between two moments (Unix time), electrons reached the sample while no exposure ran.

    Before its first event the column lets the beam through (as a new world's does), the shutter is open and
    no exposure runs.
    """
    state: dict[str, bool] = {"column": True, "shutter": True, "exposure": False}
    stray: list[tuple[float, float]] = []
    last_s = -math.inf
    for time_s, source, on in [*_changes(events), (math.inf, "exposure", False)]:
        if state["column"] and state["shutter"] and not state["exposure"]:
            begin_s, stop_s = max(last_s, start_s), min(time_s, end_s)
            if stop_s > begin_s:
                stray.append((begin_s, stop_s))
        state[source] = on
        last_s = time_s
    return stray


def stray_s(events: Iterable[BeamEvent], start_s: float, end_s: float) -> float:
    """Return for how long of that time electrons reached the sample while no exposure ran, s."""
    return sum(stop_s - begin_s for begin_s, stop_s in stray_intervals(events, start_s, end_s))


def _changes(events: Iterable[BeamEvent]) -> list[tuple[float, str, bool]]:
    """Return the events with those that end by themselves, in the order of time."""
    changes: list[tuple[float, str, bool]] = []
    due: dict[str, float] = {}
    for event in events:
        for source in [name for name, moment_s in due.items() if moment_s <= event.time_s]:
            changes.append((due.pop(source), source, False))
        due.pop(event.source, None)
        changes.append((event.time_s, event.source, event.on))
        if event.on and math.isfinite(event.at_most_s):
            due[event.source] = event.time_s + event.at_most_s
    changes += [(moment_s, source, False) for source, moment_s in due.items()]
    return sorted(changes, key=lambda change: change[0])
