"""Tile QC over real frame files and rings: bad tiles fail, good ones do not, whatever way frames come."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from processing.callbacks.tile_qc import QCThresholds, TileQC, Verdict
from tests.processing.documents import MontageRun
from tests.processing.specimens import expose, real_tiles, resin, tissue

SHAPE = (256, 256)
Start = Callable[..., MontageRun]


@pytest.fixture(scope="module")
def compiled() -> TileQC:
    return TileQC()


@pytest.fixture
def qc(compiled: TileQC) -> TileQC:
    return TileQC()


@pytest.fixture
def start(tmp_path: Path, qc: TileQC) -> Iterator[Start]:
    runs = []

    def make(shape: tuple[int, int] = SHAPE, **options: Any) -> MontageRun:
        run = MontageRun(tmp_path, shape, options.pop("emit", qc), **options)
        runs.append(run)
        return run

    yield make
    for run in runs:
        run.close()


def good(seed: int, electrons: float = 2000, blur_px: float = 0.0) -> Any:
    return expose(tissue(SHAPE, seed), seed, electrons, blur_px)


def states(verdicts: list[Verdict]) -> dict[int, str]:
    return {verdict.tile_index: verdict.qc_state for verdict in verdicts}


def kinds(verdicts: list[Verdict]) -> dict[int, list[str]]:
    return {v.tile_index: [fault.kind for fault in v.faults] for v in verdicts if v.faults}


def test_one_blurred_tile_among_tissue_fails_alone(qc: TileQC, start: Start) -> None:
    run = start(ring_slots=16)
    run.tiles(
        [good(i, blur_px=2.5 if i == 5 else 0) for i in range(12)], [(float(i), 2.0) for i in range(12)]
    )
    run.stop()
    verdicts = qc.take()
    assert sorted(states(verdicts)) == list(range(12))
    assert kinds(verdicts) == {5: ["blurred"]}
    (fault,) = next(v for v in verdicts if v.tile_index == 5).faults
    assert fault.scope == "transient"
    assert 0.5 < fault.severity <= 1
    assert 0.7 < fault.confidence <= 1
    assert fault.metrics["sharpness"] < fault.metrics["sharpness_limit"]
    assert qc.take() == []


def test_resin_among_tissue_passes_and_so_does_a_montage_of_resin(qc: TileQC, start: Start) -> None:
    run = start(ring_slots=16)
    tiles = [good(i) for i in range(6)]
    half = tissue(SHAPE, 50)
    half[:, 100:] = 0.9
    tiles += [expose(resin(SHAPE), 60), expose(half, 61), expose(resin(SHAPE, 0.25), 62)]
    run.tiles(tiles)
    run.stop()
    assert set(states(qc.take()).values()) == {"pass"}
    run = start(ring_slots=16)
    run.tiles([expose(resin(SHAPE), i) for i in range(9)])
    run.stop()
    assert set(states(qc.take()).values()) == {"pass"}


@pytest.mark.parametrize("turned", [0, 1])
def test_drift_is_smeared_and_a_note_acts_on_nothing(qc: TileQC, start: Start, turned: int) -> None:
    run = start(ring_slots=32)
    tiles = [good(i) for i in range(12)]
    long = cv2.blur(tissue(SHAPE, 20), (17, 1) if turned else (1, 17))
    little = cv2.GaussianBlur(tissue(SHAPE, 21), (0, 0), 1.3)  # between note and fault for twelve tiles
    run.tiles([*tiles, expose(long, 20), expose(little, 21)])
    run.stop()
    verdicts = qc.take()
    assert kinds(verdicts) == {12: ["smeared"]}
    noted = {v.tile_index: [note.kind for note in v.notes] for v in verdicts if v.notes}
    assert noted == {13: ["blurred"]}
    assert next(v for v in verdicts if v.tile_index == 13).qc_state == "pass"


def test_what_cannot_be_told_on_bare_resin_is_said(qc: TileQC, start: Start) -> None:
    run = start(ring_slots=16)
    run.tiles([*(good(i) for i in range(6)), expose(resin(SHAPE), 60)])
    run.stop()
    verdicts = {v.tile_index: v for v in qc.take()}
    assert verdicts[6].qc_state == "pass"
    assert verdicts[6].unjudged == ("blurred", "smeared", "astigmatic")
    assert verdicts[6].as_event()["not_judged"] == "blurred,smeared,astigmatic"
    assert verdicts[5].unjudged == ()


@pytest.mark.parametrize("electrons", [60, 400, 4000])
def test_a_blur_that_leaves_no_texture_fails_at_any_dose(qc: TileQC, start: Start, electrons: float) -> None:
    run = start(ring_slots=16)
    run.tiles([good(i, electrons, 8 if i == 4 else 0) for i in range(10)])
    run.stop()
    assert kinds(qc.take()) == {4: ["blurred"]}


def test_dark_saturated_flat_and_damaged_tiles_fail_at_once(qc: TileQC, start: Start) -> None:
    rng = np.random.default_rng(0)
    dark = rng.normal(200, 12, SHAPE).astype(np.uint16)
    saturated = good(1)
    saturated[:64] = 65535
    flat = np.full(SHAPE, 9000, np.uint16)
    torn = good(2)
    torn[20:60] = 0
    run = start(ring_slots=16)
    run.tiles([dark, saturated, flat, torn])
    assert kinds(qc.take()) == {0: ["dark"], 1: ["saturated"], 2: ["low_contrast"], 3: ["damaged"]}


def test_a_beam_that_fades_is_dark_beside_the_others(qc: TileQC, start: Start) -> None:
    run = start(ring_slots=16)
    run.tiles([*(good(i) for i in range(5)), good(6, electrons=200)])
    run.stop()
    assert kinds(qc.take()) == {5: ["dark"]}


def test_first_tiles_are_judged_when_there_are_enough(qc: TileQC, start: Start) -> None:
    run = start(ring_slots=16)
    run.tiles([good(0), good(1, blur_px=3), good(2), good(3)])
    assert qc.measured == 4
    assert qc.take() == []
    run.tiles([good(4)])
    assert kinds(qc.take()) == {1: ["blurred"]}


def test_flush_judges_what_is_there_and_corrects_itself_later(qc: TileQC, start: Start) -> None:
    run = start(ring_slots=16)
    run.tiles([good(0, blur_px=3), good(1)])
    qc.flush()
    assert states(qc.take()) == {0: "pass", 1: "pass"}  # nothing to compare with yet
    run.tiles([good(2)])
    qc.flush()
    assert states(qc.take()) == {2: "pass"}
    run.tiles([good(3), good(4)])
    verdicts = qc.take()
    assert kinds(verdicts) == {0: ["blurred"]}
    assert set(states(verdicts)) == {0, 3, 4}


def test_a_row_of_three_is_enough_for_a_flush(qc: TileQC, start: Start) -> None:
    run = start(ring_slots=16)
    run.tiles([good(0), good(1, blur_px=3), good(2)])
    qc.flush()
    assert kinds(qc.take()) == {1: ["blurred"]}


def test_faults_in_a_row_are_persistent_and_without_beam_critical(qc: TileQC, start: Start) -> None:
    run = start(ring_slots=16)
    run.tiles([good(i) for i in range(6)])
    run.tiles([good(i, blur_px=3) for i in range(6, 10)])
    run.tiles([np.full(SHAPE, 200, np.uint16) for _ in range(3)])
    scopes = [verdict.faults[0].scope for verdict in qc.take() if verdict.faults]
    assert scopes == ["transient"] * 2 + ["persistent"] * 2 + ["transient"] * 2 + ["critical"]


def test_frames_that_the_ring_lost_come_from_the_file(qc: TileQC, start: Start) -> None:
    run = start(ring_slots=2)
    run.tiles([good(i, blur_px=3 if i == 1 else 0) for i in range(8)])
    run.stop()
    verdicts = qc.take()
    assert kinds(verdicts) == {1: ["blurred"]}
    assert len(verdicts) == 8


def test_a_frame_that_nobody_has_is_unreadable(qc: TileQC, start: Start) -> None:
    run = start(ring_slots=2)
    run.declare()
    run.ring.unlink()
    run.file.close()
    run.path.write_bytes(b"gone")
    for bundle in run._bundles:
        datum = bundle.compose_stream_datum(
            indices={"start": 0, "stop": 2},
            seq_nums={"start": 1, "stop": 3},
            descriptor=run._tiles.descriptor_doc,
        )
        qc("stream_datum", datum)
    verdicts = qc.take()
    assert kinds(verdicts) == {0: ["unreadable"], 1: ["unreadable"]}
    event = verdicts[0].as_event()
    assert (event["qc_state"], event["tile_row"]) == ("fail", -1)


def test_an_event_has_the_fields_of_the_qc_stream(qc: TileQC, start: Start) -> None:
    run = start(ring_slots=8)
    run.tiles([np.full(SHAPE, 200, np.uint16)], [(12.5, -3.0)], row=2.0, column=1.0, attempt=1.0)
    (verdict,) = qc.take()
    event = verdict.as_event()
    fault = json.loads(event.pop("faults"))[0]
    assert (fault["kind"], fault["scope"]) == ("dark", "transient")
    assert fault["metrics"] == {"dark_fraction": 1.0, "limit": 0.5}
    expected = {
        "tile_index": 0,
        "tile_roi": 0,
        "tile_row": 2,
        "tile_column": 1,
        "tile_attempt": 1,
        "tile_x_um": 12.5,
        "tile_y_um": -3.0,
    }
    assert {name: event.pop(name) for name in expected} == expected
    assert event.pop("qc_state") == "fail"
    assert event.pop("notes") == "[]"
    assert event.pop("not_judged") == "blurred,smeared,astigmatic"
    names = {"mean_counts", "std_counts", "saturated_fraction", "dark_fraction", "sharpness", "focus_score"}
    names |= {"anisotropy_db", "smear_db", "smear_deg", "banding", "missing_fraction", "opaque_fraction"}
    names |= {"opaque_radius", "fold_contrast", "shading", "bright_counts", "detail_db"}
    assert set(event) == names
    assert all(isinstance(value, float) for value in event.values())
    json.dumps(event)


def test_a_new_run_starts_anew_and_other_streams_are_ignored(qc: TileQC, start: Start) -> None:
    run = start(ring_slots=16)
    run.tiles([good(0)])
    run.verdict({"tile_index": 0, "qc_state": "pass"})
    run = start(ring_slots=16)
    assert qc.measured == 0
    run.tiles([good(i) for i in range(5)])
    assert states(qc.take()) == dict.fromkeys(range(5), "pass")


def test_behind_a_queue_flush_follows_the_frames_before_it(qc: TileQC, start: Start) -> None:
    queued = qc.queued()
    run = start(emit=queued, ring_slots=16)
    run.tiles([good(i) for i in range(4)])
    qc.flush()
    qc.wait_for(4, timeout_s=20)
    assert queued.drain(20)
    assert states(qc.take()) == dict.fromkeys(range(4), "pass")
    qc.wait_for(5, timeout_s=0.01)  # gives up and says so in the log
    assert queued.close()
    assert queued.errors == 0


@pytest.mark.parametrize("field", [{"dark_counts": -1}, {"max_dark_fraction": 2}, {"colour": 1}])
def test_wrong_thresholds_are_refused(field: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        QCThresholds.model_validate(field)


@pytest.mark.parametrize("sample", [1, 2])
def test_real_montages_pass_and_their_blurred_tile_fails(qc: TileQC, start: Start, sample: int) -> None:
    tiles = real_tiles(sample)
    if not tiles:
        pytest.skip("the real montage is not on this machine")
    tissue_tile = {1: 3, 2: 4}[sample]
    side = 1024
    crops = [tile[300 : 300 + side, 300 : 300 + side] for tile in tiles]
    run = start((side, side), ring_slots=32)
    run.tiles([expose(crop, i, 800) for i, crop in enumerate(crops)])
    run.tiles([expose(crops[tissue_tile], 99, 800, blur_px=3)])
    run.stop()
    verdicts = qc.take()
    assert len(verdicts) == 10
    assert kinds(verdicts) == {9: ["blurred"]}
