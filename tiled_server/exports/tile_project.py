"""A folder of TIFFs with the places of the tiles, for TrakEM2 or for render."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from devices.errors import ConfigurationError
from processing.kernels.field import FieldModel
from processing.stitching.frame_files import Frame, Image
from processing.stitching.offline import Stitched
from processing.stitching.solution import Key, StitchSolution, TileInput, TileRecord
from processing.stitching.sources import SourceTile, make_set
from processing.stitching.tables import render_specs, trakem2
from tiled_server.exports.montage import Montage, Mosaic
from tiled_server.exports.ome_zarr import placed
from tiled_server.exports.output import Progress
from tiled_server.exports.tiff import frame_name, tiff_bytes

IMAGES: Final = "images"
FILES: Final[Mapping[str, str]] = {"trakem2": "trakem2.xml", "render": "render.json"}
Program = Literal["trakem2", "render"]


@dataclass(frozen=True)
class _Written:
    """A frame of the montage, under the name that its TIFF gets."""

    name: str
    frame: Frame

    @property
    def where(self) -> str:
        return self.name

    def size_px(self) -> tuple[int, int]:
        return self.frame.size_px()

    def read(self) -> Image:
        return self.frame.read()

    def absent(self) -> bool:
        return self.frame.absent()

    def stamp(self) -> tuple[int, ...]:
        return self.frame.stamp()

    def corrected(self, dark: Path, bright: Path) -> Frame:
        return self.frame.corrected(dark, bright)


class _Solution(StitchSolution):
    """A solution that finds a tile at once, however many there are."""

    @cached_property
    def _index(self) -> dict[Key, TileRecord]:
        return {one.key: one for one in self.tiles}

    def tile(self, key: Key) -> TileRecord:
        return self._index[key]


def write_project(montage: Montage, folder: Path, final: Path, program: Program, progress: Progress) -> None:
    """Write a folder: ``images/`` with a TIFF a frame, and the project.

    Parameters
    ----------
    montage
        One attempt a tile.
    folder, final
        Where it is written, and where it will be: TrakEM2 has the paths of its images from the project on,
        render whole addresses.
    program
        "trakem2": distortion left out; "render": with the distortion that the live mosaic found.
    progress
        A step a frame.

    Raises
    ------
    ConfigurationError
        There are several attempts of a tile, or nothing tells where a tile lies.
    """
    check_project(montage)
    names = [_image_path(row) for _, row in montage.table.iterrows()]
    nm, _ = montage.runs[0].calibration
    for parent in {Path(name).parent for name in names}:
        (folder / parent).mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, montage.images(), strict=True):
        data = tiff_bytes(image, nm)
        (folder / name).write_bytes(data)
        progress.step(len(data))
    before = "" if program == "trakem2" else f"{final.resolve()}/"
    stitched = _stitched(montage, [before + name for name in names])
    text = trakem2(stitched) if program == "trakem2" else json.dumps(render_specs(stitched), indent=1)
    (folder / FILES[program]).write_text(text)


def check_project(montage: Montage) -> None:
    """Raise ConfigurationError where a montage has more than one frame of a tile, or a tile has no place."""
    if montage.table.duplicated(["roi", "row", "column"]).any():
        raise ConfigurationError("trakem2 and render show one attempt of a tile: leave out --attempts all")
    places, _ = placed(montage)
    lost = montage.table[~np.isfinite(places).all(1)]
    if len(lost):
        raise ConfigurationError(
            f"{len(lost)} tiles of montage {montage.montage_id} have no place, neither of the stage nor of "
            f"the mosaic: the first is row {lost.iloc[0]['row']}, column {lost.iloc[0]['column']}"
        )


def _image_path(row: Any) -> str:
    return f"{IMAGES}/region-{int(row['roi'])}/{frame_name(row)}"


def _stitched(montage: Montage, names: list[str]) -> Stitched:
    places, matrices = placed(montage)
    nominal = montage.nominal_px()
    tiles, records = [], []
    rows = montage.table[["roi", "row", "column", "attempt"]].to_numpy().tolist()
    for k, ((roi, row, column, attempt), frame) in enumerate(zip(rows, montage.frames(), strict=True)):
        key: Key = (roi, row, column)
        at: tuple[float, float] = (float(nominal[k, 0]), float(nominal[k, 1]))
        label = f"region {roi}, row {row}, column {column}"
        tiles.append(SourceTile(TileInput(key, attempt, at), _Written(names[k], frame), label))
        (a, b), (c, d) = matrices[k].tolist()
        x, y = places[k].tolist()
        records.append(TileRecord(key, attempt, at, (x, y), ((a, b), (c, d)), True, ""))
    nm, _ = montage.runs[0].calibration
    found = make_set(montage.montage_id, tiles, pixel_size_nm=nm, size_px=montage.size_px)
    return Stitched(found, _solution(montage, tuple(records)), ())


def _solution(montage: Montage, records: tuple[TileRecord, ...]) -> StitchSolution:
    width, height = montage.size_px
    field = field_of(montage.mosaics, (width, height)) or FieldModel.identity(width, height)
    affine = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    unknown = [math.nan] * 5
    return _Solution((width, height), records, (), field, "export", None, affine, *unknown)


def field_of(mosaics: tuple[Mosaic, ...], size_px: tuple[int, int]) -> FieldModel | None:
    """Return the distortion that a live mosaic found for frames of a size; None: none is at hand."""
    for mosaic in mosaics:
        if mosaic.solution is None:
            continue
        try:
            field = StitchSolution.from_json(mosaic.solution.read_text()).field
        except (OSError, ValueError):
            continue
        if (field.width_px, field.height_px) == size_px:
            return field
    return None
