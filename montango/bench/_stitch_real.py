"""Recorded montages of ``montango bench stitch``: no truth, so blocks found in both tiles of a pair judge.

``holdout`` is Montango's own figure over pairs of blocks held out of its fit, five-fold; ``blocks`` is that
of `_block_residual`, the same for every stitcher.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from montango.bench._block_residual import ToMosaic, block_residual, translation
from montango.bench._stitch_files import Outcome, run_ours, run_peer, write_montage
from montango.bench._stitch_line import Line
from processing.stitching.solution import StitchSolution

Reals = npt.NDArray[np.float64]
_OVERLAP: Final = 0.1
_SEARCH_PX: Final = 100.0


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """Tiles, where the stage says their first pixels lie, and a published solution where there is one."""

    images: list[npt.NDArray[np.uint8]]
    nominal_first_px: Reals
    rows: list[int]
    columns: list[int]
    published: npt.NDArray[np.float64] | None = None

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Neighbours along rows and columns."""
        at = {place: i for i, place in enumerate(zip(self.rows, self.columns, strict=True))}
        found = []
        for (row, column), i in at.items():
            for other in ((row, column + 1), (row + 1, column)):
                if other in at:
                    found.append((i, at[other]))
        return found


def _grey(path: Path) -> npt.NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise FileNotFoundError(
            f"{path} is not there, or is no picture; give --data the folder of the tests' data"
        )
    return np.asarray(image, np.uint8)


def _mussel(folder: Path) -> Recorded:
    paths = sorted(folder.glob("*_?_?.png"))
    images = [_grey(path) for path in paths]
    places = [[int(part) - 1 for part in path.stem.split("_")[1:]] for path in paths]
    height, width = images[0].shape
    step = np.round(np.array([width, height]) * (1 - _OVERLAP))
    nominal = np.array([(column, row) for row, column in places]) * step
    return Recorded(images, nominal, [row for row, _ in places], [column for _, column in places])


def _array_tomography(folder: Path) -> Recorded:
    with (folder / "positions.csv").open() as file:
        lines = list(csv.DictReader(file))
    images = [_grey(folder / line["file"]) for line in lines]
    nominal = np.array([[float(line["stage_x_px"]), float(line["stage_y_px"])] for line in lines])
    height, width = images[0].shape
    columns = np.round(nominal[:, 0] / (0.83 * width)).astype(int).tolist()
    rows = np.round(nominal[:, 1] / (0.824 * height)).astype(int).tolist()
    names = ("ref_a", "ref_b", "ref_tx", "ref_c", "ref_d", "ref_ty")
    published = np.array([[float(line[name]) for name in names] for line in lines]).reshape(-1, 2, 3)
    return Recorded(images, nominal, rows, columns, published)


@dataclass(frozen=True, slots=True)
class _Limits:
    median_px: float
    p95_px: float
    work_s: float = math.nan
    source: str = "holdout"


REAL: Final = MappingProxyType(
    {
        "sample_2": _Limits(0.25, 0.65, 0.3),
        "sample_1": _Limits(math.nan, math.nan),
        "array_tomography": _Limits(0.13, 0.30, source="blocks"),
    }
)
"""Recorded montages, and the limits of the median and 95th percentile of the residual and of the CPU time."""


def real_results(
    name: str, data: Path, folder: Path, python: Path | None, peers: Sequence[str]
) -> list[Line]:
    """Stitch a recorded montage with Montango and the peers; return the figures."""
    limits = REAL[name]
    recorded = (
        _array_tomography(data / name) if name == "array_tomography" else _mussel(data / "mussel" / name)
    )
    write_montage(
        folder, recorded.images, recorded.nominal_first_px, recorded.rows, recorded.columns, _SEARCH_PX
    )
    ours = run_ours(folder, distortion=True)
    if ours.first_px is None:
        return [Line(f"{name} montango: failed: {ours.error}", math.inf, limit=0.0)]
    solution = StitchSolution.from_json((folder / "montango-solution.json").read_text())
    residual = block_residual(recorded.images, recorded.pairs, _of_solution(solution))
    held = (limits.median_px, limits.p95_px) if limits.source == "holdout" else (math.nan, math.nan)
    judged = (limits.median_px, limits.p95_px) if limits.source == "blocks" else (math.nan, math.nan)
    lines = [
        Line(f"{name} montango: holdout, median", ours.extra["holdout_median_px"], "px", held[0]),
        Line(f"{name} montango: holdout, 95 %", ours.extra["holdout_p95_px"], "px", held[1]),
        Line(f"{name} montango: blocks, median", residual.median_px, "px", judged[0]),
        Line(f"{name} montango: blocks, 95 %", residual.p95_px, "px", judged[1]),
        Line(f"{name} montango: CPU, imports apart", ours.work_s, "s", limits.work_s),
        Line(f"{name} montango: tiles matched", float(ours.extra["matched"]), f"of {len(recorded.images)}"),
        # a tile without neighbours that tell its place must say so
        Line(
            f"{name} montango: tiles neither matched nor explained",
            float(sum(not tile.matched and not tile.reason for tile in solution.tiles)),
            "",
            0.0,
        ),
    ]
    if recorded.published is not None:
        lines += _against_published(name, recorded, solution)
    for peer in peers if python is not None else ():
        assert python is not None
        lines += _theirs(name, peer, run_peer(python, peer, folder), recorded, folder)
    return lines


def _of_solution(solution: StitchSolution) -> ToMosaic:
    positions, matrices, field = solution.positions_px, solution.matrices, solution.field
    return lambda tile, points: positions[tile] + field.undistort(points) @ matrices[tile].T


def _theirs(name: str, peer: str, outcome: Outcome, recorded: Recorded, folder: Path) -> list[Line]:
    if outcome.first_px is None:
        print(f"  {name} {peer}: {outcome.error}")
        return []
    solution = translation(outcome.first_px)
    mesh = folder / "feabas_elastic_mesh.npz"
    if peer == "feabas-elastic" and mesh.exists():
        solution = _of_mesh(mesh, recorded.images[0].shape)
    residual = block_residual(recorded.images, recorded.pairs, solution)
    return [
        Line(f"{name} {peer}: blocks, median", residual.median_px, "px"),
        Line(f"{name} {peer}: blocks, 95 %", residual.p95_px, "px"),
        Line(f"{name} {peer}: CPU, whole process", outcome.cpu_s, "s"),
    ]


def _of_mesh(path: Path, shape: tuple[int, ...]) -> ToMosaic:
    """Return the solution of lattices that say where points of each tile lie."""
    from scipy.interpolate import RegularGridInterpolator

    saved: Any = np.load(path)
    middle = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    placed = [
        RegularGridInterpolator(
            (saved["y"], saved["x"]), tile, method="cubic", bounds_error=False, fill_value=None
        )
        for tile in saved["placed"]
    ]
    return lambda tile, points: np.asarray(placed[tile]((points + middle)[:, ::-1]), np.float64)


def _against_published(name: str, recorded: Recorded, solution: StitchSolution) -> list[Line]:
    """Compare the tiles' centres with those of a published solution, one affine over all taken off."""
    assert recorded.published is not None
    height, width = recorded.images[0].shape
    ours = solution.positions_px
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    theirs = np.array([one[:, :2] @ middle + one[:, 2] for one in recorded.published])
    design = np.column_stack([ours, np.ones(len(ours))])
    fit = np.linalg.lstsq(design, theirs, rcond=None)[0]
    error = design @ fit - theirs
    rms = float(np.sqrt((error**2).sum(1).mean()))
    # all stitchers that were measured agree with the published solution to 0.49 to 0.63 px: its own accuracy
    return [Line(f"{name} montango: against the published solution, rms", rms, "px", 0.63)]
