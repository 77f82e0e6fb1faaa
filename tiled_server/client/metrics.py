"""Numbers of tiles that can be mapped, ranked and summed up: their names, units, and which end is bad."""

from __future__ import annotations

import difflib
from typing import Any

import pandas as pd

from devices.errors import ConfigurationError
from tiled_server.client.tiles import INDEX_NAMES
from tiled_server.index.schema import METRICS, SECOND, SEVERITY, Metric


def find_metric(name: str) -> Metric:
    """Return a metric by its name, in any case, or by a beginning that only one has (``"focus"``).

    Raises
    ------
    ConfigurationError
        There is none, or there are several.
    """
    exact = [one for one in METRICS.values() if one.name.lower() == name.lower()]
    begin = [one for one in METRICS.values() if one.name.lower().startswith(name.lower())]
    found = exact or begin
    if len(found) == 1:
        return found[0]
    if name and found:
        raise ConfigurationError(
            f"{name!r} may be {', '.join(one.name for one in found)}: give the whole name"
        )
    near = difflib.get_close_matches(name, METRICS, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigurationError(f"{name!r} is no number of a tile{hint}; there are {', '.join(METRICS)}")


def find_ranked(name: str) -> Metric:
    """Return a metric of which one end is the bad one.

    Raises
    ------
    ConfigurationError
        There is none of this name, or neither of its ends is bad.
    """
    metric = find_metric(name)
    if not metric.better:
        ranked = ", ".join(one.name for one in METRICS.values() if one.better)
        raise ConfigurationError(
            f"neither a small nor a large {metric.name} is bad by itself; rank by one of {ranked}"
        )
    return metric


def values_of(tiles: pd.DataFrame, metric: Metric) -> pd.Series:
    """Return the column of a table of tiles that a metric is."""
    return tiles[INDEX_NAMES.get(metric.name, metric.name)]


def worst_of(tiles: pd.DataFrame, metric: Metric, n: int) -> pd.DataFrame:
    """Return the n worst tiles of those that count and have a value, the worst first, with ``value``.

    By severity, tiles without a fault come after those with one, by `tiled_server.index.schema.SECOND`.
    """
    if n < 1:
        raise ConfigurationError(f"n = {n} tiles are not 1 or more")
    rows = tiles[tiles["best"]].assign(value=values_of(tiles, metric))
    found = _ranked(rows[rows["value"].notna()], metric)
    if metric.name == SEVERITY and len(found) < n:
        second = METRICS[SECOND]
        others = rows[rows["value"].isna() & values_of(rows, second).notna()]
        found = pd.concat([found, _ranked(others, second)])
    return found.head(n).reset_index(drop=True)


def _ranked(rows: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    order = [INDEX_NAMES.get(metric.name, metric.name), "run_uid", "tile_index"]
    return rows.sort_values(order, ascending=[metric.better == "higher", True, True], kind="stable")


def summed_up(tiles: pd.DataFrame, metric: Metric) -> dict[str, Any]:
    """Return statistics of a metric over the tiles that count; see `tiled_server.client.statistics`."""
    best = tiles[tiles["best"]]
    values = values_of(best, metric).dropna()
    known = len(values) > 0
    faults = pd.Series([kind for text in best["faults"] for kind in text.split(",") if kind], dtype=object)
    return {
        "metric": metric.name,
        "unit": metric.unit,
        "count": len(values),
        "mean": float(values.mean()) if known else None,
        "std": float(values.std(ddof=0)) if known else None,
        "min": float(values.min()) if known else None,
        "p05": float(values.quantile(0.05)) if known else None,
        "median": float(values.median()) if known else None,
        "p95": float(values.quantile(0.95)) if known else None,
        "max": float(values.max()) if known else None,
        "states": {str(key): int(count) for key, count in best["qc_state"].value_counts().items()},
        "faults": {str(key): int(count) for key, count in faults.value_counts().items()},
    }
