"""Pictures of montages with matplotlib, which is imported only here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.transforms import Affine2D

from tiled_server.client.pictures import Picture, eight_bit

if TYPE_CHECKING:
    from tiled_server.client.heatmaps import Heatmap
    from tiled_server.client.stage_maps import StageMap


def draw_picture(
    picture: Picture, title: str, ax: Any = None, options: Mapping[str, Any] | None = None
) -> Any:
    """Draw an image where it lies on the stage, axes in um; return the figure."""
    figure, ax = _axes(ax, (8.0, 6.5))
    height, width = picture.pixels.shape
    (a, c), (b, d) = picture.um_per_px
    to_stage = Affine2D.from_values(a, b, c, d, *picture.origin_um)
    ax.imshow(
        np.ma.masked_equal(eight_bit(picture.pixels), 0),
        transform=to_stage + ax.transData,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        **{"cmap": "gray", "vmin": 0, "vmax": 255, **(options or {})},
    )
    corners = to_stage.transform([(x, y) for x in (-0.5, width - 0.5) for y in (-0.5, height - 0.5)])
    (left, low), (right, high) = corners.min(axis=0), corners.max(axis=0)
    # the image stands upright, as its rows do in a heatmap: an axis of the stage may point down or left
    ax.set(xlim=(right, left) if a < 0 else (left, right), ylim=(high, low) if d > 0 else (low, high))
    ax.set(aspect="equal", xlabel="stage x, um", ylabel="stage y, um", title=title)
    return figure


def draw_heatmap(heatmap: Heatmap, rois: Sequence[int], ax: Any, options: Mapping[str, Any]) -> Any:
    """Draw regions of a heatmap; return the figure."""
    if ax is None:
        figure, made = plt.subplots(
            1, max(1, len(rois)), figsize=(6.0 * max(1, len(rois)), 4.8), squeeze=False, layout="constrained"
        )
        panels = list(made[0])
    else:
        figure, panels = ax.figure, [ax]
    for panel, roi in zip(panels, rois, strict=False):
        grid = heatmap[roi]
        rows, columns = grid.index.to_numpy(int), grid.columns.to_numpy(int)
        extent = (columns[0] - 0.5, columns[-1] + 0.5, rows[-1] + 0.5, rows[0] - 0.5)
        cmap = plt.get_cmap(options.get("cmap", "viridis")).with_extremes(bad="0.85")
        shown = panel.imshow(
            np.ma.masked_invalid(grid.to_numpy()), extent=extent, **{**options, "cmap": cmap}
        )
        figure.colorbar(shown, ax=panel, label=heatmap.label)
        title = heatmap.title if len(heatmap) == 1 else f"{heatmap.title} region {roi}"
        panel.set(xlabel="column", ylabel="row", title=title)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.yaxis.get_major_locator().set_params(integer=True)
    return figure


def draw_stage_map(stage_map: StageMap, ax: Any, options: Mapping[str, Any]) -> Any:
    """Draw means on the stage, axes in um, y down as in a heatmap; return the figure."""
    figure, ax = _axes(ax, (7.0, 5.5))
    ax.set(aspect="equal", xlabel="stage x, um", ylabel="stage y, um", title=stage_map.title)
    if not stage_map.values.size:
        return figure
    half = stage_map.bin_um / 2
    x, y = stage_map.values.columns.to_numpy(float), stage_map.values.index.to_numpy(float)
    extent = (x[0] - half, x[-1] + half, y[-1] + half, y[0] - half)
    cmap = plt.get_cmap(options.get("cmap", "viridis")).with_extremes(bad="0.85")
    values = np.ma.masked_invalid(stage_map.values.to_numpy())
    shown = ax.imshow(values, extent=extent, **{**options, "cmap": cmap})
    figure.colorbar(shown, ax=ax, label=stage_map.label)
    return figure


def draw_tiles(frames: Sequence[Any], titles: Sequence[str], title: str) -> Any:
    """Draw frames beside each other, each with what is said of it; return the figure."""
    across = min(4, max(1, len(frames)))
    down = max(1, -(-len(frames) // across))
    figure, panels = plt.subplots(
        down, across, figsize=(3.0 * across, 3.3 * down), squeeze=False, layout="constrained"
    )
    for panel in panels.flat:
        panel.set_axis_off()
    for panel, frame, text in zip(panels.flat, frames, titles, strict=False):
        panel.imshow(eight_bit(frame, 512), cmap="gray", vmin=0, vmax=255)
        panel.set_title(text, fontsize="small")
    figure.suptitle(title)
    return figure


def _axes(ax: Any, size: tuple[float, float]) -> tuple[Any, Any]:
    if ax is not None:
        return ax.figure, ax
    return plt.subplots(figsize=size, layout="constrained")
