"""What there is to see of how well a montage was stitched: one HTML page with its pictures in it."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from processing.mosaic.pyramid import PyramidStore
from processing.stitching.offline import Stitched, overview, stretched
from processing.stitching.solution import EdgeRecord, StitchSolution
from processing.stitching.tables import residuals

_SEAMS: Final = 6
_SEAM_PX: Final = 400
_GRID: Final = 15
_STYLE: Final = (
    "body{font-family:sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}"
    "img{max-width:100%}table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:left;"
    "border-bottom:1px solid #ccc}.bad{color:#a00}"
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of the report: title, what it shows, PNG."""

    title: str
    text: str
    png: bytes


def write_report(stitched: Stitched, folder: Path, mosaic: Path | None = None) -> list[Path]:
    """Write ``report.html`` and its pictures as PNG; return their paths.

    Parameters
    ----------
    stitched
        What was stitched.
    folder
        Where to.
    mosaic
        The mosaic, for seams at full resolution; None: none was drawn.

    Raises
    ------
    OSError
        A file cannot be written.
    """
    made = []
    pictures = list(_pictures(stitched, mosaic))
    for one in pictures:
        path = folder / f"report-{one.title.lower().replace(' ', '-')}.png"
        path.write_bytes(one.png)
        made.append(path)
    page = folder / "report.html"
    page.write_text(_page(stitched, pictures))
    return [page, *made]


def summary(stitched: Stitched) -> list[tuple[str, str]]:
    """Return what matters, (name, value)."""
    solution = stitched.solution
    accepted = [edge for edge in solution.edges if edge.accepted]
    left = [edge.residual_px for edge in accepted]
    field = {
        "given": "given",
        "calibrated": "from this montage's overlaps",
        "outdated": "from this montage's overlaps, which contradict the one given: calibrate anew",
        "none": "none",
    }
    lines = [
        ("tiles", f"{len(solution.tiles)}, {int(solution.matched.sum())} of them matched"),
        ("pairs", f"{len(solution.edges)} tried, {len(accepted)} accepted"),
        ("left out", str(len(stitched.faults))),
        ("error of the stage", f"{solution.stage_sigma_px:.3g} px between neighbours, a coordinate"),
        ("distortion", f"{field.get(solution.field_origin, solution.field_origin)}, degree "
                       f"{solution.field.degree}, up to {solution.field.largest_px:.3g} px"),
        ("residual of the pairs", _quantiles(left)),
        ("residual of the blocks", _pair(solution.residual_median_px, solution.residual_p95_px)),
        ("residual of blocks held out",
         _pair(solution.holdout_median_px, solution.holdout_p95_px)),
    ]  # fmt: skip
    if solution.field_change_px is not None:
        rms, most = solution.field_change_px
        lines.append(("distortion against the one given", f"rms {rms:.3g}, largest {most:.3g} px"))
    return lines


def _quantiles(values: list[float]) -> str:
    if not values:
        return "none"
    return _pair(float(np.percentile(values, 50)), float(np.percentile(values, 95)))


def _pair(median: float, p95: float) -> str:
    return f"{median:.3g} / {p95:.3g} px, median and 95 %" if math.isfinite(median) else "none"


def _pictures(stitched: Stitched, mosaic: Path | None) -> Iterator[Picture]:
    solution = stitched.solution
    if mosaic is not None:
        figure = Figure((10, 8), layout="constrained")
        axes = figure.subplots()
        axes.imshow(overview(mosaic), cmap="gray", vmin=0, vmax=255)
        axes.axis("off")
        yield Picture("Mosaic", "The whole, reduced.", _png(figure))
    yield Picture(
        "Match graph",
        "Pairs of tiles: accepted in blue, darker for a higher correlation; refused in red. Tiles that only "
        "the stage places are red.",
        _png(_graph(solution)),
    )
    yield Picture(
        "Residual map",
        "What is left at each pair (colour) and where each tile lies against the stage (arrows, enlarged).",
        _png(_residual_map(solution)),
    )
    if solution.field.degree > 1:
        yield Picture(
            "Distortion",
            "Displacement that all tiles share, enlarged; colour in px. Blocks held out of its fit are "
            f"off by {solution.holdout_median_px:.3g} px, {solution.holdout_p95_px:.3g} px at 95 %.",
            _png(_distortion(solution)),
        )
    seams = _seams(solution)
    if mosaic is not None and seams:
        yield Picture(
            "Seams",
            "The mosaic at full resolution where tiles meet: the largest residuals first, then others.",
            _png(_seam_crops(solution, mosaic, seams)),
        )


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    return data.getvalue()


def _outline(axes: Axes, solution: StitchSolution) -> None:
    width, height = solution.size_px
    boxes, colours = [], []
    for tile in solution.tiles:
        (x, y), (w, h) = tile.position_px, (width / 2, height / 2)
        boxes.append([(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h), (x - w, y - h)])
        colours.append("0.6" if tile.matched else "tab:red")
    axes.add_collection(LineCollection(boxes, colors=colours, linewidths=1))
    axes.set_aspect("equal")
    axes.autoscale()
    axes.invert_yaxis()
    axes.set(xlabel="x, px", ylabel="y, px")


def _lines(solution: StitchSolution, edges: list[EdgeRecord]) -> list[list[tuple[float, float]]]:
    at = {tile.key: tile.position_px for tile in solution.tiles}
    return [[at[edge.first], at[edge.second]] for edge in edges]


def _graph(solution: StitchSolution) -> Figure:
    figure = Figure((9, 7), layout="constrained")
    axes = figure.subplots()
    good = [edge for edge in solution.edges if edge.accepted]
    bad = [edge for edge in solution.edges if not edge.accepted]
    drawn = axes.add_collection(LineCollection(_lines(solution, good), cmap="Blues", linewidths=3))
    drawn.set_array(np.array([edge.ncc for edge in good]))
    drawn.set_clim(0, 1)
    axes.add_collection(LineCollection(_lines(solution, bad), colors="tab:red", linestyles="--"))
    figure.colorbar(drawn, label="correlation of the overlap")
    _outline(axes, solution)
    return figure


def _residual_map(solution: StitchSolution) -> Figure:
    figure = Figure((9, 7), layout="constrained")
    axes = figure.subplots()
    good = [edge for edge in solution.edges if edge.accepted]
    drawn = axes.add_collection(LineCollection(_lines(solution, good), cmap="viridis", linewidths=4))
    drawn.set_array(np.array([edge.residual_px for edge in good]))
    figure.colorbar(drawn, label="residual of the pair, px")
    if solution.tiles:
        affine = np.array(solution.stage_affine)
        nominal = np.array([tile.nominal_px for tile in solution.tiles])
        at = solution.positions_px
        away = at - (nominal @ affine[:, :2].T + affine[:, 2])
        most = float(np.hypot(*away.T).max())
        if most > 0:
            arrows = axes.quiver(*at.T, *away.T, angles="xy", width=0.003, color="tab:orange")
            axes.quiverkey(arrows, 0.9, 1.03, most, f"stage off by {most:.3g} px")
    _outline(axes, solution)
    return figure


def _distortion(solution: StitchSolution) -> Figure:
    figure = Figure((9, 7), layout="constrained")
    axes = figure.subplots()
    width, height = solution.size_px
    fine = np.stack(
        np.meshgrid(np.linspace(-0.5, 0.5, 101) * width, np.linspace(-0.5, 0.5, 101) * height), -1
    )
    size = np.hypot(*np.moveaxis(solution.field.displacement_px(fine), -1, 0))
    extent = (-width / 2, width / 2, height / 2, -height / 2)
    drawn = axes.imshow(size, cmap="magma", extent=extent, interpolation="bilinear")
    figure.colorbar(drawn, label="displacement, px")
    x, y = (np.linspace(-0.48, 0.48, _GRID) * side for side in (width, height))
    points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    axes.quiver(*points.T, *solution.field.displacement_px(points).T, angles="xy", color="white")
    axes.set(xlabel="x from the tile's centre, px", ylabel="y, px")
    return figure


def _seams(solution: StitchSolution) -> list[EdgeRecord]:
    """Return the pairs with the largest residuals, and some of the rest."""
    good = sorted((edge for edge in solution.edges if edge.accepted), key=lambda edge: -edge.residual_px)
    worst, rest = good[: _SEAMS // 2], good[_SEAMS // 2 :]
    step = max(1, len(rest) // (_SEAMS - _SEAMS // 2))
    return worst + rest[::step][: _SEAMS - len(worst)]


def _seam_crops(solution: StitchSolution, mosaic: Path, seams: list[EdgeRecord]) -> Figure:
    columns = min(3, len(seams))
    rows = math.ceil(len(seams) / columns)
    figure = Figure((4.2 * columns, 4.5 * rows), layout="constrained")
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    every: list[Axes] = list(grid.flat)
    for axes in every:
        axes.axis("off")
    with PyramidStore.open(mosaic) as store:
        for axes, edge in zip(every, seams, strict=False):
            axes.imshow(_crop(store, solution, edge), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            names = " - ".join(f"r{row} c{column}" for _, row, column in (edge.first, edge.second))
            axes.set_title(f"{names}: {edge.residual_px:.2f} px")
    return figure


def _crop(store: PyramidStore, solution: StitchSolution, edge: EdgeRecord) -> npt.NDArray[np.uint8]:
    middle = np.mean([solution.tile(key).position_px for key in (edge.first, edge.second)], 0)
    area = store.area
    x, y = (round(float(value)) - _SEAM_PX // 2 for value in (middle[0], middle[1]))
    x0, y0 = max(0, x - area.x0), max(0, y - area.y0)
    x1, y1 = min(area.x1 - area.x0, x0 + _SEAM_PX), min(area.y1 - area.y0, y0 + _SEAM_PX)
    return stretched(store.read(0, y0, x0, max(y1, y0), max(x1, x0)))


def _page(stitched: Stitched, pictures: list[Picture]) -> str:
    name = html.escape(stitched.tiles.name)
    rows = "".join(
        f"<tr><th>{html.escape(one)}</th><td>{html.escape(value)}</td></tr>"
        for one, value in summary(stitched)
    )
    shown = "".join(
        f'<h2>{one.title}</h2><p>{html.escape(one.text)}</p><img alt="{one.title}" '
        f'src="data:image/png;base64,{base64.b64encode(one.png).decode()}">'
        for one in pictures
    )
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{name}</h1><table>{rows}</table>"
        f"{_doubtful(stitched)}{shown}<h2>Tiles</h2>{_tiles(stitched)}</body></html>\n"
    )


def _doubtful(stitched: Stitched) -> str:
    names = stitched.names
    lines = [(names[tile.key], tile.reason) for tile in stitched.solution.tiles if tile.reason]
    lines += list(stitched.tiles.left_out)
    if not lines:
        return "<p>Every tile is placed by its neighbours.</p>"
    items = "".join(f"<li>{html.escape(name)}: {html.escape(reason)}</li>" for name, reason in lines)
    return f'<h2>To look at</h2><ul class="bad">{items}</ul>'


def _tiles(stitched: Stitched) -> str:
    left, names = residuals(stitched.solution), stitched.names
    rows = "".join(
        f"<tr><td>{html.escape(names[tile.key])}</td><td>{tile.key[1]}</td><td>{tile.key[2]}</td>"
        f"<td>{tile.position_px[0]:.2f}</td><td>{tile.position_px[1]:.2f}</td><td>{left[tile.key]:.3g}</td></tr>"
        for tile in stitched.solution.tiles
    )
    heads = "".join(f"<th>{one}</th>" for one in ("tile", "row", "column", "x, px", "y, px", "residual, px"))
    return f"<table><tr>{heads}</tr>{rows}</table>"
