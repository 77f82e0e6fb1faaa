"""How far a fault reaches over the tiles that touch each other, whatever the order of their acquisition."""

from __future__ import annotations

from collections.abc import Collection

from processing.fault_kinds import FaultKind, Scope

CRITICAL: frozenset[FaultKind] = frozenset({"dark", "saturated", "unreadable"})
Place = tuple[int, int, int]
"""Region, row, column."""


class Neighbours:
    """The newest faults of each tile. Tiles touch along an edge or a corner, within their region.

    Parameters
    ----------
    enough
        How many tiles that touch each other make a fault persistent.
    """

    def __init__(self, enough: int) -> None:
        self._enough = enough
        self._faulty: dict[FaultKind, set[Place]] = {}

    def note(self, place: Place, kinds: Collection[FaultKind]) -> None:
        """Take the newest judgement of a tile."""
        for kind, places in self._faulty.items():
            if kind not in kinds:
                places.discard(place)
        for kind in kinds:
            self._faulty.setdefault(kind, set()).add(place)

    def scope(self, place: Place, kind: FaultKind) -> Scope:
        """Return how far a fault of a tile reaches."""
        if self._count(place, self._faulty.get(kind, set())) < self._enough:
            return "transient"
        return "critical" if kind in CRITICAL else "persistent"

    def _count(self, place: Place, faulty: set[Place]) -> int:
        """Return how many faulty tiles hang together with one, at most `enough`."""
        seen, edge = {place}, [place]
        while edge and len(seen) < self._enough:
            roi, row, column = edge.pop()
            for at in ((roi, row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
                if at in faulty and at not in seen:
                    seen.add(at)
                    edge.append(at)
        return len(seen)
