"""The live mosaic: tiles lie where they match, the mosaic shows the specimen, and what it lacks is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import event_model
import numpy as np
import pytest

from processing.callbacks.journal import Journal
from processing.kernels.field import FieldModel
from processing.mosaic.pyramid import PyramidStore
from processing.stitching.solution import StitchSolution
from tests.processing.documents import MontageRun
from tests.processing.live_montages import (
    COLUMNS,
    ROWS,
    SIZE,
    SPECIMEN,
    VIEW,
    Start,
    Watched,
    acquire,
    corner,
    cut,
    error_px,
    grid,
    nominal_um,
)


def test_tiles_lie_where_they_match_and_the_mosaic_shows_the_specimen(start: Start, watched: Watched) -> None:
    run = start(watched.mosaic)
    acquire(run, grid())
    (path,) = watched.mosaic.paths
    assert PyramidStore.open(path).metadata["complete"] is False  # readable while it grows
    run.stop()
    events = watched.events()
    assert len(events) == ROWS * COLUMNS
    assert all(event["matched"] for event in events)
    assert error_px(events) < 0.1
    (first,) = watched.starts()
    assert first["complete"] is True
    assert first["problems"] == []
    store = PyramidStore.open(path)
    assert store.metadata["complete"] is True
    anchor = next(event for event in events if event["tile_row"] == event["tile_column"] == 0)
    x, y = corner(0, 0)
    left = round(anchor["position_x_px"] - (SIZE - 1) / 2) - store.geometry.origin_px[0]
    top = round(anchor["position_y_px"] - (SIZE - 1) / 2) - store.geometry.origin_px[1]
    whole = store.read(0, top + 20, left + 20, top + 600, left + 800).astype(float)
    expected = SPECIMEN[y + 20 : y + 600, x + 20 : x + 800].astype(float)
    assert np.corrcoef(whole.ravel(), expected.ravel())[0, 1] > 0.98
    assert (whole > 0).all()
    assert watched.faults == []
    store.close()


def test_a_mosaic_has_room_from_the_start_and_ends_as_large_as_its_tiles(
    start: Start, tmp_path: Path
) -> None:
    centres = np.array([np.linalg.solve(VIEW, nominal_um(*place)) for place in grid()])
    wide = [*centres.min(0).tolist(), *(centres.max(0) + 12 * SIZE).tolist()]
    pictures = []
    for extents in ([], [wide]):
        watched = Watched(tmp_path / str(len(extents)))
        run = start(watched.mosaic, montage_extents_px=extents)
        acquire(run, grid()[:1])
        (path,) = watched.mosaic.paths
        with PyramidStore.open(path) as store:
            assert (store.area.x1 > wide[2] and store.area.y1 > wide[3]) is bool(extents)
        acquire(run, grid()[1:])
        run.stop()
        with PyramidStore.open(path) as store:
            (rows, columns), area = store.shape, store.area
            picture = store.read(0, rows - 600, columns - 700, rows, columns)
            pictures.append(((area.x1, area.y1), picture))
    assert pictures[0][0] == pictures[1][0]
    assert pictures[0][1].any()
    np.testing.assert_array_equal(pictures[0][1], pictures[1][1])


def test_the_derived_run_names_its_input_and_the_solution_lies_beside(start: Start, watched: Watched) -> None:
    run = start(watched.mosaic)
    acquire(run, grid()[:4])
    run.stop()
    for name, doc in watched.emitted:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
    (first,) = watched.starts()
    assert first["input_uids"] == [run.uid]
    assert (first["purpose"], first["recipe"], first["plan_name"]) == ("processing", *2 * ["live_mosaic"])
    assert (first["montage_id"], first["sample"], first["tiles"]) == ("m-1", "s-1", 4)
    solution = StitchSolution.from_json(Path(first["solution"]).read_text())
    assert [tile.key for tile in solution.tiles] == [(0, 0, column) for column in range(4)]
    for event, tile in zip(watched.events(), solution.tiles, strict=True):
        assert (event["tile_run"], event["tile_row"], event["tile_column"]) == (run.uid, *tile.key[1:])
        assert (event["position_x_px"], event["position_y_px"]) == tile.position_px
        stage = VIEW @ np.array(tile.position_px)
        assert (event["position_x_um"], event["position_y_um"]) == pytest.approx(tuple(stage))
    json.dumps(watched.emitted[0])


def test_a_tile_acquired_again_takes_the_place_of_its_predecessor(start: Start, watched: Watched) -> None:
    run = start(watched.mosaic)
    spoiled = (1, 1)
    for place in grid():
        if place == spoiled:
            run.tiles([np.full((SIZE, SIZE), 9, np.uint16)], [nominal_um(*place)], row=1, column=1)
        else:
            acquire(run, [place])
    acquire(run, [spoiled], attempt=1.0)
    run.stop()
    events = {(event["tile_row"], event["tile_column"]): event for event in watched.events()}
    assert len(events) == ROWS * COLUMNS
    assert (events[spoiled]["tile_attempt"], events[spoiled]["tile_index"]) == (1, ROWS * COLUMNS)
    assert events[spoiled]["matched"]
    assert error_px(watched.events()) < 0.1
    (path,) = watched.mosaic.paths
    with PyramidStore.open(path) as store:
        x = round(events[spoiled]["position_x_px"]) - store.geometry.origin_px[0]
        y = round(events[spoiled]["position_y_px"]) - store.geometry.origin_px[1]
        assert store.read(0, y - 60, x - 60, y + 60, x + 60).min() > 100


def test_the_distortion_of_one_montage_is_used_for_the_next(start: Start, tmp_path: Path) -> None:
    bent = FieldModel(SIZE, SIZE, 3, np.random.default_rng(4).normal(0, 0.4, (2, 7)))
    from_centre = np.arange(SIZE) - (SIZE - 1) / 2
    seen = bent.undistort(np.stack(np.meshgrid(from_centre, from_centre), -1))
    said = []
    for _ in range(2):
        watched = Watched(tmp_path)
        run = start(watched.mosaic)
        for row, column in grid():
            centre = 200.0 + 150 * np.array([column, row])  # two fifths of overlap
            at = (seen + centre + np.random.default_rng(row + 9 * column).normal(0, 4, 2)).astype(np.float32)
            frame = cv2.remap(SPECIMEN, at[..., 0], at[..., 1], cv2.INTER_CUBIC)
            x_um, y_um = (VIEW @ centre).tolist()
            run.tiles([frame], [(x_um, y_um)], row=row, column=column)
        run.stop()
        said.append((run.uid, watched.starts()[0]))
    (first, known), (_, again) = said
    assert (known["field_origin"], known["field_known"]) == ("calibrated", None)
    assert known["holdout_p95_px"] < 1.0
    assert (again["field_origin"], again["field_known"]) == ("given", f"montage run {first}")
    assert again["field_changed"] is False
    assert again["residual_median_px"] < 1.2 * known["residual_median_px"]


def test_an_attempt_that_failed_gives_way_to_the_better_one_before(start: Start, watched: Watched) -> None:
    run = start(watched.mosaic)
    acquire(run, grid())
    twice = grid().index((1, 1))
    blurred = np.full((SIZE, SIZE), 9, np.uint16)
    run.tiles([blurred], [nominal_um(1, 1)], row=1, column=1, attempt=1.0)
    run.verdict({"tile_index": twice, "qc_state": "needs_review"})
    (path,) = watched.mosaic.paths
    run.verdict({"tile_index": ROWS * COLUMNS, "qc_state": "fail"})
    run.stop()
    event = next(one for one in watched.events() if (one["tile_row"], one["tile_column"]) == (1, 1))
    assert (event["tile_index"], event["tile_attempt"], event["matched"]) == (twice, 0, True)
    with PyramidStore.open(path) as store:
        x = round(event["position_x_px"]) - store.geometry.origin_px[0]
        y = round(event["position_y_px"]) - store.geometry.origin_px[1]
        assert store.read(0, y - 60, x - 60, y + 60, x + 60).min() > 100
    assert error_px(watched.events()) < 0.1


@pytest.mark.parametrize("blending", ["flat", "feather"])
def test_matched_brightness_leaves_no_step_at_seams(start: Start, tmp_path: Path, blending: Any) -> None:
    watched = Watched(tmp_path, blending=blending, match_brightness=True)
    run = start(watched.mosaic)
    for number, (row, column) in enumerate(grid()):
        gain = 1 + 0.1 * (-1) ** number
        frame = np.rint(gain * cut(row, column)).astype(np.uint16)
        run.tiles([frame], [nominal_um(row, column)], row=row, column=column)
    run.stop()
    (first,) = watched.starts()
    assert (first["parameters"]["blending"], first["parameters"]["match_brightness"]) == (blending, True)
    (path,) = watched.mosaic.paths
    anchor = next(one for one in watched.events() if one["tile_row"] == one["tile_column"] == 0)
    with PyramidStore.open(path) as store:
        left = round(anchor["position_x_px"] - (SIZE - 1) / 2) - store.geometry.origin_px[0]
        top = round(anchor["position_y_px"] - (SIZE - 1) / 2) - store.geometry.origin_px[1]
        x, y = corner(0, 0)
        whole = store.read(0, top + 20, left + 20, top + 600, left + 800).astype(float)
    ratio = whole / SPECIMEN[y + 20 : y + 600, x + 20 : x + 800]
    middles = [np.median(ratio[60:140, k : k + 80]) for k in (60, 260, 480, 680)]
    assert np.ptp(middles) < 0.02 * np.mean(middles)


def test_regions_have_a_mosaic_each(start: Start, watched: Watched) -> None:
    run = start(watched.mosaic, montage_rois=["left", "right"])
    acquire(run, [(0, 0), (0, 1)], roi=0.0)
    acquire(run, [(1, 0), (1, 1)], roi=1.0)
    run.stop()
    assert [(first["roi"], first["roi_name"]) for first in watched.starts()] == [(0, "left"), (1, "right")]
    assert [path.name for path in watched.mosaic.paths] == ["region-0.ome.zarr", "region-1.ome.zarr"]
    assert [event["tile_roi"] for event in watched.events()] == [0, 0, 1, 1]


def test_a_resumed_montage_is_one_mosaic(start: Start, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    before = start(journal)
    acquire(before, grid()[:7])
    before.stop("abort")
    watched = Watched(tmp_path, journal_dir=tmp_path / "journal")
    run = start(watched.mosaic, resumes=[before.uid])
    acquire(run, grid()[7:])
    run.stop()
    (first,) = watched.starts()
    assert first["input_uids"] == [run.uid, before.uid]
    assert {event["tile_run"] for event in watched.events()} == {run.uid, before.uid}
    assert len(watched.events()) == ROWS * COLUMNS
    assert error_px(watched.events()) < 0.1
    assert watched.mosaic.problems == ()


def test_a_frame_that_cannot_be_read_is_named_and_the_rest_is_stitched(
    start: Start, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    from devices.errors import MontangoError
    from processing.callbacks._tiles import TileSource

    read = TileSource.frame

    def damaged(source: TileSource, index: int) -> Any:
        if index == 3:
            raise MontangoError("frame 3 is damaged")
        return read(source, index)

    monkeypatch.setattr(TileSource, "frame", damaged)
    run = start(watched.mosaic)
    acquire(run, grid())
    run.stop()
    (first,) = watched.starts()
    assert first["complete"] is False
    assert "frame 3 is damaged" in first["problems"][0]
    assert len(watched.events()) == ROWS * COLUMNS - 1
    assert error_px(watched.events()) < 0.1


def test_the_disk_is_left_to_the_frames(
    start: Start, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = shutil.disk_usage(watched.mosaic.directory.parent)
    short = whole._replace(free=SIZE * SIZE * 2 * (ROWS * COLUMNS - 1) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: short)
    run = start(watched.mosaic)
    acquire(run, grid())
    run.stop()
    assert watched.emitted == []
    assert "are free on the disk" in watched.mosaic.problems[0]


def test_behind_its_queue_it_ends_with_the_last_document(start: Start, watched: Watched) -> None:
    queued = watched.mosaic.queued()
    try:
        run = start(queued)
        acquire(run, grid())
        run.stop()
        assert queued.drain(60)
        assert queued.errors == 0
    finally:
        assert queued.close(10)
    assert len(watched.events()) == ROWS * COLUMNS


def test_runs_without_tiles_or_view_leave_nothing(start: Start, watched: Watched, tmp_path: Path) -> None:
    start(watched.mosaic).stop()
    run = MontageRun(tmp_path, (SIZE, SIZE), watched.mosaic)
    run.tiles([cut(0, 0)])
    run.stop()
    assert watched.emitted == []
    assert not watched.mosaic.directory.exists()
