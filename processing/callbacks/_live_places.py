"""Tiles that lie elsewhere than the stage says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from typing import Final

import numpy as np

from processing.callbacks.verdicts import TileFault
from processing.kernels.placement import Placement
from processing.stitching.solution import Key

_SIGMAS: Final = 6.0
"""Of the stage's error between neighbours: once in 10^7 tiles of a stage whose errors are normal."""
_WITNESSES: Final = 2
"""Neighbours that must tell a tile's place: one may be wrong."""
_LEAST_TILES: Final = 9
"""Tiles that neighbours place before the error of the stage is known."""


class PlaceWatch:
    """Finds tiles whose solved place is further from their recorded one than the stage usually errs.

    What counts is a tile's error beside that of the neighbours that it matches: a stage that drifts or is
    badly calibrated is no tile's fault. The limit is 6 sigma of the stage, found from this montage's matches,
    and never less than the tolerance that its moves were allowed.

    Parameters
    ----------
    least_px
        The tolerance, px.
    """

    def __init__(self, least_px: float) -> None:
        self._least_px = least_px
        self._accused: set[Key] = set()

    def check(
        self,
        nominal_px: Mapping[Key, tuple[float, float]],
        partners: Mapping[Key, Set[Key]],
        placement: Placement | None,
    ) -> Iterator[tuple[Key, TileFault]]:
        """Yield tiles that are now known to be misplaced, each once.

        Parameters
        ----------
        nominal_px
            Where the stage says that each tile is, in the order of the placement.
        partners
            Neighbours that each tile in question matches.
        placement
            Where the tiles lie.
        """
        if placement is None or placement.matched.sum() < _LEAST_TILES:
            return
        index = {key: k for k, key in enumerate(nominal_px)}
        limit = max(self._least_px, _SIGMAS * placement.stage_sigma_px)
        affine = placement.stage_affine
        stage = np.array([*nominal_px.values()]) @ affine[:, :2].T + affine[:, 2]
        errors = placement.positions_px - stage
        for key in sorted(partners):
            near = [index[one] for one in partners[key] if one in index]
            if key in self._accused or len(near) < _WITNESSES:
                continue
            error = errors[index[key]] - np.median(errors[near], axis=0)
            distance = float(np.hypot(*error))
            if math.isfinite(limit) and distance > limit > 0:
                self._accused.add(key)
                metrics = {"distance_px": distance, "limit_px": limit, "neighbours": float(len(near))}
                yield key, TileFault("misplaced", 1 - limit / distance, 0.95, "transient", metrics)
