"""Which tiles a mosaic shows, and how; kept in a file beside the pixels, so that one can go on with it."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from devices.errors import ConfigurationError
from processing.kernels.field import FieldModel
from processing.kernels.render import Area, Field, TileTransform, footprint
from processing.mosaic._arrays import write_json

TileId = Hashable
"""What names a tile: a string, a number, or a tuple of these."""
FILE: Final = "tiles.json"
"""Name of the file in the store's folder; readers of zarr do not look at it."""


@dataclass(frozen=True, slots=True, eq=False)
class ShownTile:
    """A tile as it is shown.

    Attributes
    ----------
    transform
        Where it lies.
    shape
        (y, x) of its frame, px.
    gain, offset
        Its pixels are ``gain * counts + offset``.
    area
        Pixels of the mosaic that it may cover.
    """

    transform: TileTransform
    shape: tuple[int, int]
    gain: float = 1.0
    offset: float = 0.0
    area: Area = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "area", footprint(self.transform, self.shape))

    def moved_px(self, other: TileTransform) -> float:
        """Return how far a point of the tile moves at most under another transform, px."""
        rows, columns = self.shape
        u, v = (size / 2 * np.linspace(-1, 1, 5) for size in (columns, rows))
        points = np.stack(np.meshgrid(u, v), -1)
        return float(np.hypot(*np.moveaxis(self.transform(points) - other(points), -1, 0)).max())


def save_tiles(folder: Path, tiles: Mapping[TileId, ShownTile], *, blending: Mapping[str, Any]) -> None:
    """Write the tiles of a mosaic, in one step."""
    fields: dict[int, int] = {}
    models: list[dict[str, Any] | None] = []
    listed = []
    for name, tile in tiles.items():
        transform, index = tile.transform, None
        if transform.field is not None:
            index = fields.setdefault(id(transform.field), len(fields))
            if index == len(models):
                models.append(_model(transform.field))
        listed.append(
            {
                "tile": name,
                "position_px": [*map(float, transform.position_px)],
                "matrix": [[*map(float, row)] for row in transform.matrix],
                "field": index,
                "shape": [*tile.shape],
                "gain": float(tile.gain),
                "offset": float(tile.offset),
            }
        )
    write_json(folder / FILE, {"blending": dict(blending), "fields": models, "tiles": listed}, durable=False)


def load_tiles(folder: Path) -> tuple[dict[TileId, ShownTile], dict[str, Any]] | None:
    """Return the tiles of a mosaic and how they were blended; None where there is no list of them.

    Raises
    ------
    ConfigurationError
        The list cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        fields = [None if one is None else FieldModel.from_dict(one) for one in content["fields"]]
        tiles: dict[TileId, ShownTile] = {}
        for one in content["tiles"]:
            (a, b), (c, d) = one["matrix"]
            x, y = one["position_px"]
            model = None if one["field"] is None else fields[one["field"]]
            transform = TileTransform((x, y), ((a, b), (c, d)), model)
            rows, columns = one["shape"]
            tiles[_hashable(one["tile"])] = ShownTile(transform, (rows, columns), one["gain"], one["offset"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    return tiles, content["blending"]


def _model(field: Field) -> dict[str, Any] | None:
    return field.to_dict() if isinstance(field, FieldModel) else None


def _hashable(value: Any) -> TileId:
    return tuple(_hashable(one) for one in value) if isinstance(value, list) else value
