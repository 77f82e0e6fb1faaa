"""A number of every tile, where the tile lies in its grid."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from devices.errors import ConfigurationError
from tiled_server.client.metrics import values_of
from tiled_server.index.schema import Metric


class Heatmap(Mapping[int, pd.DataFrame]):
    """One number of the tiles that count, as a grid for each region of interest.

    ``heatmap[roi]`` is a table with the rows and columns of the region's grid; NaN where there is no tile or
    the number is not known.

    Parameters
    ----------
    metric, unit
        What is shown.
    regions
        The grids by region.
    title
        Of plots.
    """

    def __init__(self, metric: str, unit: str, regions: Mapping[int, pd.DataFrame], title: str = "") -> None:
        self.metric, self.unit, self.title = metric, unit, title
        self._regions = {roi: regions[roi] for roi in sorted(regions)}

    def __getitem__(self, roi: int) -> pd.DataFrame:
        try:
            return self._regions[roi]
        except KeyError:
            raise ConfigurationError(
                f"there is no region {roi} in this heatmap; there are {list(self._regions)}"
            ) from None

    def __contains__(self, roi: object) -> bool:
        return roi in self._regions

    def __iter__(self) -> Iterator[int]:
        return iter(self._regions)

    def __len__(self) -> int:
        return len(self._regions)

    def to_numpy(self, roi: int = 0) -> npt.NDArray[np.float64]:
        """Return the grid of a region, (row, column) float64 in `unit`; NaN: not known."""
        return self[roi].to_numpy(np.float64)

    def plot(self, roi: int | None = None, *, ax: Any = None, **options: Any) -> Any:
        """Draw one region, or all beside each other, with matplotlib.

        Parameters
        ----------
        roi
            Which; None: all.
        ax
            Axes to draw into, for one region; None makes a figure.
        options
            For `matplotlib.axes.Axes.imshow`, such as ``cmap``, ``vmin`` and ``vmax``.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from tiled_server.client.plots import draw_heatmap

        return draw_heatmap(self, list(self) if roi is None else [roi], ax, options)

    @property
    def label(self) -> str:
        """The number and its unit."""
        return f"{self.metric}, {self.unit}" if self.unit else self.metric

    def __repr__(self) -> str:
        sizes = ", ".join(f"region {roi}: {len(one)} x {len(one.columns)}" for roi, one in self.items())
        return f"<Heatmap of {self.label}; {sizes or 'no tiles'}>"

    def _repr_html_(self) -> str:
        tables = "".join(
            f"<p>region {roi}</p>{grid.to_html(border=0, float_format='{:.3g}'.format, na_rep='')}"
            for roi, grid in self.items()
        )
        return f"<p><b>{html.escape(self.title)}</b> {html.escape(self.label)}</p>{tables}"


def heatmap_of_answer(answer: Mapping[str, Any], title: str) -> Heatmap:
    """Return a heatmap as the server's route gives it."""
    regions = {}
    for region in answer["regions"]:
        values = np.array(
            [[math.nan if value is None else value for value in row] for row in region["values"]], np.float64
        )
        rows, columns = values.shape if values.ndim == 2 else (0, 0)
        regions[int(region["roi"])] = _grid(
            values.reshape(rows, columns), int(region["row0"]), int(region["column0"])
        )
    return Heatmap(str(answer["metric"]), str(answer.get("unit") or ""), regions, title)


def heatmap_of_tiles(tiles: pd.DataFrame, metric: Metric, title: str) -> Heatmap:
    """Return the heatmap of a table of tiles."""
    best = tiles[tiles["best"]]
    regions = {}
    for roi in sorted(best["roi"].unique().tolist()):
        rows = best[best["roi"] == roi]
        row0, column0 = int(rows["row"].min()), int(rows["column"].min())
        shape = int(rows["row"].max()) - row0 + 1, int(rows["column"].max()) - column0 + 1
        values = np.full(shape, np.nan)
        values[rows["row"] - row0, rows["column"] - column0] = values_of(rows, metric)
        regions[roi] = _grid(values, row0, column0)
    return Heatmap(metric.name, metric.unit, regions, title)


def _grid(values: npt.NDArray[np.float64], row0: int, column0: int) -> pd.DataFrame:
    rows, columns = values.shape
    return pd.DataFrame(
        values,
        index=pd.RangeIndex(row0, row0 + rows, name="row"),
        columns=pd.RangeIndex(column0, column0 + columns, name="column"),
    )
