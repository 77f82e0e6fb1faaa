"""Rows of the index from documents and numbers."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from processing.callbacks._tiles import Tile
from processing.callbacks.verdicts import TileFault, Verdict
from processing.kernels.quality import TileMetrics
from tiled_server.index.rows import (
    ACQUISITION,
    RECORDED,
    RESULT,
    VERDICT,
    ByTile,
    First,
    RunTiles,
    fault_kinds,
    montage_row,
    run_row,
)
from tiled_server.index.schema import MONTAGE_COLUMNS, SCORES, TILE_COLUMNS

COUNTS = {"acquired": 2, "passed": 1, "failed": 1, "needs_review": 0, "pending": 0, "exposures": 3}


def event(index: int, *faults: TileFault) -> dict[str, Any]:
    tile = Tile(index, roi=1, row=2, column=3, attempt=4, x_um=5.0, y_um=6.0)
    return Verdict(tile, TileMetrics(900.0, 90.0, 0.0, 0.0, 0.0, 0.4, -14.0, 100.0, 0.1), faults).as_event()


def start(uid: str, time: float, **more: Any) -> dict[str, Any]:
    return {"uid": uid, "time": time, "montage_id": "m1", "plan_name": "montage", **more}


def acquisition(uid: str, time: float, tags: list[str], stop: str = "success", **more: Any) -> dict[str, Any]:
    metadata = {"start": start(uid, time, **more), "stop": {"time": time + 9, "exit_status": stop}}
    return {**run_row(metadata), "uid": uid, "tags": tags}


def test_every_score_of_a_verdict_has_a_column() -> None:
    scores = [name for name, value in event(0).items() if isinstance(value, float) and name[:5] != "tile_"]
    assert scores == [one.name for one in SCORES]
    assert {one for one in event(0) if one not in ("notes", "not_judged")} <= set(VERDICT)


def test_a_row_has_what_was_recorded_judged_and_solved() -> None:
    numbers = {name: np.array([1.0, 2.0]) for name in RECORDED} | {"x_um": np.array([0.5, math.nan])}
    faults = TileFault("blurred", 0.5, 0.9, "transient", {}), TileFault("fold", 0.75, 0.9, "transient", {})
    places = {1: {"position_x_um": 7.0, "position_y_um": 8.0, "residual_px": math.nan}}
    first, second = RunTiles("run", "m1", 2, numbers, {0: event(0, *faults)}, places).rows(0, 500)
    assert set(first) == set(TILE_COLUMNS)
    assert (first["qc_state"], first["faults"], first["severity"]) == ("fail", "blurred,fold", 0.75)
    assert (first["row"], first["x_um"], first["dose_e_per_A2"], first["focus_score"]) == (1, 0.5, 1.0, -14.0)
    assert (second["qc_state"], second["faults"], second["severity"]) == ("pending", None, None)
    assert (second["x_um"], second["solved_x_um"], second["residual_px"]) == (None, 7.0, None)


def test_a_tile_without_its_file_is_told_by_its_verdict() -> None:
    unreadable = TileFault("unreadable", 1.0, 1.0, "transient", {})
    (row,) = RunTiles("run", "m1", 1, {}, {0: event(0, unreadable)}, {}).rows(0, 500)
    assert (row["roi"], row["row"], row["column"], row["attempt"]) == (1, 2, 3, 4)
    assert (row["centre_x_um"], row["centre_y_um"], row["x_um"]) == (5.0, 6.0, None)
    assert row["status"] == "failed"


@pytest.mark.parametrize("text", [None, "", "[]", "{", "null", json.dumps([{"severity": 1}]), math.nan, "3"])
def test_what_is_no_list_of_faults_has_none(text: Any) -> None:
    assert fault_kinds(text) == ([], None)


def test_the_newest_event_of_a_tile_counts_and_those_of_other_runs_do_not() -> None:
    events: dict[str, list[Any]] = {
        "tile_index": [0, 1, 0, -1],
        "tile_run": ["a", "b", "a", "a"],
        "qc_state": ["1", "2", "3", "4"],
    }
    assert {index: row["qc_state"] for index, row in ByTile(events).items()} == {0: "3", 1: "2"}
    assert {index: row["qc_state"] for index, row in ByTile(events, "b").items()} == {1: "2"}
    assert dict(ByTile({})) == {}
    late = {1: {"qc_state": "late"}, 2: {"qc_state": "late"}}
    merged = First(ByTile(events), late)
    assert {index: merged[index]["qc_state"] for index in merged} == {0: "3", 1: "2", 2: "late"}
    assert len(merged) == 3
    assert merged.get(7) is None
    assert dict(ByTile({"tile_index": [0]}, "a")) == {}


def test_a_montage_of_several_runs_is_one_row() -> None:
    first = acquisition(
        "a", 10.0, ["p1", "lab"], "abort", num_points=9, sample="mouse 7", notes=["one", "two"]
    )
    second = acquisition("b", 20.0, ["lab"], num_points=4, operator="grace")
    mosaic = {
        **run_row({"start": start("c", 30.0, purpose="processing", recipe="live_mosaic"), "stop": {}}),
        "uid": "c",
        "tags": [],
    }
    assert (first["role"], mosaic["role"]) == (ACQUISITION, RESULT)
    row = montage_row("m1", [mosaic, second, first], COUNTS)
    assert row is not None
    assert set(row) == {*MONTAGE_COLUMNS, "words"}
    assert (row["runs"], row["results"]) == (["a", "b"], {"live_mosaic": ["c"]})
    assert (row["started"], row["ended"], row["status"], row["asked"]) == (10.0, 29.0, "complete", 9)
    assert (row["sample"], row["operator"], row["notes"]) == ("mouse 7", "grace", "one\ntwo")
    assert row["access_tags"] == ["lab"]
    assert row["words"] == "mouse 7 one\ntwo"
    assert montage_row("m1", [mosaic], COUNTS) is None


@pytest.mark.parametrize(
    ("stop", "status"),
    [
        (None, "running"),
        ({"exit_status": "abort"}, "aborted"),
        ({"exit_status": "fail"}, "failed"),
        ({"exit_status": "odd"}, "failed"),
    ],
)
def test_the_status_is_that_of_the_newest_run(stop: dict[str, Any] | None, status: str) -> None:
    newest = {**run_row({"start": start("b", 20.0), "stop": stop}), "uid": "b", "tags": []}
    row = montage_row("m1", [newest, acquisition("a", 10.0, [])], COUNTS)
    assert row is not None
    assert row["status"] == status
    assert row["ended"] is None


def test_documents_of_others_do_no_harm() -> None:
    odd: dict[str, Any] = {
        "start": {"time": "soon", "sample": {"name": 1}, "num_points": 1e99, "notes": ["a\0b", 3]},
        "stop": None,
    }
    row = run_row(odd)
    assert row["montage_id"] is None
    assert (row["started"], row["facts"]["sample"], row["facts"]["asked"]) == (None, None, None)
    assert row["facts"]["notes"] == "ab\n3"
    assert run_row({})["role"] == ACQUISITION


def test_notes_are_the_users_and_not_those_of_the_writer() -> None:
    notes = {"notes": ["column-beam_tilt_mrad written as zarr"], "annotations": ["seen by Ada"]}
    assert run_row({"start": start("a", 1.0, notes="thin"), **notes})["facts"]["notes"] == "thin\nseen by Ada"
