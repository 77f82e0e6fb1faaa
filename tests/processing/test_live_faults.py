"""Which tiles the live mosaic accuses, and which never."""

from __future__ import annotations

import pytest

from processing.callbacks.tile_qc import TileQC
from processing.callbacks.verdicts import TileFault
from tests.processing.live_montages import (
    ROWS,
    SIZE,
    Start,
    Watched,
    acquire,
    cut,
    error_px,
    grid,
    nominal_um,
)
from tests.processing.specimens import expose, resin, tissue


def test_only_the_tile_that_shows_another_place_is_called_unmatched(start: Start, watched: Watched) -> None:
    other = expose(tissue((SIZE, SIZE), seed=77), seed=5)
    run = start(watched.mosaic)
    for number, place in enumerate(grid()):
        if number == 6:
            row, column = place
            run.tiles([other], [nominal_um(row, column)], row=row, column=column)
        else:
            acquire(run, [place])
    run.stop()
    assert [(uid, index, fault.kind) for uid, index, fault in watched.faults] == [(run.uid, 6, "unmatched")]
    wrong = watched.events()[6]
    assert not wrong["matched"]
    assert "prior-only" in wrong["alignment_reason"]
    assert error_px([event for event in watched.events() if event is not wrong]) < 0.1


@pytest.mark.parametrize("tolerance_um", [0.1, 0.8])
def test_a_tile_that_lies_elsewhere_than_recorded_is_misplaced(
    start: Start, watched: Watched, tolerance_um: float
) -> None:
    run = start(watched.mosaic, montage_spec={"tolerance_um": tolerance_um})
    for number, (row, column) in enumerate(grid()):
        shift = (45.0, -30.0) if number == 6 else (0.0, 0.0)
        run.tiles([cut(row, column)], [nominal_um(row, column, shift)], row=row, column=column)
    run.stop()
    assert error_px(watched.events()) < 0.1
    found = [(index, fault.kind) for _, index, fault in watched.faults]
    # 54 px are 0.54 um: more than six times what the stage errs, and allowed or not
    assert found == ([(6, "misplaced")] if tolerance_um < 0.5 else [])


def test_resin_is_placed_by_the_stage_and_accused_of_nothing(start: Start, watched: Watched) -> None:
    run = start(watched.mosaic)
    for number, (row, column) in enumerate(grid()):
        blank = expose(resin((SIZE, SIZE)), seed=number)
        run.tiles(
            [blank if column > 1 else cut(row, column)], [nominal_um(row, column)], row=row, column=column
        )
    run.stop()
    assert watched.faults == []
    states = {(event["tile_row"], event["tile_column"]): event["matched"] for event in watched.events()}
    assert {place for place, matched in states.items() if matched} == {
        (row, column) for row in range(ROWS) for column in range(2)
    }
    assert watched.starts()[0]["complete"] is True


def test_faults_of_overlaps_reach_the_verdicts(start: Start) -> None:
    qc = TileQC()
    run = start(qc)
    acquire(run, grid())
    fault = TileFault("unmatched", 1.0, 0.9, "transient", {"neighbours": 3.0})
    qc.report(run.uid, 5, (fault,))
    qc.report("another run", 6, (fault,))
    qc.flush()
    newest = {verdict.tile_index: verdict for verdict in qc.take()}
    assert {index for index, verdict in newest.items() if verdict.faults} == {5}
    assert [one.kind for one in newest[5].faults] == ["unmatched"]
    qc.report(run.uid, 7, (fault,))  # after its verdict
    assert [(verdict.tile_index, verdict.qc_state) for verdict in qc.take()] == [(7, "fail")]


def test_where_nothing_matches_no_tile_is_accused(start: Start, watched: Watched) -> None:
    run = start(watched.mosaic)
    for number, (row, column) in enumerate(grid()):
        # each shows another specimen, but for three in a row: the stage's calibration is far off
        frame = (
            cut(row, column) if number < 3 else expose(tissue((SIZE, SIZE), seed=50 + number), seed=number)
        )
        run.tiles([frame], [nominal_um(row, column)], row=row, column=column)
    run.stop()
    assert sum(event["matched"] for event in watched.events()) == 3
    assert watched.faults == []
