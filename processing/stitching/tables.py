"""Where tiles lie, written for other programs, each with positions as that program counts them.

Centres and the shared distortion are those of `StitchSolution`; files count from the first pixel of a tile,
its centre at ((width - 1) / 2, (height - 1) / 2).

- ``positions.csv``: one line a tile.
- ``solution.json``: everything, read back by `StitchSolution.from_json`.
- ``trakem2.xml``: TrakEM2 1.0, https://syn.mrl.ox.ac.uk/trakem2/; an affine a tile. The shared distortion is
  left out: it has no affine part, so that is the affine nearest to the whole.
- ``render.json``: tile specs of https://github.com/saalfeldlab/render, with the distortion as a
  ``PolynomialTransform2D`` and an affine a tile.
- ``feabas.txt``: stitch coordinates of https://github.com/YuelongWu/feabas: no distortion, no matrix.
"""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any, Final
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from processing.kernels.field import FieldModel
from processing.stitching.frame_files import FrameError
from processing.stitching.mdoc import PIECE, aligned, sections
from processing.stitching.offline import Stitched
from processing.stitching.solution import Key, StitchSolution, TileRecord

Reals = npt.NDArray[np.float64]
COLUMNS: Final = (
    "file", "roi", "row", "column", "attempt", "nominal_x_px", "nominal_y_px", "x_px", "y_px",
    "xx", "xy", "yx", "yy", "residual_px", "matched", "reason",
)  # fmt: skip
"""Of ``positions.csv``: ``x_px, y_px`` is the place of the centre, ``residual_px`` rms over its pairs."""
_DOCTYPE: Final = '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE trakem2_anything>\n'


def write_tables(stitched: Stitched, folder: Path) -> list[Path]:
    """Write all tables into a folder; return their paths.

    Raises
    ------
    OSError
        A file cannot be written.
    """
    made = {
        "solution.json": stitched.solution.to_json(),
        "trakem2.xml": trakem2(stitched),
        "render.json": json.dumps(render_specs(stitched), indent=1),
        "feabas.txt": feabas(stitched),
    }
    origin = stitched.tiles.provenance
    source = origin.get("mdoc") if "section" in origin else None
    if source is not None:
        made[f"{Path(source).stem}.aligned.mdoc"] = aligned_mdoc(stitched, Path(source))
    write_positions(stitched, folder / "positions.csv")
    for name, text in made.items():
        (folder / name).write_text(text)
    return [folder / "positions.csv", *(folder / name for name in made)]


def residuals(solution: StitchSolution) -> dict[Key, float]:
    """Return the rms residual over the accepted pairs of every tile, px; NaN where it has none."""
    found: defaultdict[Key, list[float]] = defaultdict(list)
    for edge in solution.edges:
        if edge.accepted:
            found[edge.first].append(edge.residual_px)
            found[edge.second].append(edge.residual_px)
    return {
        tile.key: math.sqrt(sum(one**2 for one in found[tile.key]) / len(found[tile.key]))
        if found[tile.key]
        else math.nan
        for tile in solution.tiles
    }


def write_positions(stitched: Stitched, path: Path) -> None:
    """Write ``positions.csv``; what could not be placed at all has a line without numbers."""
    left, names = residuals(stitched.solution), stitched.names
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for tile in stitched.solution.tiles:
            numbers = (*tile.nominal_px, *tile.position_px, *tile.matrix[0], *tile.matrix[1])
            table.writerow(
                (
                    names[tile.key],
                    *tile.key,
                    tile.attempt,
                    *(f"{one:.9g}" for one in numbers),
                    f"{left[tile.key]:.4g}",
                    int(tile.matched),
                    tile.reason,
                )
            )
        for name, reason in stitched.tiles.left_out:
            table.writerow((name, *[""] * (len(COLUMNS) - 3), 0, f"left out: {reason}"))


def corner_affine(tile: TileRecord, size_px: tuple[int, int]) -> Reals:
    """Return (2, 3): what takes a tile's pixels, counted from its first, to the mosaic without distortion."""
    matrix = np.array(tile.matrix)
    middle = (np.array(size_px) - 1) / 2
    return np.column_stack([matrix, np.array(tile.position_px) - matrix @ middle])


def _affines(stitched: Stitched) -> dict[Key, Reals]:
    """Return the affines of all tiles, moved so that no corner of a tile lies below 0."""
    found = {one.key: corner_affine(one, stitched.solution.size_px) for one in stitched.solution.tiles}
    width, height = stitched.solution.size_px
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], float)
    first = np.min([corners @ one.T for one in found.values()], (0, 1))
    for one in found.values():
        one[:, 2] -= first
    return found


def trakem2(stitched: Stitched) -> str:
    """Return a TrakEM2 project with one layer."""
    width, height = stitched.solution.size_px
    affines = _affines(stitched)
    kind, highest = _image_type(stitched)
    ends = np.max([one @ (width, height, 1) for one in affines.values()], 0)
    root = ElementTree.Element("trakem2")
    ElementTree.SubElement(
        root,
        "project",
        id="0",
        title=stitched.tiles.name,
        unuid="0.0.0",
        mipmaps_folder="",
        storage_folder="",
    )
    nm = stitched.tiles.pixel_size_nm
    layers = ElementTree.SubElement(
        root,
        "t2_layer_set",
        oid="3",
        width=f"{ends[0]:.1f}",
        height=f"{ends[1]:.1f}",
        transform="matrix(1,0,0,1,0,0)",
        title="Top Level",
        links="",
        layer_width=f"{ends[0]:.1f}",
        layer_height=f"{ends[1]:.1f}",
    )
    scale = "1.0" if nm is None else f"{nm:.6g}"
    unit = "pixel" if nm is None else "nm"
    ElementTree.SubElement(
        layers, "t2_calibration", pixelWidth=scale, pixelHeight=scale, pixelDepth="1.0", xOrigin="0",
        yOrigin="0", zOrigin="0", info="null", valueUnit="Gray Value", timeUnit="sec", unit=unit,
    )  # fmt: skip
    layer = ElementTree.SubElement(layers, "t2_layer", oid="4", thickness="1", z="0", title="")
    for number, one in enumerate(stitched.tiles.tiles):
        (a, c, e), (b, d, f) = affines[one.tile.key].tolist()
        ElementTree.SubElement(
            layer,
            "t2_patch",
            oid=str(5 + number),
            width=str(width),
            height=str(height),
            o_width=str(width),
            o_height=str(height),
            transform="matrix(" + ",".join(repr(value) for value in (a, b, c, d, e, f)) + ")",
            title=one.name,
            links="",
            type=kind,
            file_path=one.frame.where,
            style="fill-opacity:1.0;stroke:#ffff00;",
            min="0.0",
            max=highest,
            mres="32",
        )
    ElementTree.indent(root)
    return _DOCTYPE + ElementTree.tostring(root, encoding="unicode") + "\n"


def _image_type(stitched: Stitched) -> tuple[str, str]:
    """Return ImageJ's number of the frames' type, and the count that is shown as white."""
    for one in stitched.tiles.tiles:
        try:
            dtype = one.frame.read().dtype
        except FrameError:
            continue
        return {"uint8": ("0", "255.0"), "uint16": ("1", "65535.0")}.get(dtype.name, ("2", "65535.0"))
    return "0", "255.0"


def polynomial(field: FieldModel) -> Reals:
    """Return (2, k): ``p + D(p)`` as a polynomial of the pixel counted from the first.

    Terms 1, x, y, x^2, xy, y^2, ...; as ``mpicbg.trakem2.transform.PolynomialTransform2D`` has them.
    """
    size = np.array([field.width_px, field.height_px], np.float64)
    u = (1 - np.cos(np.pi * (np.arange(16) + 0.5) / 16)) / 2
    unit = np.stack(np.meshgrid(u, u), -1).reshape(-1, 2)
    middle = (size - 1) / 2
    values = field.undistort(unit * size - middle) + middle
    powers = [(total - q, q) for total in range(max(1, field.degree) + 1) for q in range(total + 1)]
    design = np.stack([unit[:, 0] ** p * unit[:, 1] ** q for p, q in powers], 1)
    found = np.linalg.lstsq(design, values, rcond=None)[0].T
    return np.asarray(found / np.array([size[0] ** p * size[1] ** q for p, q in powers]))


def render_specs(stitched: Stitched) -> list[dict[str, Any]]:
    """Return render's tile specs."""
    width, height = stitched.solution.size_px
    lens = polynomial(stitched.solution.field)
    data = " ".join(repr(float(value)) for value in lens.reshape(-1))
    bent = {"type": "leaf", "className": "mpicbg.trakem2.transform.PolynomialTransform2D", "dataString": data}
    specs = []
    for one in stitched.tiles.tiles:
        record = stitched.solution.tile(one.tile.key)
        middle = (np.array([width, height]) - 1) / 2
        matrix = np.array(record.matrix)
        shift = np.array(record.position_px) - matrix @ middle
        # columns of the matrix first
        numbers = " ".join(repr(float(value)) for value in (*matrix.T.reshape(-1), *shift))
        straight = {
            "type": "leaf",
            "className": "mpicbg.trakem2.transform.AffineModel2D",
            "dataString": numbers,
        }
        transform = [straight] if stitched.solution.field.degree == 1 else [bent, straight]
        _, row, column = one.tile.key
        specs.append(
            {
                "tileId": f"{stitched.tiles.name}.{'.'.join(map(str, one.tile.key))}",
                "layout": {"sectionId": "0", "imageRow": row, "imageCol": column},
                "z": 0.0,
                "width": float(width),
                "height": float(height),
                "mipmapLevels": {"0": {"imageUrl": _uri(one.frame.where)}},
                "transforms": {"type": "list", "specList": transform},
            }
        )
    return specs


def _uri(where: str) -> str:
    return where if "://" in where else Path(where).as_uri()


def feabas(stitched: Stitched) -> str:
    """Return feabas' stitch coordinates: where the first pixel of every tile lies, whole pixels."""
    width, height = stitched.solution.size_px
    files = [PurePosixPath(one.frame.where) for one in stitched.tiles.tiles]
    folders = {file.parent for file in files}
    root = min(folders) if len(folders) == 1 else PurePosixPath(min(folders).anchor)
    middle = (np.array([width, height]) - 1) / 2
    lines = [
        f"{{ROOT_DIR}}\t{root}",
        f"{{RESOLUTION}}\t{stitched.tiles.pixel_size_nm or 1.0:g}",
        f"{{TILE_SIZE}}\t{height}\t{width}",
    ]
    for one, file in zip(stitched.tiles.tiles, files, strict=True):
        x, y = np.round(np.array(stitched.solution.tile(one.tile.key).position_px) - middle).astype(int)
        lines.append(f"{file.relative_to(root)}\t{x}\t{y}")
    return "\n".join(lines) + "\n"


def aligned_mdoc(stitched: Stitched, source: Path) -> str:
    """Return a copy of a SerialEM ``.mdoc`` with ``AlignedPieceCoords`` of the tiles that were stitched."""
    text = source.read_text(errors="replace")
    chosen = stitched.tiles.provenance["section"]
    placed = {one.nominal_px: one for one in stitched.solution.tiles}
    moves = {}
    for part in sections(text):
        if PIECE in part.keys:
            x, y, z = (float(one) for one in part.keys[PIECE].split())
            tile = placed.get((x, -y))
            if round(z) == chosen and tile is not None:
                moves[x, y, z] = tile.position_px[0] - x, tile.position_px[1] + y
    return aligned(text, moves)
