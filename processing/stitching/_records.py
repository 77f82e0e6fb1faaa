"""The records of a solution."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from processing.kernels.placement import Placement
from processing.stitching._calibrate import Calibration
from processing.stitching._edges import TriedPair
from processing.stitching.solution import EdgeRecord, StitchSolution, TileInput, TileRecord

Reals = npt.NDArray[np.float64]


def solution_of(
    size_px: tuple[int, int],
    tiles: Sequence[TileInput],
    pairs: Iterable[TriedPair],
    positions: Reals,
    matrices: Reals,
    calibration: Calibration,
    placement: Placement | None,
    refused: Mapping[int, str],
) -> StitchSolution:
    """Return everything that is known of a montage."""
    tried = list(pairs)
    fit = calibration.fit
    residuals = fit.residuals_px if fit is not None else np.zeros(0)
    median, p95 = np.percentile(residuals, [50, 95]) if len(residuals) else (math.nan, math.nan)
    affine = np.array(placement.stage_affine) if placement is not None else np.eye(2, 3)
    if placement is not None:
        affine[:, 2] += (positions - placement.positions_px).mean(0)
    return StitchSolution(
        size_px=size_px,
        tiles=_tiles(tiles, tried, positions, matrices, placement, refused),
        edges=_edges(tiles, tried, positions, placement),
        field=calibration.distorted.field,
        field_origin=calibration.origin,
        field_change_px=calibration.change_px,
        stage_affine=_rows(affine),
        stage_sigma_px=placement.stage_sigma_px if placement is not None else math.nan,
        residual_median_px=float(median),
        residual_p95_px=float(p95),
        holdout_median_px=fit.holdout_median_px if fit is not None else math.nan,
        holdout_p95_px=fit.holdout_p95_px if fit is not None else math.nan,
    )


def _rows(affine: Reals) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    (a, b, c), (d, e, f) = affine.tolist()
    return (a, b, c), (d, e, f)


def _tiles(
    tiles: Sequence[TileInput],
    pairs: Sequence[TriedPair],
    positions: Reals,
    matrices: Reals,
    placement: Placement | None,
    refused: Mapping[int, str],
) -> tuple[TileRecord, ...]:
    if placement is None:
        return ()
    own: list[list[TriedPair]] = [[] for _ in tiles]
    for pair in pairs:
        own[pair.first].append(pair)
        own[pair.second].append(pair)
    found = []
    for k, (tile, at, bent) in enumerate(zip(tiles, positions.tolist(), matrices.tolist(), strict=True)):
        matched = bool(placement.matched[k])
        reason = why_unmatched(matched, placement.reasons[k], refused.get(k), own[k])
        ((xx, xy), (yx, yy)), (x, y) = bent, at
        nominal = float(tile.nominal_px[0]), float(tile.nominal_px[1])
        found.append(
            TileRecord(tile.key, tile.attempt, nominal, (x, y), ((xx, xy), (yx, yy)), matched, reason)
        )
    return tuple(found)


def _edges(
    tiles: Sequence[TileInput], pairs: Sequence[TriedPair], positions: Reals, placement: Placement | None
) -> tuple[EdgeRecord, ...]:
    accepted = [pair for pair in pairs if pair.edge is not None]
    rejected = set()
    if placement is not None:
        rejected = {id(one) for one, no in zip(accepted, placement.rejected, strict=True) if no}
    found = []
    for pair in pairs:
        match, residual = pair.match, math.nan
        if pair.edge is not None:
            step = positions[pair.second] - positions[pair.first]
            residual = math.hypot(step[0] - pair.edge.dx_px, step[1] - pair.edge.dy_px)
        contradicts = id(pair) in rejected
        found.append(
            EdgeRecord(
                tiles[pair.first].key,
                tiles[pair.second].key,
                (match.dx_px, match.dy_px),
                match.covariance_px2,
                match.ncc,
                match.z,
                residual,
                0 if pair.blocks is None else len(pair.blocks.first_px),
                match.accepted and not contradicts,
                f"it contradicts the others by {residual:.1f} px" if contradicts else match.reason,
            )
        )
    return tuple(found)


def why_unmatched(matched: bool, reason: str, refused: str | None, pairs: Sequence[TriedPair]) -> str:
    """Return the reason of a tile with what its pairs say."""
    if matched or any(pair.match.accepted for pair in pairs):
        return reason
    if refused:
        return f"prior-only: {refused}"
    if not pairs:
        return "prior-only: no neighbour overlaps it"
    (usual, _), *_ = Counter(pair.match.reason for pair in pairs).most_common(1)
    return f"prior-only: none of {len(pairs)} neighbours matched; {usual}"
