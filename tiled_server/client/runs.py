"""The runs of a montage, and what a run recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pandas as pd

from devices.errors import ConfigurationError
from devices.tiles import TILE_COLUMNS

PROCESSING: Final = "processing"
TILES: Final = "tiles"
RECORDED: Final = tuple(column.name for column in TILE_COLUMNS)
_CONNECTIONS: Final = 8
_EVENTS: Final = "internal"
"""Where Tiled keeps the scalars of a stream's events: one table."""
_VERDICT_COLUMNS: Final = (
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
    runs = all_runs(client, montage_id)
    if purpose is None:
        wanted = [run for run in runs if start_of(run).get("purpose") != PROCESSING]
    else:
        wanted = [run for run in runs if start_of(run).get("purpose") == purpose]
    if not wanted:
        raise ConfigurationError(
            f"the catalog has no run of montage_id = {montage_id!r} ({purpose or 'acquisition'}); look for "
            f'it with client.search(Key("start.sample") == ...), or complete it: montango journal replay'
        )
    return wanted


def all_runs(client: Any, montage_id: str) -> list[Any]:
    """Return every run that names a montage, results too, oldest first."""
    from tiled.queries import Key

    found = client.search(Key("start.montage_id") == montage_id)
    return sorted(found.values(), key=lambda run: float(start_of(run)["time"]))


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
    table = recorded(run)
    verdicts = newest_verdicts(run)
    if verdicts is None:
        return table.assign(qc_state="pending")
    joined = table.join(verdicts[[name for name in _VERDICT_COLUMNS if name in verdicts]])
    return joined.assign(qc_state=joined["qc_state"].fillna("pending"))


def recorded(run: Any, names: Iterable[str] = RECORDED) -> pd.DataFrame:
    """Return what was recorded of each tile of a run: `devices.tiles.TILE_COLUMNS`, by ``tile_index``.

    Raises
    ------
    ConfigurationError
        The run has no tiles.
    """
    parts = stream_parts(run, TILES)
    if parts is None:
        start = start_of(run)
        raise ConfigurationError(
            f"run {start.get('uid')} has no stream of tiles: it is a {start.get('plan_name')}; "
            f"give a run of a montage"
        )
    wanted = set(names)
    arrays = {name: node for name, node in parts.items() if name in wanted}
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        read = dict(zip(arrays, pool.map(lambda node: node.read(), arrays.values()), strict=True))
    # the columns of a run that goes on are not of one moment
    count = min((len(values) for values in read.values()), default=0)
    table = pd.DataFrame({name: read[name][:count].reshape(count) for name in RECORDED if name in read})
    table.index.name = "tile_index"
    return table


def newest_verdicts(run: Any) -> pd.DataFrame | None:
    """Return the newest event of stream ``qc`` of each tile, by ``tile_index``; None without any verdict."""
    events = read_events(run, "qc")
    if events.empty:
        return None
    return events.drop_duplicates("tile_index", keep="last").set_index("tile_index")


def read_events(run: Any, stream: str) -> pd.DataFrame:
    """Return the scalars of a stream's events, one row an event, with ``time`` in unix s; empty without."""
    parts = stream_parts(run, stream)
    if parts is None or _EVENTS not in parts:
        return pd.DataFrame()
    table: pd.DataFrame = parts[_EVENTS].read()
    kept = [name for name in table.columns if name != "seq_num" and not name.startswith("ts_")]
    return table.sort_values("seq_num", kind="stable")[kept].reset_index(drop=True)


def stream_parts(run: Any, stream: str) -> dict[str, Any] | None:
    """Return the arrays and the table of a stream by name, in two requests; None: the run has no such stream.

    To look them up one by one, as ``run[stream][name]`` does, takes three to five requests each.
    """
    found = dict(_contents(run).items()).get(stream)
    return None if found is None else dict(_contents(found).items())


def has_stream(run: Any, stream: str) -> bool:
    """Return whether a run has a stream."""
    return stream in list(_contents(run))


def _contents(node: Any) -> Any:
    """Return the node as the container that it is: clients of runs and streams add to it."""
    return getattr(node, "base", node)


def start_of(run: Any) -> Mapping[str, Any]:
    """Return the start document of a run."""
    start: Mapping[str, Any] = run.metadata["start"]
    return start


def stop_of(run: Any) -> Mapping[str, Any] | None:
    """Return the stop document of a run, None while it goes on."""
    stop: Mapping[str, Any] | None = run.metadata.get("stop")
    return stop


def uid_of(run: Any) -> str:
    """Return the uid of a run."""
    return str(start_of(run)["uid"])
