"""A preview as a picture: tiles in their order, regions, stage positions and limits, to scale."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from shapely import MultiPolygon

from devices.errors import ConfigurationError
from plans.preview_text import clock

if TYPE_CHECKING:
    from devices.stage.driver import StageLimits
    from plans.preview import Preview
    from plans.specs.grid import Tile

NUMBERED_TILES = 150
"""More tiles than these are not numbered: the numbers would hide the tiles."""
ROI_COLOUR, LIMIT_COLOUR, OUTSIDE_COLOUR = "#d62728", "#444444", "#ff0000"


def draw_preview(preview: Preview, path: Path) -> Path:
    """Draw a preview to a PNG and return its path; the picture is in stage coordinates, y downwards.

    Raises
    ------
    ConfigurationError
        The file cannot be written.
    """
    figure = Figure(figsize=(9, 9), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    _draw_tiles(axes, preview, figure)
    _draw_way(axes, preview.grid.tiles)
    for roi in preview.spec.rois:
        shape = roi.shape()
        for part in shape.geoms if isinstance(shape, MultiPolygon) else (shape,):
            axes.plot(*np.array(part.exterior.coords).T, color=ROI_COLOUR, lw=1.4, zorder=4)
        name_at = shape.representative_point()
        axes.text(name_at.x, name_at.y, roi.name, color=ROI_COLOUR, zorder=5)
    axes.autoscale_view()
    axes.set_aspect("equal")
    axes.margins(0.05)
    if preview.limits is not None:
        _draw_limits(axes, preview.limits)
    axes.invert_yaxis()
    axes.set_xlabel("stage x, um")
    axes.set_ylabel("stage y, um (downwards, as in the images)")
    _draw_scale(axes)
    axes.set_title(
        f"{preview.tiles} tiles, {preview.stations} stage positions, {preview.pixels / 1e6:.4g} million px, "
        f"{preview.size_bytes / 1e9:.3g} GB, {clock(preview.duration.total_s)}",
        fontsize=10,
    )
    try:
        FigureCanvasAgg(figure)
        figure.savefig(path, format="png")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written ({error.strerror})") from None
    return path


def _outside(tile: Tile, limits: StageLimits | None) -> bool:
    if limits is None:
        return False
    (left, right), (low, high) = limits.x_um, limits.y_um
    return not (left <= tile.x_um <= right and low <= tile.y_um <= high)


def _draw_tiles(axes: Axes, preview: Preview, figure: Figure) -> None:
    tiles = preview.grid.tiles
    centres = np.array([(tile.centre_x_um, tile.centre_y_um) for tile in tiles])
    corners = centres[:, np.newaxis] + preview.view.corners(0.0, 0.0)
    shapes = PolyCollection(list(corners), edgecolors="#333333", linewidths=0.6, alpha=0.35, cmap="viridis")
    shapes.set_array(np.arange(len(tiles), dtype=float))
    axes.add_collection(shapes)
    outside = [one for one, tile in zip(corners, tiles, strict=True) if _outside(tile, preview.limits)]
    axes.add_collection(PolyCollection(outside, edgecolors=OUTSIDE_COLOUR, facecolors="none", hatch="xx"))
    figure.colorbar(shapes, ax=axes, shrink=0.6, label="order of acquisition")
    if len(tiles) <= NUMBERED_TILES:
        for tile, (x, y) in zip(tiles, centres, strict=True):
            axes.text(x, y, str(tile.raster_index), fontsize=6, ha="center", va="center", zorder=5)


def _draw_way(axes: Axes, tiles: tuple[Tile, ...]) -> None:
    """Draw the stage's way, and image shifts from each stage position."""
    stops = list(dict.fromkeys((tile.station, tile.x_um, tile.y_um) for tile in tiles))
    x, y = np.array(stops)[:, 1:].T
    axes.plot(x, y, "-", color="black", lw=0.5, alpha=0.6, zorder=3)
    shifted = [tile for tile in tiles if (tile.image_shift_x_um, tile.image_shift_y_um) != (0.0, 0.0)]
    if shifted:
        spokes = [((t.x_um, t.y_um), (t.centre_x_um, t.centre_y_um)) for t in shifted]
        axes.add_collection(LineCollection(spokes, colors="#1f77b4", linewidths=0.6, zorder=3))
    axes.plot(x, y, "+" if shifted else ".", color="black", ms=6 if shifted else 2, zorder=4)
    axes.plot(x[0], y[0], "o", color="black", ms=5, zorder=4)


def _draw_limits(axes: Axes, limits: StageLimits) -> None:
    """Draw the limits of the stage; the picture keeps to the montage."""
    seen = axes.get_xlim(), axes.get_ylim()
    (left, right), (low, high) = limits.x_um, limits.y_um
    axes.add_patch(
        Rectangle((left, low), right - left, high - low, fill=False, ec=LIMIT_COLOUR, ls="--", lw=1.2)
    )
    axes.set_xlim(*seen[0])
    axes.set_ylim(*seen[1])


def _draw_scale(axes: Axes) -> None:
    """Draw a bar of a round length in the lower left corner."""
    left, right = axes.get_xlim()
    low, high = axes.get_ylim()
    decade = 10.0 ** math.floor(math.log10((right - left) / 4))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= (right - left) / 4)
    x, y = left + 0.03 * (right - left), low + 0.03 * (high - low)
    axes.plot([x, x + length], [y, y], color="black", lw=3, solid_capstyle="butt", zorder=6)
    axes.text(
        x + length / 2, y + 0.012 * (high - low), f"{length:g} um", ha="center", va="bottom", fontsize=9
    )
