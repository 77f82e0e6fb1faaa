"""A pair of tiles that was matched, and the step between them with the distortion taken out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from processing.kernels.blocks import BlockMatches
from processing.kernels.field import FieldModel
from processing.kernels.pairs import PairMatch
from processing.kernels.placement import Edge

Reals = npt.NDArray[np.float64]
LEAST_BLOCKS: Final = 6
"""Blocks that tell a step better than the match of the whole overlap, where there is distortion."""
_KNEE: Final = 3.0
_MAD: Final = 1.4826


@dataclass(slots=True, eq=False)
class TriedPair:
    """A pair that was tried: indices of the tiles, match, blocks where accepted, step free of distortion."""

    first: int
    second: int
    match: PairMatch
    blocks: BlockMatches | None
    edge: Edge | None


@dataclass(frozen=True, slots=True, eq=False)
class Distorted:
    """The field and the matrices (n, 2, 2) of the tiles as far as they are known; others are the identity."""

    field: FieldModel
    matrices: Reals

    @property
    def none(self) -> bool:
        """Whether there is no distortion at all."""
        return self.field.degree == 1 and not len(self.matrices)

    def ideal(self, tile: int, points_px: Reals) -> Reals:
        """Return points (m, 2) of a tile as they lie in the mosaic about its centre."""
        points = self.field.undistort(points_px)
        return points @ self.matrices[tile].T if tile < len(self.matrices) else points

    def step(self, first: int, second: int, offset_px: tuple[float, float]) -> Reals:
        """Return the step (2,) between the centres of tiles whose overlap is shifted by an offset."""
        middle = np.array([offset_px]) / 2
        return np.asarray((self.ideal(first, middle) - self.ideal(second, -middle))[0])

    def seen(self, first: int, second: int, step_px: Reals) -> tuple[float, float]:
        """Return the offset at which the overlap is seen for a step between the centres."""
        error = self.step(first, second, (float(step_px[0]), float(step_px[1]))) - step_px
        return float(step_px[0] - error[0]), float(step_px[1] - error[1])


def edge_of(pair: TriedPair, distortion: Distorted) -> Edge | None:
    """Return the step between the centres of an accepted pair, free of distortion."""
    match = pair.match
    if not match.accepted:
        return None
    offset = match.dx_px, match.dy_px
    if distortion.none:
        return Edge(pair.first, pair.second, *offset, match.covariance_px2, match.ncc, match.z)
    blocks = pair.blocks
    if blocks is None or len(blocks.first_px) < LEAST_BLOCKS:
        x, y = distortion.step(pair.first, pair.second, offset)
        return Edge(pair.first, pair.second, float(x), float(y), match.covariance_px2, match.ncc, match.z)
    steps = distortion.ideal(pair.first, blocks.first_px) - distortion.ideal(pair.second, blocks.second_px)
    middle = np.median(steps, 0)
    spread = _MAD * np.maximum(np.median(np.abs(steps - middle), 0), 1e-3)
    weights = 1 / (1 + (((steps - middle) / (_KNEE * spread)) ** 2).sum(1))
    x, y = weights @ steps / weights.sum()
    xx, yy = spread**2 / weights.sum()
    return Edge(pair.first, pair.second, float(x), float(y), (float(xx), 0.0, float(yy)), match.ncc, match.z)
