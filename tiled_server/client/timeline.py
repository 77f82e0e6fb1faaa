"""What happened to a montage, and when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import pandas as pd

from tiled_server.client.runs import read_events, start_of, stop_of, uid_of

COLUMNS: Final = ("time", "what", "text", "run_uid", "roi", "row", "column", "attempt")
_TILE: Final = ("roi", "row", "column", "attempt")

Entry = dict[str, Any]


def timeline(runs: Sequence[Any], results: Sequence[Any], tiles: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each thing that happened, in order of time.

    Parameters
    ----------
    runs, results
        The runs that acquired, and those of results, oldest first.
    tiles
        As `Montage.tiles`.

    Returns
    -------
    pandas.DataFrame
        ``time`` (UTC), ``what`` (``began``, ``resumed``, ``ended``, ``interrupted``, ``again``, ``focus``,
        ``verdict``, ``result``, and the kinds of incidents: ``request``, ``hold``, ``resume``,
        ``camera_timeout``, ...),
        ``text``, ``run_uid``, and the tile where it is about one.
    """
    entries = [entry for run in runs for entry in _of_run(run)]
    entries += _retries(tiles)
    for run in results:
        start = start_of(run)
        what = f"{start.get('recipe', start.get('plan_name'))} of {len(start.get('input_uids', ()))} runs"
        entries.append(_entry(start["time"], "result", what, run))
    table = pd.DataFrame(entries, columns=list(COLUMNS))
    table["time"] = pd.to_datetime(table["time"].astype(float), unit="s", utc=True)
    for name in _TILE:
        table[name] = table[name].astype("Int64")
    return table.sort_values("time", kind="stable").reset_index(drop=True)


def _of_run(run: Any) -> Iterator[Entry]:
    start, stop = start_of(run), stop_of(run)
    resumes = start.get("resumes")
    asked = f", {start['num_points']} tiles to acquire" if "num_points" in start else ""
    text = f"{start.get('plan_name')} by {start.get('operator', 'unknown')}{asked}"
    yield _entry(start["time"], "resumed" if resumes else "began", text, run)
    for event in _rows(run, "incidents"):
        yield _entry(event["time"], str(event["incident_kind"]), str(event["incident_text"]), run)
    for event in _rows(run, "focus"):
        yield _entry(event["time"], "focus", _focus(event), run)
    for event in _rows(run, "verdict"):
        text = f"{event['montage_verdict']}: {event['montage_reason']}".rstrip(": ")
        yield _entry(event["time"], "verdict", text, run)
    if stop is not None:
        reason = str(stop.get("reason") or "")
        cut = reason == "interrupted"
        text = str(stop.get("exit_status")) + (f": {reason}" if reason and not cut else "")
        yield _entry(stop["time"], "interrupted" if cut else "ended", text, run)


def _focus(event: Entry) -> str:
    if not event.get("focus_converged", True):
        return f"{event['focus_method']}: not found, {event.get('focus_reason') or 'no reason given'}"
    return (
        f"{event['focus_method']}: {event['focus_offset_um']:+.3g} um, "
        f"defocus now {event['focus_defocus_um']:.4g} um"
    )


def _retries(tiles: pd.DataFrame) -> list[Entry]:
    """Return an entry for each frame of a place that had one before, with what was wrong with that."""
    before = tiles.groupby(["roi", "row", "column"])["faults"].shift()
    entries = []
    for tile, faults in zip(tiles.to_dict("records"), before, strict=True):
        if not isinstance(faults, str):  # the first of its place
            continue
        place = f"row {tile['row']} column {tile['column']}, attempt {tile['attempt']}"
        text = f"{place}, after {faults or 'no fault'}"
        entries.append(
            {"time": tile["exposure_start_s"], "what": "again", "text": text, "run_uid": tile["run_uid"]}
            | {name: tile[name] for name in _TILE}
        )
    return entries


def _rows(run: Any, stream: str) -> list[Entry]:
    return [
        {str(key): value for key, value in row.items()} for row in read_events(run, stream).to_dict("records")
    ]


def _entry(time_s: float, what: str, text: str, run: Any) -> Entry:
    return {"time": time_s, "what": what, "text": text, "run_uid": uid_of(run)}
