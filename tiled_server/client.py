"""Small helpers over a plain Tiled client: find a montage, read its tiles as a table.

Examples
--------
>>> from tiled.client import from_uri
>>> client = from_uri("http://127.0.0.1:8000", api_key="...")  # doctest: +SKIP
>>> runs = find_montage(client, "m20261121-0a1b2c")  # doctest: +SKIP
>>> table = tile_table(runs[-1])  # doctest: +SKIP
>>> table[table.qc_state == "fail"]  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from devices.errors import ConfigurationError
from devices.tiles import TILE_COLUMNS

_VERDICT_COLUMNS = (
    "qc_state",
    "faults",
    "mean_counts",
    "std_counts",
    "saturated_fraction",
    "dark_fraction",
    "sharpness",
    "focus_score",
)


def find_montage(client: Any, montage_id: str, *, purpose: str | None = None) -> list[Any]:
    """Return the runs of a montage, oldest first.

    Parameters
    ----------
    client
        A Tiled client of the catalog.
    montage_id
        As in the start documents; a montage that was resumed has several runs.
    purpose
        Only runs of this purpose: ``"processing"`` for the overview and other results. None for the runs
        that acquired tiles.

    Raises
    ------
    ConfigurationError
        The catalog has no such run.
    """
    from tiled.queries import Key

    found = client.search(Key("start.montage_id") == montage_id)
    runs = sorted(found.values(), key=lambda run: float(run.metadata["start"]["time"]))
    if purpose is None:
        wanted = [run for run in runs if run.metadata["start"].get("purpose") != "processing"]
    else:
        wanted = [run for run in runs if run.metadata["start"].get("purpose") == purpose]
    if not wanted:
        raise ConfigurationError(
            f"the catalog has no run of montage_id = {montage_id!r} ({purpose or 'acquisition'}); look for "
            f'it with client.search(Key("start.sample") == ...), or complete it: montango journal replay'
        )
    return wanted


def tile_table(run: Any) -> pd.DataFrame:
    """Return one row a tile: what was recorded of it, and its newest verdict.

    Columns are those of `devices.tiles.TILE_COLUMNS` and, for tiles that were judged, the fields of the
    ``qc`` stream; the index is ``tile_index``, the place in ``run["tiles"]["image"]``. A tile that was not
    judged has ``qc_state`` ``"pending"``.

    Raises
    ------
    ConfigurationError
        The run has no tiles.
    """
    if "tiles" not in run:
        raise ConfigurationError(
            f"run {_start(run).get('uid')} has no stream of tiles: it is a {_start(run).get('plan_name')}; "
            f"give a run of a montage"
        )
    tiles = run["tiles"]
    names = [column.name for column in TILE_COLUMNS if column.name in tiles]
    table = pd.DataFrame({name: tiles[name].read() for name in names})
    table.index.name = "tile_index"
    if "qc" not in run:
        return table.assign(qc_state="pending")
    events = run["qc"].read()
    verdicts = pd.DataFrame(
        {name: events[name].values for name in ("tile_index", *_VERDICT_COLUMNS) if name in events}
    )
    newest = verdicts.drop_duplicates("tile_index", keep="last").set_index("tile_index")
    joined = table.join(newest)
    return joined.assign(qc_state=joined["qc_state"].fillna("pending"))


def _start(run: Any) -> Mapping[str, Any]:
    start: Mapping[str, Any] = run.metadata["start"]
    return start
