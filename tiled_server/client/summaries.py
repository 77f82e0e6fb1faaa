"""Montages of a server without an index: found by Tiled's own queries, summed up from their runs."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import pandas as pd

from tiled_server.client.runs import TILES, all_runs, has_stream, uid_of
from tiled_server.client.tiles import count_states, read_tiles
from tiled_server.index.rows import ACQUISITION, RESULT, montage_row, run_row
from tiled_server.index.schema import QC_STATES

Row = dict[str, Any]
QC_CHOICES: Final = (*QC_STATES, "good")
COUNTS: Final = ("acquired", "passed", "failed", "needs_review", "pending", "exposures")
_FIELDS: Final = {
    "sample": "sample",
    "operator": "operator",
    "proposal": "proposal",
    "session": "data_session",
    "instrument": "instrument",
}
_LISTED: Final = (
    "montage_id", "sample", "operator", "proposal", "started", "status",
    "asked", "acquired", "passed", "failed", "needs_review", "pending",
)  # fmt: skip


class RunSource:
    """Rows of montages made of their runs' metadata.

    Parameters
    ----------
    client
        A Tiled client.
    wanted
        What `montages` was asked for; times in unix s.
    """

    def __init__(self, client: Any, wanted: Row) -> None:
        self._client, self._wanted = client, wanted

    def count(self) -> int:
        """Return how many montages match."""
        return len(self._found)

    def rows(self, offset: int, limit: int) -> list[Row]:
        """Return some of them, the newest first."""
        return self._found[offset : offset + limit]

    @cached_property
    def _found(self) -> list[Row]:
        groups: dict[str, list[Any]] = {}
        for run in self._search().values():
            groups.setdefault(str(run.metadata["start"]["montage_id"]), []).append(run)
        rows = [row for name, runs in groups.items() if (row := self._row(name, runs)) is not None]
        return sorted(rows, key=lambda row: -(row["started"] or 0.0))

    def _search(self) -> Any:
        """Return the runs that have the fields asked for."""
        from tiled.queries import Comparison, Key, KeyPresent, Like

        found = self._client.search(KeyPresent("start.montage_id"))
        for name, key in _FIELDS.items():
            value = self._wanted.get(name)
            if value is None:
                continue
            if "*" in value:  # what LIKE takes for wildcards besides is sorted out by `_matches`
                found = found.search(Like(f"start.{key}", value.replace("*", "%")))
            else:
                found = found.search(Key(f"start.{key}") == value)
        if self._wanted.get("since") is not None:  # a montage that began then has no older run
            found = found.search(Comparison("ge", "start.time", self._wanted["since"]))
        return found

    def _row(self, montage_id: str, runs: Sequence[Any]) -> Row | None:
        row = summary(montage_id, runs)
        if row is None or not _matches(row, self._wanted):
            return None
        oldest = min(runs, key=lambda run: float(run.metadata["start"]["time"]))
        if self._wanted.get("since") is not None and oldest.metadata["start"].get("resumes"):
            return None  # it goes on with a run that is older
        qc = self._wanted.get("qc")
        if qc is None:
            return row
        tiles = read_tiles([run for run in all_runs(self._client, montage_id) if _acquires(run)], [])
        row |= count_states(tiles)
        return row if _judged(row, qc) else None


def summary(montage_id: str, runs: Sequence[Any]) -> Row | None:
    """Return the row of a montage without the numbers of its tiles; None where no run acquires tiles."""
    rows = [run_row(run.metadata) | {"uid": uid_of(run), "tags": ()} for run in runs]
    return montage_row(montage_id, rows, dict.fromkeys(COUNTS))  # type: ignore[arg-type]


def is_indexed(row: Row) -> bool:
    """Return whether a row is the index's own; then what the index has of the tiles is not older."""
    return "words" not in row  # which the index keeps to itself


def results_of(runs: Sequence[Any]) -> list[Any]:
    """Return those of a montage's runs that are results of processing."""
    return [run for run in runs if run_row(run.metadata)["role"] == RESULT]


def acquisitions_of(runs: Sequence[Any]) -> list[Any]:
    """Return those of a montage's runs that are no results."""
    return [run for run in runs if run_row(run.metadata)["role"] == ACQUISITION]


def listing(rows: Sequence[Row]) -> pd.DataFrame:
    """Return rows of montages as a table to look at; numbers that are not known are missing."""
    table = pd.DataFrame([{name: row.get(name) for name in _LISTED} for row in rows], columns=list(_LISTED))
    table["started"] = pd.to_datetime(table["started"].astype(float), unit="s", utc=True).dt.floor("s")
    for name in _LISTED[6:]:
        table[name] = pd.to_numeric(table[name]).astype("Int64")
    return table


def _acquires(run: Any) -> bool:
    return run_row(run.metadata)["role"] == ACQUISITION and has_stream(run, TILES)


def _matches(row: Row, wanted: Row) -> bool:
    for name, key in _FIELDS.items():
        value = wanted.get(name)
        if value is not None and not fnmatch.fnmatchcase(row[key] or "", _pattern(value)):
            return False
    started = row["started"] or 0.0
    if wanted.get("since") is not None and started < wanted["since"]:
        return False
    if wanted.get("until") is not None and started > wanted["until"]:
        return False
    words = (wanted.get("text") or "").lower().split()
    return all(word in row["words"] for word in words)


def _pattern(value: str) -> str:
    """Return a pattern of fnmatch in which only ``*`` stands for something else."""
    return "".join(f"[{one}]" if one in "?[" else one for one in value)


def _judged(row: Row, qc: str) -> bool:
    if qc == "good":
        return bool(row["acquired"] == row["passed"] and row["passed"])
    return bool(row[{"pass": "passed", "fail": "failed"}.get(qc, qc)])
