"""Rows of the index, made of a run's documents and of the numbers of its tiles. No database is touched."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tiled_server.index.schema import SCORES

RECORDED: Final = {
    "roi": "roi",
    "row": "row",
    "column": "column",
    "attempt": "attempt",
    "exposure_start_s": "time",
    "x_um": "x_um",
    "y_um": "y_um",
    "centre_x_um": "centre_x_um",
    "centre_y_um": "centre_y_um",
    "defocus_um": "defocus_um",
    "dose_e_per_a2": "dose_e_per_A2",
}
"""What is recorded of a tile, and the column of the index that it goes to."""

VERDICT: Final = (
    "tile_run",
    "tile_index",
    "tile_roi",
    "tile_row",
    "tile_column",
    "tile_attempt",
    "tile_x_um",
    "tile_y_um",
    "qc_state",
    "qc_decision",
    "faults",
    *(one.name for one in SCORES),
)
"""What is taken of a verdict; ``tile_run`` is there where a run has verdicts on the frames of others."""

PLACE: Final = ("tile_run", "tile_index", "position_x_um", "position_y_um", "residual_px")
"""What is taken of an alignment."""

ACQUISITION, RESULT = "acquisition", "result"

_WHOLE: Final = ("roi", "row", "column", "attempt")
_STATUS: Final = {"success": "complete", "abort": "aborted", "fail": "failed"}
_TEXTS: Final = ("sample", "operator", "proposal", "data_session", "instrument", "title")

Numbers = npt.NDArray[np.float64]
Events = npt.NDArray[Any]
Row = dict[str, Any]


def run_row(metadata: Mapping[str, Any]) -> Row:
    """Return the row of a run without its key, node and stamp.

    ``facts`` is what the montage's row is made of; ``montage_id`` is None for a run of no montage.
    """
    start: Mapping[str, Any] = metadata.get("start") or {}
    stop: Mapping[str, Any] | None = metadata.get("stop")
    result = start.get("purpose") == "processing"
    recipe = start.get("recipe") or start.get("plan_name")
    facts: Row = {name: _text(start.get(name)) for name in _TEXTS}
    facts |= {
        # "notes" beside the start document are those of Tiled's writer, on how it wrote the run
        "notes": _text([start.get("notes"), metadata.get("annotations")]),
        "started": _number(start.get("time")),
        "ended": _number(stop.get("time")) if stop else None,
        "status": _STATUS.get(str(stop.get("exit_status")), "failed") if stop else "running",
        "asked": _whole(start.get("num_points")),
        "input_uids": [str(uid) for uid in start.get("input_uids") or ()],
    }
    return {
        "ended": stop is not None,
        "montage_id": _text(start.get("montage_id")),
        "role": RESULT if result else ACQUISITION,
        "recipe": _text(recipe),
        "started": facts["started"],
        "facts": facts,
    }


@dataclass(frozen=True, slots=True)
class RunTiles:
    """What is known of the frames of a run.

    Attributes
    ----------
    run, montage_id
        Uid of the run, and its montage.
    count
        Frames that it has.
    numbers
        What was recorded, (tile,) each, by the names of `RECORDED`; what is missing is unknown.
    verdicts
        The newest verdict on each frame that was judged.
    places
        The solved place of each frame that a mosaic shows.
    """

    run: str
    montage_id: str
    count: int
    numbers: Mapping[str, Numbers]
    verdicts: Mapping[int, Row]
    places: Mapping[int, Row]

    def rows(self, first: int, last: int) -> list[Row]:
        """Return the rows of some frames, from ``first`` to before ``last``, all of them ``best``."""
        last = min(last, self.count)
        recorded = {
            column: _listed(self.numbers.get(name), first, last, whole=column in _WHOLE)
            for name, column in RECORDED.items()
        }
        rows = []
        for index in range(first, last):
            row: Row = {"run_uid": self.run, "tile_index": index, "montage_id": self.montage_id, "best": True}
            row |= {column: values[index - first] for column, values in recorded.items()}
            row |= _judged(row, self.verdicts.get(index, {}))
            place = self.places.get(index, {})
            row["solved_x_um"] = _number(place.get("position_x_um"))
            row["solved_y_um"] = _number(place.get("position_y_um"))
            row["residual_px"] = _number(place.get("residual_px"))
            rows.append(row)
        return rows


def _judged(row: Row, verdict: Row) -> Row:
    """Return what a verdict says of a tile, and which tile it is where that was not recorded."""
    kinds, severity = fault_kinds(verdict.get("faults"))
    found: Row = {
        "status": "failed" if "unreadable" in kinds else "acquired",
        "qc_state": _text(verdict.get("qc_state")) or "pending",
        "decision": _text(verdict.get("qc_decision")),
        "faults": ",".join(kinds) or None,
        "severity": severity,
    }
    found |= {one.name: _number(verdict.get(one.name)) for one in SCORES}
    for name in _WHOLE:
        if row[name] is None:
            found[name] = _whole(verdict.get(f"tile_{name}"))
    for axis in "xy":
        if row[f"centre_{axis}_um"] is None:
            found[f"centre_{axis}_um"] = _number(verdict.get(f"tile_{axis}_um"))
    return found


def fault_kinds(text: Any) -> tuple[list[str], float | None]:
    """Return the kinds of the faults that a verdict names, and the largest severity; None without any."""
    try:
        named = json.loads(text) if isinstance(text, str) and text not in ("", "[]") else []
    except ValueError:
        named = []
    listed = named if isinstance(named, list) else []
    faults = [one for one in listed if isinstance(one, dict) and one.get("kind")]
    severities = [value for one in faults if (value := _number(one.get("severity"))) is not None]
    return list(dict.fromkeys(str(one["kind"]) for one in faults)), max(severities, default=None)


class ByTile(Mapping[int, Row]):
    """The newest event of each tile, by its index.

    Parameters
    ----------
    events
        Columns of a table of events, oldest first.
    run
        Take only events on frames of this run, by ``tile_run``.
    """

    def __init__(self, events: Mapping[str, Sequence[Any] | Events], run: str | None = None) -> None:
        self._events = events
        self._at: dict[int, int] = {}
        runs = events.get("tile_run")
        for position, value in enumerate(events.get("tile_index", ())):
            index = _whole(value)
            if index is None or index < 0:
                continue
            if run is None or (runs is not None and runs[position] == run):
                self._at[index] = position

    def __getitem__(self, index: int) -> Row:
        """Return the event as a row."""
        position = self._at[index]
        return {name: values[position] for name, values in self._events.items()}

    def __contains__(self, index: object) -> bool:
        """Return whether a tile has an event."""
        return index in self._at

    def __iter__(self) -> Iterator[int]:
        """Iterate over the tiles."""
        return iter(self._at)

    def __len__(self) -> int:
        """Return how many tiles have an event."""
        return len(self._at)


class First(Mapping[int, Row]):
    """Rows of several mappings; of a tile that several have, that of the first."""

    def __init__(self, *layers: Mapping[int, Row]) -> None:
        self._layers = layers

    def __getitem__(self, index: int) -> Row:
        """Return the row of a tile."""
        for layer in self._layers:
            if index in layer:
                return layer[index]
        raise KeyError(index)

    def __iter__(self) -> Iterator[int]:
        """Iterate over the tiles."""
        return iter(set().union(*self._layers))

    def __len__(self) -> int:
        """Return how many tiles there are."""
        return len(set().union(*self._layers))


def montage_row(montage_id: str, runs: Sequence[Mapping[str, Any]], counts: Mapping[str, int]) -> Row | None:
    """Return the row of a montage; None where none of its runs acquires tiles.

    Parameters
    ----------
    montage_id
        The montage.
    runs
        Rows of all its runs.
    counts
        ``acquired``, ``passed``, ``failed``, ``needs_review``, ``pending``, ``exposures``.
    """
    ordered = sorted(runs, key=lambda run: (run["started"] or 0.0, run["uid"]))
    acquiring = [run for run in ordered if run["role"] == ACQUISITION]
    if not acquiring:
        return None
    facts = [run["facts"] for run in acquiring]
    row: Row = {name: _newest(one[name] for one in facts) for name in _TEXTS}
    row["notes"] = _text([one["notes"] for one in facts])
    row["words"] = " ".join(filter(None, (row["sample"], row["title"], row["notes"]))).lower()
    results: dict[str, list[str]] = {}
    for run in ordered:
        if run["role"] == RESULT:
            results.setdefault(run["recipe"] or "", []).append(run["uid"])
    tags = set.intersection(*(set(run["tags"]) for run in acquiring))
    asked = [one["asked"] for one in facts if one["asked"] is not None]
    return row | {
        "montage_id": montage_id,
        "runs": [run["uid"] for run in acquiring],
        "results": results,
        "access_tags": sorted(tags),
        "started": min((one["started"] for one in facts if one["started"] is not None), default=None),
        "ended": facts[-1]["ended"],
        "status": facts[-1]["status"],
        # a run that resumes asks for what is left
        "asked": max(asked, default=None),
        **counts,
    }


def _newest(values: Iterable[str | None]) -> str | None:
    return next((value for value in reversed(list(values)) if value), None)


def _listed(values: Numbers | None, first: int, last: int, *, whole: bool) -> list[Any]:
    numbers = [] if values is None else values[first:last].tolist()
    numbers += [None] * (last - first - len(numbers))
    return [(_whole if whole else _number)(value) for value in numbers]


def _number(value: Any) -> float | None:
    """Return a finite number; None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any) -> int | None:
    """Return a whole number that a column of the database can hold; None for anything else."""
    number = _number(value)
    return None if number is None or abs(number) >= 2**31 else int(number)


def _text(value: Any) -> str | None:
    """Return a text, that of a list joined; None where there is none. NUL, which SQL has not, is left out."""
    if isinstance(value, list | tuple):
        parts = [part for one in value if (part := _text(one))]
        return "\n".join(dict.fromkeys(parts)) or None
    if value is None or isinstance(value, dict) or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value).replace("\0", "") or None
