"""Where the next tile of a montage lies, from the tiles that are solved already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]

_MAD: Final = 1.4826
_SIGMAS: Final = 4.5
_ASSUMED_STEPS: Final = 2.0
"""How many steps the range of the first search counts for, against those that were measured."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Where a tile is expected.

    Attributes
    ----------
    offset_px
        Its centre minus that of a neighbour, (x, y) px.
    search_px
        How far from there it may be, (x, y) px.
    """

    offset_px: tuple[float, float]
    search_px: tuple[float, float]


class Predictor:
    """Predicts from neighbours what the stage alone does not tell.

    Errors of stages are 30 to 140 px rms, but those of neighbours are alike: the drift of the solved tiles
    nearby, on top of the affine error of the stage, is expected of the next tile too. How far that is wrong
    is seen in the steps measured already, apart for steps along x and along y: the first pairs search widely.

    Parameters
    ----------
    first_search_px
        Range while no step is known, a side, px.
    least_search_px, most_search_px
        Limits of later ranges, a side, px.
    """

    def __init__(self, first_search_px: float, least_search_px: float, most_search_px: float) -> None:
        if not 0 < least_search_px <= most_search_px or not first_search_px > 0:
            raise ValueError(
                f"search ranges {least_search_px} to {most_search_px} px, first {first_search_px} px: they "
                "must be above 0, the least not above the most"
            )
        self._first, self._least, self._most = first_search_px, least_search_px, most_search_px
        self._nominal = self._positions = np.zeros((0, 2))
        self._matrix = np.eye(2)
        self._sigma = np.full((2, 2), first_search_px / _SIGMAS)

    def learn(
        self,
        nominal_px: npt.ArrayLike,
        positions_px: npt.ArrayLike,
        stage_affine: npt.ArrayLike,
        pairs: npt.ArrayLike,
    ) -> None:
        """Take a solution.

        Parameters
        ----------
        nominal_px, positions_px
            (n, 2): nominal and solved places of the tiles, px.
        stage_affine
            (2, 3) of it.
        pairs
            (m, 2): the tiles of each pair that matched.
        """
        self._nominal, self._positions = np.asarray(nominal_px, float), np.asarray(positions_px, float)
        self._matrix = np.asarray(stage_affine, float)[:, :2]
        joined = np.asarray(pairs, np.intp).reshape(-1, 2)
        steps = (self._nominal[joined[:, 1]] - self._nominal[joined[:, 0]]) @ self._matrix.T
        wrong = np.abs(self._positions[joined[:, 1]] - self._positions[joined[:, 0]] - steps)
        along_x = np.abs(steps[:, 0]) > np.abs(steps[:, 1])
        for k, chosen in enumerate((along_x, ~along_x)):
            count = int(chosen.sum())
            seen = _MAD * np.median(wrong[chosen], axis=0) if count else np.zeros(2)
            assumed = _ASSUMED_STEPS * (self._first / _SIGMAS) ** 2
            self._sigma[k] = np.sqrt((count * seen**2 + assumed) / (count + _ASSUMED_STEPS))

    def place(self, nominal_px: tuple[float, float], neighbours: Sequence[int]) -> Reals:
        """Return where a tile is expected, (2,) px: the drift of its neighbours, the nearer the more."""
        nominal = np.asarray(nominal_px, float)
        near = np.asarray(neighbours, np.intp)
        steps = (nominal - self._nominal[near]) @ self._matrix.T
        weights = 1 / np.maximum(np.hypot(*steps.T), 1.0)
        return np.asarray(weights @ (self._positions[near] + steps) / weights.sum())

    def search(self, step_px: npt.ArrayLike) -> tuple[float, float]:
        """Return how far a step between tiles may be wrong, (x, y) px."""
        x, y = np.asarray(step_px, float)
        sigma = self._sigma[0 if abs(x) > abs(y) else 1]
        ranges = np.clip(_SIGMAS * sigma, self._least, self._most)
        return float(ranges[0]), float(ranges[1])

    def predict(self, nominal_px: tuple[float, float], neighbours: Sequence[int]) -> tuple[Prediction, ...]:
        """Return for a new tile, by each of its solved neighbours, where it is expected.

        Parameters
        ----------
        nominal_px
            Its nominal place, (x, y) px.
        neighbours
            Indices of solved tiles near it.

        Raises
        ------
        ValueError
            There is no neighbour, or its index is not that of a solved tile.
        """
        if not neighbours or not all(0 <= k < len(self._positions) for k in neighbours):
            raise ValueError(
                f"neighbours {list(neighbours)} must be some of the {len(self._positions)} solved tiles"
            )
        place = self.place(nominal_px, neighbours)
        found = []
        for k in neighbours:
            x, y = place - self._positions[k]
            found.append(Prediction((float(x), float(y)), self.search((x, y))))
        return tuple(found)
