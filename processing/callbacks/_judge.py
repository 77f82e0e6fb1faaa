"""The rules of tile QC: from numbers to faults. No documents, no frames, no threads."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from processing.callbacks._judge_evidence import Evidence, worst
from processing.callbacks._judge_frame import light_evidence, line_evidence, readout_evidence
from processing.callbacks._judge_others import Others
from processing.callbacks._neighbours import Neighbours
from processing.callbacks._tiles import Tile
from processing.callbacks.verdicts import QCThresholds, TileFault
from processing.fault_kinds import FaultKind
from processing.kernels.quality import TileMetrics

NOTE_SCORE: Final = 0.75
"""Score over which a tile is noted: about one clean tile in a hundred has it."""


class Judge:
    """Judges the tiles of one run, and learns from each what is usual there."""

    def __init__(self, thresholds: QCThresholds) -> None:
        self.thresholds = thresholds
        self._others = Others(thresholds)
        self._neighbours = Neighbours(thresholds.persistent_after)
        self._before: tuple[int, ...] = ()

    @property
    def enough(self) -> bool:
        """Whether enough tiles have been seen to compare with."""
        return self._others.enough

    def learn(self, metrics: TileMetrics) -> None:
        """Take a tile without absolute faults into what is usual."""
        # the marks are for the next frame alone
        self._others.learn(replace(metrics, marks=()))

    def absolute(self, metrics: TileMetrics, height_px: int) -> list[TileFault]:
        """Return the faults that show without other tiles."""
        before, self._before = self._before, metrics.marks
        for rule in (
            light_evidence(metrics, height_px, self.thresholds),
            readout_evidence(metrics, before),
            line_evidence(metrics, height_px, self.thresholds),
        ):
            if faults := _over(rule):
                return faults
        return []

    def relative(self, metrics: TileMetrics) -> list[TileFault]:
        """Return the fault that shows beside the run's other tiles; none while fewer than 3 are known."""
        return _over(self._others.evidence(metrics))[:1]

    def notes(self, metrics: TileMetrics) -> tuple[TileFault, ...]:
        """Return what is unusual about a tile, and not enough to do anything about it."""
        return tuple(one.fault for one in self._others.evidence(metrics) if NOTE_SCORE < one.score <= 1)

    def unjudged(self, metrics: TileMetrics) -> tuple[FaultKind, ...]:
        """Return the kinds of faults that nobody could see in a tile: it passes without them."""
        return self._others.unjudged(metrics)

    def scores(self, metrics: TileMetrics, height_px: int) -> dict[FaultKind, float]:
        """Return how far a tile lies beyond the limit of each kind of fault: over 1 where it is one.

        Unlike `absolute` it leaves the frame before as it is.
        """
        found = light_evidence(metrics, height_px, self.thresholds)
        found += readout_evidence(metrics, self._before)
        found += line_evidence(metrics, height_px, self.thresholds)
        return worst(found + self._others.evidence(metrics))

    def with_scope(self, tile: Tile, faults: list[TileFault]) -> tuple[TileFault, ...]:
        """Say how far faults reach over the tiles beside this one."""
        self._neighbours.note(tile.place, {fault.kind for fault in faults})
        return tuple(replace(fault, scope=self._neighbours.scope(tile.place, fault.kind)) for fault in faults)


def _over(evidence: Iterable[Evidence]) -> list[TileFault]:
    return [one.fault for one in evidence if one.score > 1]


def unreadable() -> TileFault:
    """Return the fault of a tile whose frame neither ring nor file has."""
    return TileFault("unreadable", 1.0, 1.0, "transient", {})


_NAN = math.nan
NOTHING_MEASURED = TileMetrics(_NAN, _NAN, _NAN, _NAN, _NAN, _NAN, _NAN, _NAN, _NAN)
"""Metrics of a tile that could not be read."""
