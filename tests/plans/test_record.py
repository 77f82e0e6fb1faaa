"""What there is of a montage after a crash: journals cut short, files cut off, verdicts that never came."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from devices.errors import ConfigurationError
from devices.tiles import IMAGE_DATASET
from plans.interrupted import REASON, close_interrupted
from plans.record import MontageRecord, TileKey, montages
from plans.specs.grid import make_grid
from plans.specs.montage import MontageSpec
from plans.specs.policy import Rule, VerdictPolicy
from plans.specs.view import View
from processing.callbacks.journal import Journal, find_runs, read_journal
from processing.stored_frames import stored_frames
from tests.processing.documents import MontageRun
from tests.processing.specimens import expose, tissue

SHAPE = (128, 128)
TILES = 8
SPEC = MontageSpec(rows=1, columns=TILES, centre_um=(0.0, 0.0))
GRID = make_grid(SPEC, View.from_nominal(*SHAPE, 10.0, 0.0), (0.0, 0.0))
Frame = npt.NDArray[np.uint16]
Begin = Callable[..., MontageRun]


def frame(index: int, blur_px: float = 0) -> Frame:
    """Return the pixels of a tile."""
    return expose(tissue(SHAPE, index), index, blur_px=blur_px)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Return an empty journal."""
    journal = Journal(tmp_path / "journal")
    yield journal
    journal.close()


@pytest.fixture
def begin(tmp_path: Path, journal: Journal) -> Begin:
    """Return a function that begins a run of a montage, written into the journal."""

    def make(montage_id: str = "m-1", spec: MontageSpec = SPEC, **metadata: Any) -> MontageRun:
        asked = spec.model_dump(mode="json")
        return MontageRun(
            tmp_path, SHAPE, journal, ring_slots=2, montage_id=montage_id, montage_spec=asked, **metadata
        )

    return make


def judge(run: MontageRun, index: int, qc_state: str) -> None:
    """Write a verdict into a run's journal."""
    run.verdict({"tile_index": index, "tile_row": 0, "tile_column": index, "qc_state": qc_state})


def kill(run: MontageRun, journal: Journal) -> None:
    """Leave a run as a killed engine does: its journal is let go of, without a stop document."""
    journal.close()
    run.ring.unlink()


def interrupted(begin: Begin, journal: Journal) -> MontageRun:
    """Return a run with six of eight frames on disk, four announced, two judged, one of them bad."""
    run = begin()
    run.tiles([frame(index) for index in range(4)])
    judge(run, 0, "pass")
    judge(run, 1, "fail")
    emit, run._emit = run._emit, None  # from here on the engine is dead, and the camera finishes its queue
    run.tiles([frame(4), frame(5, blur_px=6)])
    run._emit = emit
    kill(run, journal)
    return run


def todo(record: MontageRecord) -> list[tuple[int, int]]:
    """Return column and attempt of the tiles to acquire."""
    return [(tile.column, attempt) for tile, attempt in record.todo(GRID)]


def test_frames_that_nobody_judged_are_judged_from_the_file_and_only_bad_or_missing_tiles_are_to_do(
    begin: Begin, journal: Journal
) -> None:
    run = interrupted(begin, journal)
    before = MontageRecord.read(journal.directory, "m-1")
    assert before.spec == SPEC
    assert [record.qc_state for (record,) in before.tiles.values()] == ["pass", "fail"] + ["pending"] * 4
    assert before.runs[0].pending == [2, 3, 4, 5]

    assert close_interrupted(journal.directory) == [run.uid]
    after = MontageRecord.read(journal.directory, "m-1")
    assert todo(after) == [(1, 1), (5, 1), (6, 0), (7, 0)]
    assert after.good == 4
    assert after.exposures == 6
    documents = list(read_journal(after.runs[0].journal))
    name, stop = documents[-1]
    assert (name, stop["exit_status"], stop["reason"]) == ("stop", "abort", REASON)
    assert stop["num_events"] == {"tiles": 6, "qc": 6}
    announced = [doc["indices"] for name, doc in documents if name == "stream_datum"]
    resources = sum(name == "stream_resource" for name, _ in documents)
    assert announced.count({"start": 4, "stop": 6}) == resources > 20
    assert close_interrupted(journal.directory) == []


def test_faults_that_the_policy_accepts_are_kept_for_review_without_more_dose(
    begin: Begin, journal: Journal
) -> None:
    policy = VerdictPolicy(blurred=Rule(action="accept"))
    run = interrupted(lambda: begin(spec=SPEC.model_copy(update={"policy": policy})), journal)
    assert close_interrupted(journal.directory) == [run.uid]
    record = MontageRecord.read(journal.directory, "m-1")
    assert todo(record) == [(1, 1), (6, 0), (7, 0)]
    assert record.tiles[TileKey(0, 0, 5)][0].qc_state == "needs_review"


def test_a_run_that_had_announced_nothing_is_announced_from_its_file(
    begin: Begin, journal: Journal, tmp_path: Path
) -> None:
    run = begin()
    emit, run._emit = run._emit, None
    run.tiles([frame(0), frame(1)])
    run._emit = emit
    descriptor = next(doc for name, doc in run.documents if name == "descriptor")
    descriptor["configuration"]["camera"]["data"]["camera-file_path"] = str(run.path)
    run.emit("descriptor", descriptor)
    kill(run, journal)
    close_interrupted(journal.directory)
    record = MontageRecord.read(journal.directory, "m-1")
    assert todo(record) == [(column, 0) for column in range(2, TILES)]
    made = [doc for name, doc in read_journal(record.runs[0].journal) if name == "stream_resource"]
    real = [doc for name, doc in run.documents if name == "stream_resource"]
    for ours, theirs in zip(made, real, strict=True):
        assert {**ours, "uid": ""} == {**theirs, "uid": "", "parameters": ours["parameters"]}
        assert {**ours["parameters"], "chunk_shape": 0} == {**theirs["parameters"], "chunk_shape": 0}


def test_attempts_over_several_runs_are_one_montage(begin: Begin, journal: Journal) -> None:
    first = interrupted(begin, journal)
    close_interrupted(journal.directory)
    second = begin(resumes=[first.uid])
    second.tiles([frame(1)], attempt=1.0, column=1.0)
    second.tiles([frame(6)], attempt=0.0, column=6.0)
    judge(second, 0, "fail")
    judge(second, 1, "needs_review")
    second.stop()
    record = MontageRecord.read(journal.directory, "m-1")
    assert record.run_uids == (first.uid, second.uid)
    assert [one.attempt for one in record.tiles[TileKey(0, 0, 1)]] == [0, 1]
    assert todo(record) == [(1, 2), (5, 1), (7, 0)]
    assert list(montages(journal.directory)) == ["m-1"]


def test_a_file_cut_off_at_any_byte_behind_its_last_flush_keeps_every_flushed_frame(
    begin: Begin, tmp_path: Path
) -> None:
    run = begin()
    frames = [frame(index) for index in range(TILES)]
    run.tiles(frames[:5])
    flushed = run.path.stat().st_size
    run.tiles(frames[5:])
    whole = run.path.read_bytes()  # the writer lives: nothing has closed the file in order
    rng = np.random.default_rng(1)
    edges = [flushed, flushed + 1, len(whole) - 1, len(whole)]
    cut_off = tmp_path / "cut.h5"
    seen = set()
    for size in [*edges, *rng.integers(flushed, len(whole), 60).tolist()]:
        cut_off.write_bytes(whole[:size])
        stored = stored_frames(cut_off)
        readable = [one.index for one in stored if one.readable]
        assert readable[:5] == [0, 1, 2, 3, 4], size
        seen.add(len(readable))
        with h5py.File(cut_off, "r", libver="latest", swmr=True) as file:
            for index in readable:
                assert (file[IMAGE_DATASET][index] == frames[index]).all(), (size, index)
    assert {5, TILES} <= seen
    run.close()


def test_a_file_that_is_gone_or_no_file_counts_as_missing(begin: Begin, journal: Journal) -> None:
    run = interrupted(begin, journal)
    run.path.write_bytes(b"not HDF5")
    assert todo(MontageRecord.read(journal.directory, "m-1")) == [(column, 0) for column in range(TILES)]
    run.path.unlink()
    assert MontageRecord.read(journal.directory, "m-1").good == 0


def test_a_journal_torn_at_any_byte_of_its_end_is_read_and_completed(begin: Begin, journal: Journal) -> None:
    run = interrupted(begin, journal)
    (found,) = find_runs(journal.directory)
    whole = found.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    from_byte = len(whole) - sum(map(len, lines[-3:]))
    for size in (*range(from_byte, len(whole), 37), len(whole) - 1):
        found.path.write_bytes(whole[:size])
        assert MontageRecord.read(journal.directory, "m-1").exposures == 6
        assert close_interrupted(journal.directory) == [run.uid]
        assert todo(MontageRecord.read(journal.directory, "m-1"))[-2:] == [(6, 0), (7, 0)]
        name, _ = list(read_journal(found.path))[-1]
        assert name == "stop"


def test_a_montage_that_is_being_acquired_is_left_alone(begin: Begin, journal: Journal) -> None:
    run = begin()
    run.tiles([frame(0)])
    record = MontageRecord.read(journal.directory, "m-1")
    assert record.runs[0].live
    with pytest.raises(ConfigurationError, match=r"m-1 is being acquired now.*montango control abort"):
        record.fence()
    assert close_interrupted(journal.directory) == []
    run.stop()
    MontageRecord.read(journal.directory, "m-1").fence()


def test_another_specification_is_refused_by_field_unless_accepted(begin: Begin, journal: Journal) -> None:
    begin().stop()
    record = MontageRecord.read(journal.directory, "m-1")
    other = SPEC.model_copy(update={"exposure_time_s": 0.4})
    with pytest.raises(ConfigurationError, match=r"exposure_time_s was 0.1 and is 0.4.*accept_changes"):
        record.check_spec(other)
    assert record.check_spec(other, accept_changes=True) == other
    assert record.check_spec(SPEC) == SPEC


def test_an_unknown_montage_is_refused_with_the_nearest(begin: Begin, journal: Journal) -> None:
    begin("m20260102-1a2b3c").stop()
    with pytest.raises(
        ConfigurationError, match="no montage 'm20260102-1a2b3d'; the nearest is 'm20260102-1a2b3c'"
    ):
        MontageRecord.read(journal.directory, "m20260102-1a2b3d")


def test_runs_that_are_no_montage_are_ended_too(journal: Journal) -> None:
    import event_model

    run = event_model.compose_run(metadata={"purpose": "focus"})
    journal("start", dict(run.start_doc))
    journal.close()
    assert close_interrupted(journal.directory) == [run.start_doc["uid"]]
    (found,) = find_runs(journal.directory)
    assert found.complete
    assert montages(journal.directory) == {}
