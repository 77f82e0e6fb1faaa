"""The table of tiles of a montage: one row a place and attempt, over all of its runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from tiled_server.client.runs import RECORDED, read_events, recorded, uid_of
from tiled_server.index.rows import fault_kinds
from tiled_server.index.schema import SCORES

KEY: Final = ["run_uid", "tile_index"]
PLACE: Final = ["roi", "row", "column"]
SCORE_NAMES: Final = tuple(one.name for one in SCORES)
_SOLVED: Final = {
    "position_x_um": "solved_x_um",
    "position_y_um": "solved_y_um",
    "residual_px": "residual_px",
}
COLUMNS: Final = (
    *PLACE,
    "attempt",
    "best",
    "status",
    "qc_state",
    "transfer_state",
    "decision",
    "faults",
    "severity",
    "time",
    *(name for name in RECORDED if name not in (*PLACE, "attempt")),
    *_SOLVED.values(),
    *SCORE_NAMES,
    *KEY,
)
"""The columns of `Montage.tiles`, in order."""
_VERDICT: Final = {
    "tile_roi": "roi",
    "tile_row": "row",
    "tile_column": "column",
    "tile_attempt": "attempt",
    "tile_x_um": "centre_x_um",
    "tile_y_um": "centre_y_um",
}
"""What a verdict says of a tile, for where it was not recorded."""
_WHOLE: Final = (*PLACE, "attempt", "raster_index", "tile_index")
_TEXTS: Final = {
    "status": "acquired",
    "qc_state": "pending",
    "transfer_state": "unknown",
    "decision": "",
    "faults": "",
    "run_uid": "",
}
"""Columns of text, and what stands in them where nothing is known."""
INDEX_NAMES: Final = {"dose_e_per_A2": "dose_e_per_a2"}
"""Columns that the server's index calls otherwise, and what they are here and in the file."""
_KEPT: Final = ("pass", "needs_review")


def read_tiles(runs: Sequence[Any], mosaics: Sequence[Any]) -> pd.DataFrame:
    """Return the tiles of runs as these recorded and judged them.

    Parameters
    ----------
    runs
        The runs of a montage that have tiles, oldest first.
    mosaics
        The runs of its mosaics, oldest first; of a tile that several have placed the newest counts.
    """
    if not runs:
        return arranged(pd.DataFrame({name: [] for name in (*KEY, *RECORDED)}))
    table = pd.concat([recorded(run).reset_index().assign(run_uid=uid_of(run)) for run in runs])
    verdicts = read_verdicts(runs)
    if not verdicts.empty:
        table = _judged(table, verdicts.drop_duplicates(KEY, keep="last"))
    solved = [events for run in mosaics if not (events := read_events(run, "alignment")).empty]
    if solved:
        places = pd.concat(solved).rename(columns={"tile_run": "run_uid", **_SOLVED})
        places = places.drop_duplicates(KEY, keep="last")[[*KEY, *_SOLVED.values()]]
        table = table.merge(places, on=KEY, how="left")
    return arranged(table)


def read_verdicts(runs: Sequence[Any]) -> pd.DataFrame:
    """Return every verdict of runs, oldest first, with ``run_uid`` and ``tile_index`` of its frame."""
    found = []
    for run in runs:
        events = read_events(run, "qc")
        if events.empty:
            continue
        events["run_uid"] = uid_of(run)
        if "tile_run" in events:  # on a frame of an earlier run
            named = events["tile_run"].fillna("").astype(str)
            events["run_uid"] = events["run_uid"].where(named == "", named)
        found.append(events)
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def join_recorded(indexed: pd.DataFrame, runs: Sequence[Any]) -> pd.DataFrame:
    """Return the rows of the server's index with what else their runs recorded."""
    lacking = [name for name in RECORDED if name not in indexed.rename(columns=INDEX_NAMES)]
    tables = [recorded(run, lacking).reset_index().assign(run_uid=uid_of(run)) for run in runs]
    more = pd.concat(tables) if tables else pd.DataFrame(columns=KEY)
    return arranged(indexed.merge(more, on=KEY, how="left"))


def arranged(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with all `COLUMNS`, in order and of their types, sorted by place and attempt."""
    table = table.rename(columns=INDEX_NAMES)
    table = table.reindex(columns=list(dict.fromkeys((*COLUMNS, *table.columns))))
    for name, unknown in _TEXTS.items():
        table[name] = table[name].astype(object).where(table[name].notna(), unknown).astype(str)
    for name in COLUMNS:
        if name not in _TEXTS and name != "time":
            table[name] = pd.to_numeric(table[name].astype(object)).astype(np.float64)
    table["roi"] = table["roi"].fillna(0).clip(lower=0)
    table = table[(table["row"] >= 0) & (table["column"] >= 0)]
    if table["exposure_start_s"].notna().any():
        table["time"] = table["exposure_start_s"]
    table["time"] = pd.to_datetime(table["time"].astype(np.float64), unit="s", utc=True)
    table = table.sort_values([*PLACE, "attempt", "time", "run_uid", "tile_index"], kind="stable")
    for name in _WHOLE:
        table[name] = table[name].fillna(-1).astype(np.int64)
    table = table.reset_index(drop=True)
    table["best"] = _best(table)
    return table[list(COLUMNS)]


def count_states(tiles: pd.DataFrame) -> dict[str, int]:
    """Return how many places have a frame, and how many of which state; frames in all as ``exposures``."""
    states = tiles.loc[tiles["best"], "qc_state"].value_counts()
    names = {"passed": "pass", "failed": "fail", "needs_review": "needs_review", "pending": "pending"}
    counts = {name: int(states.get(state, 0)) for name, state in names.items()}
    return {"acquired": int(tiles["best"].sum()), **counts, "exposures": len(tiles)}


def _judged(table: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return tiles with their newest verdicts."""
    faults = verdicts["faults"] if "faults" in verdicts else pd.Series("", verdicts.index)
    found = [fault_kinds(text) for text in faults]
    verdicts = verdicts.assign(
        faults=[",".join(kinds) for kinds, _ in found],
        severity=[math.nan if severity is None else severity for _, severity in found],
        status=["failed" if "unreadable" in kinds else "acquired" for kinds, _ in found],
    ).rename(columns={"qc_decision": "decision"})
    names = ("qc_state", "decision", "faults", "severity", "status", *SCORE_NAMES, *_VERDICT)
    table = table.merge(verdicts[[*KEY, *(name for name in names if name in verdicts)]], on=KEY, how="left")
    for said, name in _VERDICT.items():
        if said in table:
            table[name] = table[name].fillna(table[said])
    return table


def _best(table: pd.DataFrame) -> pd.Series:
    """Return which attempt of each place counts: the newest that was kept, else the newest."""
    rank = table[PLACE].assign(kept=table["qc_state"].isin(_KEPT), order=np.arange(len(table)))
    last = rank.sort_values(["kept", "order"]).drop_duplicates(PLACE, keep="last").index
    return pd.Series(rank.index.isin(last), index=table.index)
