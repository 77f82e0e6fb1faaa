"""Which sample lies on the stage, and how: offset and rotation of its coordinates against the stage's."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

from sim.config import SimulationConfig
from sim.sample import SampleConfig

CAPACITY: Final = 2048
"""Bytes of the loader's section."""


@dataclass(frozen=True, slots=True)
class Loading:
    """The loader's section of the world: the slot of the sample on the stage (0: none), loadings so far.

    ``loads`` counts samples put on the stage over the life of the world, ``times`` how often each slot's was
    (keys are slots). ``rest`` is the loader driver's own: plain JSON values.
    """

    slot: int = 0
    loads: int = 0
    times: Mapping[str, int] = field(default_factory=dict)
    rest: Mapping[str, float | int | str | bool | None] = field(default_factory=dict)

    def pack(self) -> bytes:
        """Return the state as bytes for the world's file."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def unpack(cls, payload: bytes) -> Loading:
        """Return the state that `pack` made."""
        return cls(**json.loads(payload))

    def loaded(self, slot: int) -> Loading:
        """Return the state after the sample of ``slot`` has been put on the stage (0: taken off)."""
        if slot == 0:
            return Loading(0, self.loads, self.times, self.rest)
        times = {**self.times, str(slot): self.times.get(str(slot), 0) + 1}
        return Loading(slot, self.loads + 1, times, self.rest)


@dataclass(frozen=True, slots=True)
class Placement:
    """A sample on the stage: sample point p lies at stage ``offset_um + R(rotation_deg) p``.

    ``slot`` is 0 where nothing is loaded, and -1 for the one specimen of a world without a ``samples`` table.
    """

    slot: int = -1
    offset_um: tuple[float, float] = (0.0, 0.0)
    rotation_deg: float = 0.0

    @classmethod
    def of(cls, config: SimulationConfig, loading: Loading) -> Placement:
        """Return how the loaded sample lies; the same at every call for the same loading."""
        if not config.samples:
            return cls()
        sample = config.sample(loading.slot)
        if sample is None:
            return cls(0)
        return cls(loading.slot, *_where(config.seed, sample, loading.times.get(str(loading.slot), 1)))

    def to_stage(self, x_um: float, y_um: float) -> tuple[float, float]:
        """Return the stage position (um) of a point of the sample."""
        cos, sin = self._turn()
        return self.offset_um[0] + cos * x_um - sin * y_um, self.offset_um[1] + sin * x_um + cos * y_um

    def to_sample(self, x_um: float, y_um: float) -> tuple[float, float]:
        """Return the point of the sample (um) that lies at a stage position."""
        cos, sin = self._turn()
        dx, dy = x_um - self.offset_um[0], y_um - self.offset_um[1]
        return cos * dx + sin * dy, cos * dy - sin * dx

    def _turn(self) -> tuple[float, float]:
        angle = math.radians(self.rotation_deg)
        return math.cos(angle), math.sin(angle)


def _where(seed: int, sample: SampleConfig, times: int) -> tuple[tuple[float, float], float]:
    x_um, y_um = sample.offset_um
    if times <= 1:
        return (x_um, y_um), sample.rotation_deg
    chance = random.Random(f"{seed} {sample.slot} {times}")
    moved = x_um + chance.gauss(0.0, sample.reload_um), y_um + chance.gauss(0.0, sample.reload_um)
    return moved, sample.rotation_deg + chance.gauss(0.0, sample.reload_deg)
