"""Worst tiles, statistics and stage maps of a number, over one montage, a session, or all montages."""

from __future__ import annotations

from typing import Any

import pandas as pd

from devices.errors import ConfigurationError
from tiled_server.client._montage import Montage
from tiled_server.client.metrics import find_metric, find_ranked, summed_up, worst_of
from tiled_server.client.routes import Routes
from tiled_server.client.search import montages
from tiled_server.client.stage_maps import StageMap, map_of_answer, map_of_tiles
from tiled_server.client.tiles import INDEX_NAMES, read_tiles
from tiled_server.index.maps import MOST_BINS
from tiled_server.index.schema import METRICS


def worst(
    client: Any,
    *,
    montage: str | Montage | None = None,
    session: str | None = None,
    sample: str | None = None,
    by: str = "severity",
    n: int = 20,
) -> pd.DataFrame:
    """Return the worst tiles of those that count, the worst first.

    Parameters
    ----------
    client
        A Tiled client of the catalog.
    montage, session, sample
        Look at one montage, or at a session (``data_session``), a sample, or a sample in a session; ``*`` in
        a name stands for anything. None of them: at all montages.
    by
        What they are ranked by: ``severity`` of their faults, or a number with a bad end (``sharpness``). By
        severity, tiles without a fault follow: those with the lowest focus score first, without a value.
    n
        How many, 1 to 1000.

    Returns
    -------
    pandas.DataFrame
        ``montage_id``, ``value``, and what is known of each tile: place, attempt, state, faults, positions,
        scores.

    Raises
    ------
    ConfigurationError
        There is no such number, neither of its ends is bad, or a montage and more are named.
    """
    metric = find_ranked(by)
    if not 1 <= n <= 1000:
        raise ConfigurationError(f"n = {n} tiles are not 1 to 1000")
    scope = _scope(montage, session, sample)
    routes = Routes(client)
    if routes.there:
        answer = routes.json("worst", **scope, by=metric.name, n=n)
        table = pd.DataFrame(answer["tiles"])
        table = table.astype({name: float for name in table if name == "value" or name in METRICS})
        table = table.rename(columns=INDEX_NAMES)
        if "time" in table:
            table["time"] = pd.to_datetime(table["time"].astype(float), unit="s", utc=True)
            table["faults"] = table["faults"].fillna("")
        return table
    return worst_of(_tiles(client, scope), metric, n)


def statistics(
    client: Any,
    *,
    montage: str | Montage | None = None,
    session: str | None = None,
    sample: str | None = None,
    metric: str = "focus_score",
) -> dict[str, Any]:
    """Return how a number is distributed over the tiles that count.

    Parameters
    ----------
    client
        A Tiled client of the catalog.
    montage, session, sample
        Look at one montage, or at a session (``data_session``), a sample, or a sample in a session; ``*`` in
        a name stands for anything. None of them: at all montages.
    metric
        The number.

    Returns
    -------
    dict
        ``count`` of the tiles that have it, ``mean``, ``std`` (divided by the count), ``min``, ``p05``,
        ``median``, ``p95``, ``max`` (None without any); ``states`` and ``faults``: how many tiles of each.

    Raises
    ------
    ConfigurationError
        There is no such number, or a montage and more are named.
    """
    one = find_metric(metric)
    scope = _scope(montage, session, sample)
    routes = Routes(client)
    if routes.there:
        return dict(routes.json("statistics", **scope, metric=one.name))
    return summed_up(_tiles(client, scope), one)


def stage_map(
    client: Any,
    *,
    montage: str | Montage | None = None,
    session: str | None = None,
    sample: str | None = None,
    metric: str = "focus_score",
    bins: int | None = None,
) -> StageMap:
    """Return the mean of a number of the tiles that count, in squares of the stage.

    Parameters
    ----------
    client
        A Tiled client of the catalog.
    montage, session, sample
        Look at one montage, or at a session (``data_session``), a sample, or a sample in a session; ``*`` in
        a name stands for anything. None of them: at all montages.
    metric
        The number.
    bins
        Squares along the longer side of what the tiles cover, 1 to 500; None: so few that the tiles of a grid
        leave no gaps, at most 64.

    Raises
    ------
    ConfigurationError
        There is no such number, a montage and more are named, or ``bins`` is out of range.
    """
    one = find_metric(metric)
    if bins is not None and not 1 <= bins <= MOST_BINS:
        raise ConfigurationError(f"bins = {bins} are not 1 to {MOST_BINS}")
    scope = _scope(montage, session, sample)
    title = ", ".join(filter(None, scope.values())) or "all montages"
    routes = Routes(client)
    if routes.there:
        return map_of_answer(routes.json("heatmap", **scope, metric=one.name, bins=bins), title)
    return map_of_tiles(_tiles(client, scope), one, bins, title)


def _scope(montage: str | Montage | None, session: str | None, sample: str | None) -> dict[str, str | None]:
    for other, value in (("session", session), ("sample", sample)):
        if montage is not None and value is not None:
            raise ConfigurationError(f"montage and {other} are both given; give one of them")
    name = montage.montage_id if isinstance(montage, Montage) else montage
    return {"montage": name, "session": session, "sample": sample}


def _tiles(client: Any, scope: dict[str, str | None]) -> pd.DataFrame:
    """Return the tiles of a scope from a server that has no index."""
    name, session, sample = scope["montage"], scope["session"], scope["sample"]
    wanted = [Montage.named(client, name)] if name else montages(client, session=session, sample=sample)
    tables = [one.tiles.assign(montage_id=one.montage_id) for one in wanted]
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else read_tiles([], [])
