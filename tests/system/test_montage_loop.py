"""The loop of a montage on a laboratory that is up: faults and what is done, control, pauses, holds, dose."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import h5py
import pytest
from bluesky.run_engine import RunEngine
from bluesky.suspenders import SuspendBoolHigh
from bluesky.utils import FailedStatus, Msg

from devices.errors import Aborted, ConfigurationError, InstrumentFault, LimitError
from plans.control import LocalControl, Progress, Request
from plans.montage import MontageId, montage
from plans.preirradiate import preirradiate
from plans.specs.focus import FocusSpec
from plans.specs.montage import MontageSpec
from plans.specs.policy import Rule, RunVerdict, VerdictPolicy
from plans.specs.roi import Roi
from plans.stubs.acquisition import Acquisition, Item
from plans.stubs.blocks import submit, swallow
from tests.system.montage_bench import Bench, after

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

SPEC: dict[str, Any] = {"settle_s": 0.0, "exposure_time_s": 0.1, "centre_um": (0.0, 0.0)}
FOCUS = FocusSpec(per="once", exposure_time_s=0.1)


class Answered(LocalControl):
    """A control that calls ``answer`` whenever the montage says that it is paused."""

    def __init__(self, answer: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.answer = answer
        self.seen: list[Progress] = []

    def publish(self, progress: Progress) -> None:
        """Keep what was published, and answer a pause."""
        super().publish(progress)
        self.seen.append(progress)
        if progress.state == "paused":
            self.answer()


@pytest.fixture(scope="module")
def bench(make_config: Any, tmp_path_factory: pytest.TempPathFactory, engine: RunEngine) -> Iterator[Bench]:
    from montango.lab import running_lab
    from profiles.simulated.devices import make_devices

    config = make_config(512, False, facility={"ioc": None})
    with running_lab(config, tmp_path_factory.mktemp("loop")) as lab:
        devices = make_devices(lab.info())
        one = Bench(lab, devices, engine)
        yield one
        one.queued.close()
        one.world.close()
        devices.disconnect()


@pytest.fixture(autouse=True)
def no_faults_left(bench: Bench) -> Iterator[None]:
    """Leave nothing armed for the next test."""
    yield
    bench.clear()


@pytest.mark.parametrize("centre", [(0.0, 0.0), (37.0, -61.0), (400.0, 120.0), (-300.0, 25.0)])
def test_a_clean_montage_has_no_tile_acquired_again(bench: Bench, centre: tuple[float, float]) -> None:
    # fields of 4 um, some of them resin: in smaller ones a single organelle may fill a tile
    spec = MontageSpec(rows=5, columns=5, magnification=2500.0, **{**SPEC, "centre_um": centre})
    ended = bench.run(spec)
    assert ended.decisions == []
    assert ended.exposures == 25
    assert ended.verdict["montage_verdict"] == "GOOD"
    assert ended.verdict["montage_missing"] == ended.verdict["montage_reimaged"] == 0


@pytest.mark.parametrize(
    ("fault", "kind", "decision"),
    [
        ("focus_jump", "blurred", "again: refocus"),
        ("drift_burst", "smeared", "again: settle"),
        ("corrupted_frame", "damaged", "again: reimage"),
        ("frozen_frame", "frozen", "again: reimage"),
        ("charging", "charging", "again: reimage"),
    ],
)
def test_a_spoiled_tile_is_dealt_with_as_the_policy_says(
    bench: Bench, fault: str, kind: str, decision: str
) -> None:
    spec = MontageSpec(rows=4, columns=4, focus=FOCUS if fault == "focus_jump" else None, **SPEC)
    focusing = 0 if spec.focus is None else bench.run(spec).exposures - 16
    bench.arm(fault, focusing + 6)
    ended = bench.run(spec)
    assert ended.decisions == [(kind, decision)]
    tiles = ended.tiles()
    assert len(tiles) == 17
    assert sum(attempt for *_, attempt in tiles) == 1
    assert ended.verdict["montage_verdict"] == "GOOD"
    assert ended.verdict["montage_reimaged"] == 1
    if spec.focus is not None:
        assert len(ended.events("focus_offset_um")) == 2  # before the first tile, and for the blurred one


def test_lost_beam_is_waited_for_blanked_and_the_dark_tiles_follow(bench: Bench) -> None:
    bench.arm("beam_loss", 6, seconds=5.0)  # longer than it takes to see that a tile is dark
    control = Answered()
    ended = bench.run(MontageSpec(rows=4, columns=4, **SPEC), control=control)
    assert {one for one, _ in ended.decisions} == {"dark"}
    assert {decision for _, decision in ended.decisions} == {"again: wait_for_beam"}
    assert [event["incident_kind"] for event in ended.events("incident_kind")] == ["hold", "resume"]
    assert any(one.state == "paused" and "beam_current_na" in one.reason for one in control.seen)
    assert control.seen[-1].state == "completed"
    assert ended.verdict["montage_verdict"] == "GOOD"
    assert ended.verdict["time_hold_s"] > 0


@pytest.mark.parametrize("fault", ["debris", "fold"])
def test_what_lies_on_the_specimen_is_kept_for_review_without_more_dose(bench: Bench, fault: str) -> None:
    bench.arm(fault, 6)
    ended = bench.run(MontageSpec(rows=4, columns=4, **SPEC))
    assert ended.decisions == [(fault, "keep")]
    assert ended.exposures == 16
    assert ended.verdict["montage_needs_review"] == 1
    assert ended.verdict["montage_verdict"] == "GOOD"


def test_dirt_that_stays_is_kept_for_review_and_damage_that_stays_fails(bench: Bench) -> None:
    bench.arm("debris", 6, count=1)
    bench.arm("debris", 16, count=5)
    again = VerdictPolicy(debris=Rule(action="reimage", attempts=1, afterwards="needs_review"))
    ended = bench.run(MontageSpec(rows=4, columns=4, policy=again, **SPEC))
    assert ended.decisions == [("debris", "again: reimage"), ("debris", "keep")]
    assert ended.verdict["montage_needs_review"] == 1
    assert ended.verdict["montage_verdict"] == "GOOD"
    bench.clear()
    bench.arm("corrupted_frame", 6, count=1)
    bench.arm("corrupted_frame", 16, count=5)
    ended = bench.run(MontageSpec(rows=4, columns=4, **SPEC))
    assert ended.verdict["montage_failed"] == 1
    assert [decision for _, decision in ended.decisions] == ["again: reimage"] * 2 + ["keep"]


def test_damage_of_neighbours_over_rows_is_persistent_and_stops_at_the_end(bench: Bench) -> None:
    for tile in (5, 9, 10):  # (row 1, column 2), (row 2, columns 1 and 2) of the snake
        bench.arm("corrupted_frame", tile)
    bench.arm("corrupted_frame", 16, count=20)
    ended = bench.run(MontageSpec(rows=4, columns=4, max_attempts=2, **SPEC))
    assert ended.verdict["montage_verdict"] == "STOP_AT_END"
    assert "persistent damaged" in ended.verdict["montage_reason"]
    assert ended.error is None
    bench.arm("corrupted_frame", 6)
    policy = VerdictPolicy(damaged=Rule(action="stop"))
    ended = bench.run(MontageSpec(rows=6, columns=6, policy=policy, **SPEC))
    assert isinstance(ended.error, Aborted)
    assert ended.verdict["montage_verdict"] == "STOP_NOW"
    assert ended.stop["exit_status"] == "abort"


def test_a_block_that_comes_after_a_failure_that_nobody_saw_yet_is_not_exposed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(run: Acquisition, block: Sequence[Item]) -> Generator[Msg, Any, None]:
        """Send a block when the one before has ended, and tell nobody how."""
        while run.queued and not run.queued[-1].status.done:
            yield from swallow(0.01)
        yield from submit(run, block)

    monkeypatch.setattr("plans.stubs.acquire.submit", late)
    bench.arm("stage_stuck", 6)
    ended = bench.run(MontageSpec(rows=4, columns=4, **SPEC))
    assert ended.error is None
    assert ended.exposures == 16
    assert ended.tiles() == Counter((0, row, column, 0) for row in range(4) for column in range(4))
    bench.arm("stage_miss", 6, count=3)
    ended = bench.run(MontageSpec(rows=4, columns=4, stage_retries=1, **SPEC))
    assert isinstance(ended.error, InstrumentFault)  # and not that what came after was refused
    assert "tolerance" in str(ended.error)
    assert ended.all_once(6)


def test_stuck_stage_is_stopped_and_moved_again_but_not_for_ever(bench: Bench) -> None:
    bench.arm("stage_stuck", 6)
    ended = bench.run(MontageSpec(rows=4, columns=4, **SPEC))
    assert ended.error is None
    assert ended.decisions == []
    assert ended.exposures == 16
    assert ended.all_once(16)
    (incident,) = ended.events("incident_kind")
    assert incident["incident_kind"] == "stage_stuck"
    bench.arm("stage_stuck", 6, count=8)
    ended = bench.run(MontageSpec(rows=4, columns=4, **SPEC))
    assert "stage_stuck 3 times in a row" in ended.verdict["montage_reason"]
    assert (ended.verdict["montage_verdict"], ended.stop["exit_status"]) == ("STOP_NOW", "fail")
    assert "em/stage/1" in str(ended.error)
    for _ in range(5):  # the moves that are still to be stuck
        with contextlib.suppress(FailedStatus):
            bench.engine(bps.mv(bench.devices.stage, (0.0, 0.0)))


def test_a_stage_that_misses_its_tolerance_ends_the_montage_by_name(bench: Bench) -> None:
    bench.arm("stage_miss", 6, count=3)
    spec = MontageSpec(rows=4, columns=4, stage_retries=1, **SPEC)
    ended = bench.run(spec)
    assert isinstance(ended.error, InstrumentFault)
    assert "row 1, column" in str(ended.error)
    assert "tolerance" in str(ended.error)
    assert ended.all_once(6)
    assert bench.run(spec).error is None


def test_operator_pauses_resumes_retries_accepts_and_ends(bench: Bench) -> None:
    control = Answered()
    control.answer = control.resume
    spec = MontageSpec(rows=6, columns=8, **SPEC)
    for request, pause in ((Request.PAUSE, control.pause), (Request.PAUSE_NOW, control.pause_now)):
        ended = bench.run(spec, after(9, pause), control=control, judged=False)
        assert ended.error is None
        assert ended.all_once(48)
        kinds = [event["incident_text"] for event in ended.events("incident_kind")]
        assert kinds == [str(request), "paused by the operator", "resume", "paused by the operator"]
        assert ended.exposures == 48  # an exposure that is ended does not count

    ended = bench.run(spec, after(9, lambda: control.ask(Request.ABORT)), control=control)
    assert isinstance(ended.error, Aborted)
    assert ended.stop["exit_status"] == "abort"
    assert ended.verdict["montage_missing"] > 0

    ended = bench.run(spec, after(9, lambda: control.ask(Request.ABORT_AT_END_OF_ROW)), control=control)
    assert isinstance(ended.error, Aborted)
    tiles = ended.tiles()
    assert len(tiles) < 48
    assert len(tiles) % 8 == 0
    assert control.progress.state == "cancelled"

    bench.arm("debris", 6)
    ended = bench.run(
        MontageSpec(rows=4, columns=4, **SPEC),
        after(16, lambda: control.ask(Request.ACCEPT)),
        control=control,
    )
    assert ended.events("qc_decision")[-1]["qc_state"] == "pass"


def test_a_region_is_skipped(bench: Bench) -> None:
    control = LocalControl()
    rois = tuple(
        Roi(name=name, polygon_um=((x, 0.0), (x + 9, 0.0), (x + 9, 9.0), (x, 9.0)))
        for name, x in (("a", 0.0), ("b", 40.0), ("c", 80.0))
    )
    spec = MontageSpec(rois=rois, **{**SPEC, "centre_um": None})
    whole = bench.run(spec, control=control).tiles()
    per_region = Counter(roi for roi, *_ in whole)
    ended = bench.run(spec, after(per_region[0] + 4, lambda: control.ask(Request.SKIP_ROI)), control=control)
    seen = Counter(roi for roi, *_ in ended.tiles())
    assert ended.error is None
    assert (seen[0], seen[2]) == (per_region[0], per_region[2])
    assert 0 < seen[1] < per_region[1]
    assert ended.verdict["montage_skipped"] == per_region[1] - seen[1]


@pytest.mark.parametrize("mode", ["sequenced", "stepped"])
@pytest.mark.parametrize("deferred", [False, True])
def test_pauses_of_the_runengine_neither_lose_nor_repeat_a_tile(
    bench: Bench, mode: Any, deferred: bool
) -> None:
    spec = MontageSpec(rows=6, columns=6, mode=mode, focus=FocusSpec(every_tiles=12), **SPEC)
    frames = iter((3, 10, 17, 26))
    due = [next(frames)]

    def watch(name: str, doc: dict[str, Any]) -> None:
        if name == "stream_datum" and doc["indices"]["stop"] >= due[0]:
            due[0] = next(frames, 10**9)
            bench.engine.loop.call_soon_threadsafe(
                lambda: bench.engine.loop.create_task(bench.engine._request_pause_coro(defer=deferred))
            )

    pauses: list[int] = []

    def paused() -> None:
        pauses.append(bench.world.exposures())

    ended = bench.run(spec, watch, judged=False, paused=paused)
    assert ended.error is None
    assert ended.stop["exit_status"] == "success"
    assert ended.all_once(36)
    assert pauses


def test_a_suspender_of_bluesky_holds_and_the_montage_goes_on_by_itself(bench: Bench) -> None:
    from ophyd import Signal  # Channel Access reads its environment when imported

    bad = Signal(name="bad", value=0)
    suspender = SuspendBoolHigh(bad, sleep=0.2)
    bench.engine.install_suspender(suspender)

    def trip() -> None:
        bad.put(1)
        threading.Timer(0.5, lambda: bad.put(0)).start()

    try:
        ended = bench.run(MontageSpec(rows=6, columns=6, **SPEC), after(7, trip), judged=False)
    finally:
        bench.engine.remove_suspender(suspender)
    assert ended.stop["exit_status"] == "success"
    assert ended.exposures == 36
    assert ended.all_once(36)


def test_a_reason_to_hold_blanks_and_the_montage_goes_on_by_itself(bench: Bench) -> None:
    reasons: list[str] = []
    control = Answered(reasons.clear)
    control.hold_by(lambda: tuple(reasons))
    vacuum = after(7, lambda: reasons.append("vacuum 3e-4 Pa"))
    ended = bench.run(MontageSpec(rows=6, columns=6, **SPEC), vacuum, control=control)
    assert ended.exposures == 36
    assert [one["incident_text"] for one in ended.events("incident_kind")] == ["vacuum 3e-4 Pa"] * 2
    assert control.progress.state == "completed"
    assert control.progress.current_tile == 36


def test_dose_is_recorded_and_a_tile_over_the_budget_is_not_exposed(bench: Bench) -> None:
    spec = MontageSpec(rows=3, columns=3, **SPEC)
    ended = bench.run(spec)
    uri = next(doc["uri"] for name, doc in ended.documents if name == "stream_resource")
    with h5py.File(uri.removeprefix("file://localhost"), "r", libver="latest", swmr=True) as file:
        dose, prior = (file[f"/entry/tiles/{name}_e_per_a2"][:] for name in ("dose", "prior_dose"))
    assert (dose > 0).all()
    assert prior[0] == 0
    assert (prior[1:] >= dose[0] * 0.999).all()
    most = float((prior + dose).max())
    with pytest.raises(LimitError, match="max_dose_e_per_a2"):
        bench.engine(
            montage(
                *bench.instruments,
                spec.model_copy(update={"max_dose_e_per_a2": 0.9 * most}),
                minimum_free_gb=0.1,
            )
        )
    # just enough for the montage: a tile that fails cannot be acquired again
    bench.arm("corrupted_frame", 4)
    ended = bench.run(spec.model_copy(update={"max_dose_e_per_a2": 1.01 * most}))
    assert ended.error is None
    assert ended.exposures == 9
    assert ended.decisions[0][1] == "again: reimage"


def test_preirradiation_covers_the_area_and_blanks(bench: Bench) -> None:
    spec, documents = MontageSpec(rows=2, columns=2, **SPEC), []
    before = bench.world.exposures()
    plan = preirradiate(*bench.instruments[1:], spec, time_s=0.01)
    bench.engine(plan, lambda name, doc: documents.append((name, doc)))
    events = [doc["data"] for name, doc in documents if name == "event"]
    assert len(events) == dict(documents)["start"]["num_points"]
    assert bench.world.exposures() == before
    assert bench.column.beam_blanked
    with pytest.raises(ConfigurationError, match="give one of them"):
        bench.engine(preirradiate(*bench.instruments[1:], spec))


def test_settings_are_put_back_and_a_missing_calibration_is_named(bench: Bench) -> None:
    spec = MontageSpec(rows=2, columns=2, magnification=2500.0, binning=2, **SPEC)
    ended = bench.run(spec, judged=False)
    assert ended.documents[0][1]["montage_view"]["width_px"] == 256
    assert bench.column.magnification == 5000
    assert bench.camera.binning == 1
    with pytest.raises(ConfigurationError, match="image_shift"):
        bench.engine(montage(*bench.instruments, MontageSpec(rows=2, columns=2, supertile=(2, 2), **SPEC)))


def test_the_id_carries_the_verdict(bench: Bench) -> None:
    results: list[Any] = []

    def plan() -> Any:
        results.append((yield from montage(*bench.instruments, MontageSpec(rows=1, columns=2, **SPEC))))

    bench.engine(plan())
    assert isinstance(results[0], MontageId)
    assert results[0].verdict.verdict == RunVerdict.GOOD
