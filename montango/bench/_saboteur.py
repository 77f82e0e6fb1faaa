"""Who breaks a simulated laboratory while it is used: faults in its world, and servers that are killed."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from typing import Self

from devices.errors import ConfigurationError, MontangoError
from montango.lab import Lab
from sim.faults import Fault, inject
from sim.world import World

logger = logging.getLogger(__name__)
POLL_S = 0.02


class Saboteur(AbstractContextManager["Saboteur"]):
    """Around what is to be disturbed: arms faults at the start, and kills servers when their exposure comes.

    Parameters
    ----------
    lab
        A laboratory that is up.
    faults
        What goes wrong.
    kills
        Name of a server, and the exposure after which it is killed.
    """

    def __init__(self, lab: Lab, faults: Sequence[Fault], kills: Sequence[tuple[str, int]]) -> None:
        world = lab.info().world
        if world is None:
            raise ConfigurationError("a saboteur needs a simulated laboratory")
        self._lab = lab
        self._world = World.open(world)
        self._kills = sorted(kills, key=lambda one: one[1])
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="saboteur", daemon=True)
        self.faults = Counter(fault.name for fault in faults)
        self.killed: list[tuple[str, int]] = []
        self.exposures = 0
        self.loaded_at_end = -1
        self.blanked_at_end = False
        for fault in faults:
            inject(self._world, fault)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(10.0)
        self.exposures = self._world.exposures()
        self.loaded_at_end = self._world.loading().slot
        self.blanked_at_end = self._world.lenses().beam_blanked
        self._world.close()

    def describe(self) -> str:
        """Return what was done, in words."""
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items())) or "none"
        kills = ", ".join(f"{name} at exposure {at}" for name, at in self.killed) or "none"
        return f"{self.exposures} exposures; faults armed: {faults}; servers killed: {kills}"

    def _watch(self) -> None:
        while self._kills and not self._ending.wait(POLL_S):
            name, at = self._kills[0]
            if self._world.exposures() >= at:
                self._kills.pop(0)
                self._kill(name)

    def _kill(self, name: str) -> None:
        with suppress(MontangoError, ProcessLookupError):
            pid = next((one.pid for one in self._lab.status().processes if one.name == name), None)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                self.killed.append((name, self._world.exposures()))
                logger.info("killed %s, pid %d", name, pid)
