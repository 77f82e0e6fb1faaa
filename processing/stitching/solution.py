"""Where the tiles of a montage lie: the result of stitching, for files and documents."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from processing.kernels.field import FieldModel
from processing.kernels.pairs import PairMatch

Reals = npt.NDArray[np.float64]
Key = tuple[int, int, int]
"""Region, row and column of a tile."""
FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class TileInput:
    """A tile to be stitched: its key (region, row, column), attempt, and nominal place of its centre, px."""

    key: Key
    attempt: int
    nominal_px: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Added:
    """What adding a tile did.

    Attributes
    ----------
    index
        Of the tile in the solution.
    matches
        (key of the neighbour, match) for each that was tried; the match is of the neighbour to this tile
        (centre of this minus that of the neighbour).
    matched, reason
        Whether a neighbour tells the tile's place, and why not, or what is doubtful.
    moved
        Indices of the tiles that lie elsewhere than before, this one always among them.
    refitted
        Whether the distortion was fitted anew.
    """

    index: int
    matches: tuple[tuple[Key, PairMatch], ...]
    matched: bool
    reason: str
    moved: tuple[int, ...]
    refitted: bool


@dataclass(frozen=True, slots=True)
class TileRecord:
    """Where a tile lies.

    Attributes
    ----------
    key, attempt
        Region, row and column, and which acquisition of it.
    nominal_px, position_px
        Centre of the tile in the mosaic: from the stage, and found; (x, y) px.
    matrix
        ((xx, xy), (yx, yy)) of the tile.
    matched
        Whether a neighbour tells its place; if not, the stage does.
    reason
        Why it is not matched, or what is doubtful; empty where nothing is.
    """

    key: Key
    attempt: int
    nominal_px: tuple[float, float]
    position_px: tuple[float, float]
    matrix: tuple[tuple[float, float], tuple[float, float]]
    matched: bool
    reason: str


@dataclass(frozen=True, slots=True)
class EdgeRecord:
    """A pair of tiles that was tried.

    Attributes
    ----------
    first, second
        Keys of both tiles.
    offset_px
        Centre of the second minus that of the first as the images of both say (as predicted where they say
        nothing), px.
    covariance_px2
        xx, xy, yy of the offset, px^2.
    ncc, z
        Correlation coefficient of the overlap, and height of the peak over its surroundings in sigma.
    residual_px
        Distance between the offset, distortion taken out, and that of the solution, px; NaN if not accepted.
    blocks
        Number of blocks that were found in both.
    accepted
        Whether the solution uses it.
    reason
        Why not.
    """

    first: Key
    second: Key
    offset_px: tuple[float, float]
    covariance_px2: tuple[float, float, float]
    ncc: float
    z: float
    residual_px: float
    blocks: int
    accepted: bool
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class StitchSolution:
    """Where all tiles lie, and how it was found.

    Attributes
    ----------
    size_px
        Width and height of the tiles.
    tiles, edges
        One record a tile, in the order in which they were added, and one a pair.
    field
        The shared distortion.
    field_origin
        ``given``, ``calibrated`` from this montage's overlaps, ``outdated`` (one was given that the overlaps
        contradict: theirs is used), or ``none``.
    field_change_px
        rms and largest difference of the field found from the one given, px; None where one is missing.
    stage_affine
        ((xx, xy, tx), (yx, yy, ty)): what takes nominal to mosaic coordinates in the mean, px.
    stage_sigma_px
        Error of the stage between neighbours, a coordinate, apart from that, px.
    residual_median_px, residual_p95_px
        Of the distances of the matched blocks in the solution, px; NaN without blocks.
    holdout_median_px, holdout_p95_px
        The same for matches held out of the fit; NaN without.
    """

    size_px: tuple[int, int]
    tiles: tuple[TileRecord, ...]
    edges: tuple[EdgeRecord, ...]
    field: FieldModel
    field_origin: str
    field_change_px: tuple[float, float] | None
    stage_affine: tuple[tuple[float, float, float], tuple[float, float, float]]
    stage_sigma_px: float
    residual_median_px: float
    residual_p95_px: float
    holdout_median_px: float
    holdout_p95_px: float

    @property
    def positions_px(self) -> Reals:
        """Places of the tiles' centres in the mosaic, (n, 2) as (x, y) px."""
        return np.array([tile.position_px for tile in self.tiles], np.float64).reshape(-1, 2)

    @property
    def matrices(self) -> Reals:
        """Matrices of the tiles, (n, 2, 2)."""
        return np.array([tile.matrix for tile in self.tiles], np.float64).reshape(-1, 2, 2)

    @property
    def matched(self) -> npt.NDArray[np.bool_]:
        """Which tiles a neighbour places, (n,)."""
        return np.array([tile.matched for tile in self.tiles], np.bool_)

    def tile(self, key: Key) -> TileRecord:
        """Return the record of a tile.

        Raises
        ------
        KeyError
            There is no such tile.
        """
        for one in self.tiles:
            if one.key == tuple(key):
                return one
        raise KeyError(f"tile {tuple(key)} is not in the solution")

    def to_mosaic(self, key: Key, points_px: npt.ArrayLike) -> Reals:
        """Return the mosaic coordinates of points (..., 2) of a tile, px from its centre."""
        tile = self.tile(key)
        position, matrix = np.array(tile.position_px), np.array(tile.matrix)
        return np.asarray(position + self.field.undistort(points_px) @ matrix.T)

    def to_json(self) -> str:
        """Return the solution as JSON text (NaN is written as null)."""
        values = {name: getattr(self, name) for name in self.__slots__}
        values["tiles"] = [asdict(tile) for tile in self.tiles]
        values["edges"] = [asdict(edge) for edge in self.edges]
        values["field"] = self.field.to_dict()
        return json.dumps({"format": FORMAT, **_nulls(values)}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> StitchSolution:
        """Return the solution that `to_json` wrote.

        Raises
        ------
        ValueError
            The text is not one, or of a format that this version does not read.
        """
        values = json.loads(text)
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise ValueError(f"this is not a solution of format {FORMAT}; stitch the montage again")
        try:
            values["field"] = FieldModel.from_dict(values["field"])
            values["tiles"] = tuple(TileRecord(**_tuples(tile)) for tile in values["tiles"])
            values["edges"] = tuple(EdgeRecord(**_tuples(_numbers(edge))) for edge in values["edges"])
            change = values.pop("field_change_px")
            return cls(
                **_tuples(_numbers(values)),
                field_change_px=None if change is None else (change[0], change[1]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is not a solution: {error!r}") from error


def _nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _nulls(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_nulls(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in values.items()}


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _tuple(value) for name, value in values.items()}


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
