"""Tiles whose overlaps show another place than their neighbours do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from processing.callbacks.verdicts import TileFault
from processing.kernels.pairs import PairMatch
from processing.kernels.reliability import Map, reliability, shared_reliability
from processing.stitching.solution import Key

_RELIABLE: Final = 0.4
"""Reliability from which an overlap must match: two frames of it correlate by that much, several times the
coefficient at which a pair is accepted."""
_WITNESSES: Final = 2
"""Neighbours that must say so, each of which matches another tile."""
_LEAST_OVERLAP_PX: Final = 40
"""Overlap under which nothing is concluded: the stage's error may leave none of it."""
_USUAL: Final = 0.75
"""Part of the montage's other overlaps with structure that must match; else overlap or calibration is at
fault, and not the tile."""


class OverlapWatch:
    """Finds tiles that match none of their neighbours though both show structure in the overlap.

    A tile is called unmatched when two or more neighbours that match other tiles do not match it, and none
    does: resin, frames out of focus beyond recognition, and tiles at a montage's corners are never accused,
    nor is any where the montage as a whole does not match.

    Parameters
    ----------
    size_px
        Width and height of the tiles, px.
    """

    def __init__(self, size_px: tuple[int, int]) -> None:
        self._size = size_px
        self._maps: dict[Key, Map] = {}
        self._places: dict[Key, tuple[float, float]] = {}
        self._matched: dict[Key, set[Key]] = {}
        self._refused: dict[Key, dict[Key, PairMatch]] = {}
        self._reliable: dict[tuple[Key, Key], bool] = {}
        self._accused: set[Key] = set()

    def add(
        self,
        key: Key,
        nominal_px: tuple[float, float],
        image: npt.NDArray[np.number[Any]],
        matches: Sequence[tuple[Key, PairMatch]],
    ) -> Iterator[tuple[Key, TileFault]]:
        """Take a tile, or a later attempt of it; yield the tiles that are now known to match nothing.

        Parameters
        ----------
        key
            Of the tile.
        nominal_px
            Where the stage says its centre is, px.
        image
            Its frame.
        matches
            Neighbours that were tried, and what came of it.
        """
        self._forget(key)
        self._maps[key], self._places[key] = reliability(image), nominal_px
        for other, match in matches:
            if self._structure(key, other) >= _RELIABLE:
                self._reliable[key, other] = match.accepted
            for one, neighbour in ((key, other), (other, key)):
                if match.accepted:
                    self._matched.setdefault(one, set()).add(neighbour)
                else:
                    self._refused.setdefault(one, {})[neighbour] = match
        # those beside it may have got the witness that was missing, or a partner
        near = {key, *(other for other, _ in matches)}
        near |= {other for one in tuple(near) for other in self._refused.get(one, ())}
        for one in sorted(near):
            fault = None if one in self._accused else self._fault(one)
            if fault is not None:
                self._accused.add(one)
                yield one, fault

    def matched(self, key: Key) -> frozenset[Key]:
        """Return the neighbours that a tile matches."""
        return frozenset(self._matched.get(key, ()))

    def _forget(self, key: Key) -> None:
        self._accused.discard(key)
        self._reliable = {pair: matches for pair, matches in self._reliable.items() if key not in pair}
        for links in (self._matched, self._refused):
            for other in links.pop(key, ()):  # type: ignore[attr-defined]  # a set or a dict of keys
                rest = links.get(other)
                if isinstance(rest, dict):
                    rest.pop(key, None)
                elif rest is not None:
                    rest.discard(key)

    def _fault(self, key: Key) -> TileFault | None:
        if self._matched.get(key):
            return None
        against = []
        for other, match in self._refused.get(key, {}).items():
            reliable = self._structure(key, other) if self._matched.get(other) else 0.0
            if reliable >= _RELIABLE:
                against.append((reliable, match.ncc))
        if len(against) < _WITNESSES:
            return None
        others = [matches for pair, matches in self._reliable.items() if key not in pair]
        if not others or np.mean(others) < _USUAL:
            return None
        metrics = {
            "neighbours": float(len(against)),
            "best_ncc": max(ncc for _, ncc in against),
            "reliability": float(np.median([reliable for reliable, _ in against])),
            "limit": _RELIABLE,
        }
        return TileFault("unmatched", 1.0, min(0.99, metrics["reliability"]), "transient", metrics)

    def _structure(self, key: Key, other: Key) -> float:
        """Return how reliable an overlap is in that of two tiles where it is less; 0 where it is small."""
        if other not in self._maps:
            return 0.0
        step = np.subtract(self._places[other], self._places[key])
        if (self._size - np.abs(step)).min() < _LEAST_OVERLAP_PX:
            return 0.0
        u, v = (step / self._size).tolist()
        return min(shared_reliability(self._maps[key], self._maps[other], (u, v)))
