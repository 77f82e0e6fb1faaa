"""A number of tiles where they lie on the stage, over one montage, a session, or all montages."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tiled_server.client.metrics import values_of
from tiled_server.index.maps import Bins
from tiled_server.index.schema import Metric

_Means = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StageMap:
    """Means of a number of tiles in squares of the stage.

    Attributes
    ----------
    metric, unit
        What is shown.
    values
        The means, by y and x of the squares' centres, um; NaN where no tile lies.
    counts
        Of how many tiles, the same way.
    bin_um
        Side of a square, um; NaN without a tile.
    title
        Of plots.
    """

    metric: str
    unit: str
    values: pd.DataFrame
    counts: pd.DataFrame
    bin_um: float
    title: str = ""

    @property
    def label(self) -> str:
        """The number and its unit."""
        return f"{self.metric}, {self.unit}" if self.unit else self.metric

    def plot(self, *, ax: Any = None, **options: Any) -> Any:
        """Draw it with matplotlib; ``options`` go to `matplotlib.axes.Axes.imshow`. Return the figure."""
        from tiled_server.client.plots import draw_stage_map

        return draw_stage_map(self, ax, options)

    def __repr__(self) -> str:
        if not self.counts.size:
            return f"<StageMap of {self.label}; no tiles>"
        rows, columns = self.values.shape
        count = int(self.counts.to_numpy().sum())
        return (
            f"<StageMap of {self.label}; {count} tiles, {rows} x {columns} squares of {self.bin_um:.3g} um>"
        )

    def _repr_html_(self) -> str:
        return f"<p><b>{html.escape(self.title)}</b> {html.escape(repr(self)[1:-1])}</p>"


def map_of_answer(answer: Mapping[str, Any], title: str) -> StageMap:
    """Return a map as the server's route gives it."""
    unit = str(answer.get("unit") or "")
    if answer["bin_um"] is None:
        return _empty(str(answer["metric"]), unit, title)
    values = np.array([[math.nan if one is None else one for one in row] for row in answer["values"]], float)
    bins = Bins(answer["x0_um"], answer["y0_um"], answer["bin_um"], *values.shape)
    return _map(str(answer["metric"]), unit, bins, values, np.array(answer["counts"], np.int64), title)


def map_of_tiles(tiles: pd.DataFrame, metric: Metric, count: int | None, title: str) -> StageMap:
    """Return the map of a table of tiles."""
    rows = pd.DataFrame(
        {
            "x": tiles["centre_x_um"].fillna(tiles["x_um"]),
            "y": tiles["centre_y_um"].fillna(tiles["y_um"]),
            "value": values_of(tiles, metric),
        }
    )[tiles["best"]].dropna()
    if rows.empty:
        return _empty(metric.name, metric.unit, title)
    low, high = (rows[["x", "y"]].agg(how).tolist() for how in ("min", "max"))
    bins = Bins.over((low[0], low[1]), (high[0], high[1]), len(rows), count)
    at = np.floor((rows["y"].to_numpy() - bins.y0_um) / bins.size_um).astype(int)
    along = np.floor((rows["x"].to_numpy() - bins.x0_um) / bins.size_um).astype(int)
    sums, counts = np.zeros((bins.rows, bins.columns)), np.zeros((bins.rows, bins.columns), np.int64)
    np.add.at(sums, (at, along), rows["value"].to_numpy())
    np.add.at(counts, (at, along), 1)
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    return _map(metric.name, metric.unit, bins, means, counts, title)


def _map(
    metric: str, unit: str, bins: Bins, values: _Means, counts: npt.NDArray[np.int64], title: str
) -> StageMap:
    y = pd.Index(bins.y0_um + (np.arange(bins.rows) + 0.5) * bins.size_um, name="y_um")
    x = pd.Index(bins.x0_um + (np.arange(bins.columns) + 0.5) * bins.size_um, name="x_um")
    return StageMap(metric, unit, pd.DataFrame(values, y, x), pd.DataFrame(counts, y, x), bins.size_um, title)


def _empty(metric: str, unit: str, title: str) -> StageMap:
    return StageMap(metric, unit, pd.DataFrame(), pd.DataFrame(), math.nan, title)
