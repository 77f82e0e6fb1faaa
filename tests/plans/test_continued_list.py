"""Going on with a list: what is open, what is refused, and an account that survives the moment of a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from devices.errors import ConfigurationError
from plans.continued_list import account_path, changed_parts, find_account, go_on_with, is_open
from plans.sample_report import BadTile, ListReport, RoiReport, SampleReport
from plans.specs.samples import SampleList
from plans.stubs.sample import forget_place, named_as_before

NEAR = {"name": "near", "centre_um": [1, 2]}
FAR = {"name": "far", "centre_um": [50, 2]}
ROIS = [NEAR, FAR]


def listed(**changes: Any) -> SampleList:
    """Return a list of three samples with two ROIs each, with changes."""
    samples = [{"slot": slot, "name": name, "rois": ROIS} for slot, name in ((1, "a"), (2, "b"), (3, "c"))]
    montage = {"rows": 2, "columns": 2}
    return SampleList.model_validate({"name": "night 1", "montage": montage, "samples": samples, **changes})


def cut_off(path: Path | None = None) -> ListReport:
    """Return the account of a list whose process was killed in the second ROI of its second sample."""
    done = RoiReport("near", "good", "m1", ["r1"], tiles=4, good=4, exposures=4, offset_um=(0.5, -1.0))
    bad = RoiReport("far", "accounted", "m2", ["r2"], tiles=4, good=3)
    bad.bad.append(BadTile(0, 1, 1, "needs_review", 2, "fold"))
    samples = [
        SampleReport(1, "a", "B1", "done", 1, [done, bad], load_number=1),
        SampleReport(2, "b", "B2", "loaded", 1, [RoiReport("near", "failed"), RoiReport("far")]),
        SampleReport(3, "c"),
    ]
    samples[1].load_number, samples[1].survey_id = 2, "m3"
    samples[1].rois[1].montage_id = "m4"
    return ListReport("night 1", samples, listed().model_dump(mode="json"), path=path)


def test_an_account_comes_back_as_it_was_written(tmp_path: Path) -> None:
    report = cut_off(account_path(tmp_path / "accounts", "night 1"))
    report.write()
    found = find_account(tmp_path / "accounts", "night 1")
    assert found == report
    assert sorted(path.suffix for path in (tmp_path / "accounts").iterdir()) == [".json", ".txt"]


def test_the_newest_account_of_the_list_is_found(tmp_path: Path) -> None:
    for time_, name in (
        ("20260101-100000", "night 1"),
        ("20260102-100000", "night 1"),
        ("20260103-100000", "x"),
    ):
        report = cut_off(tmp_path / f"night_1-{time_}")
        report.name = name
        report.write()
    assert find_account(tmp_path, "night 1").path == tmp_path / "night_1-20260102-100000"
    with pytest.raises(ConfigurationError, match="no account of a list with name = 'night'"):
        find_account(tmp_path, "night")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "night 1"}', '{"samples": [{"slot": 1}]}'])
def test_a_file_that_is_no_account_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "night_1-20260102-100000.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="not an account that this version"):
        find_account(tmp_path, "night 1")


def test_what_is_done_stays_and_what_was_cut_off_is_open() -> None:
    report = go_on_with(cut_off(), listed())
    assert [is_open(sample) for sample in report.samples] == [False, True, True]
    near, far = report.samples[1].rois
    assert (near.status, far.status, far.montage_id) == ("failed", "pending", "m4")
    assert report.samples[1].survey_id == "m3"
    assert (report.ended, len(report.continued_s)) == ("", 1)


def test_a_list_that_was_stopped_goes_on_where_it_was_and_failures_only_when_asked() -> None:
    def stopped() -> ListReport:
        before = cut_off()
        before.ended, before.samples[1].status = "stopped", "loaded"
        before.samples[1].rois[1].status, before.samples[1].rois[1].not_reached = "skipped", True
        before.samples[2].status, before.samples[2].not_reached = "skipped", True
        return before

    report = go_on_with(stopped(), listed())
    assert [sample.status for sample in report.samples] == ["done", "pending", "pending"]
    assert [roi.status for roi in report.samples[1].rois] == ["failed", "pending"]
    again = go_on_with(stopped(), listed(), retry=True)
    assert [roi.status for roi in again.samples[1].rois] == ["pending", "pending"]
    assert [roi.retry for roi in again.samples[1].rois] == [True, False]
    assert again.samples[0].status == "done"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"montage": {"rows": 2, "columns": 3}}, "montage.columns was 2 and is 3"),
        ({"montage": {"rows": 2, "columns": 2, "overlap": 0.2}}, "montage.overlap is new"),
        ({"samples": [{"slot": 1, "name": "a", "rois": ROIS}]}, "samples.b is gone; samples.c is gone"),
        (
            {
                "samples": [
                    {"slot": slot, "name": name, "rois": ROIS}
                    for slot, name in ((1, "a"), (3, "c"), (2, "b"))
                ]
            },
            "samples: their order",
        ),
        ({"policy": {"resumes": 9}}, "policy.resumes was 5 and is 9"),
    ],
)
def test_another_list_is_refused_by_the_name_of_what_changed(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refused:
        go_on_with(cut_off(), listed(**changes))
    assert "--accept-changes" in str(refused.value)
    assert go_on_with(cut_off(), listed(**changes), accept_changes=True).samples[0].status == "done"


def test_a_moved_roi_is_named_and_new_ones_are_open() -> None:
    moved = {**NEAR, "centre_um": [2, 2]}
    new = {"name": "new", "centre_um": [0, 0]}
    changed = listed(samples=[{"slot": 1, "name": "a", "rois": [moved, FAR, new]}])
    before = cut_off()
    assert list(changed_parts(before.listed["samples"][:1], changed.model_dump(mode="json")["samples"])) == [
        "a.rois.near.centre_um was [1.0, 2.0] and is [2.0, 2.0]",
        "a.rois.new is new",
    ]
    report = go_on_with(before, changed, accept_changes=True)
    assert is_open(report.samples[0])
    assert [sample.name for sample in report.samples] == ["a", "b"], "what was acquired of b is not forgotten"


def test_a_sample_that_was_loaded_again_has_no_survey_and_its_cut_montage_is_begun_anew() -> None:
    places = {"near": (1.0, 2.0), "far": (50.0, 2.0)}
    sample = cut_off().samples[1]
    sample.rois[0].status = "good"
    for roi in sample.rois:
        roi.place = {"name": roi.name, "centre_um": places[roi.name]}
    forget_place(sample)
    near, far = sample.rois
    assert sample.survey_id == ""
    assert (near.status, near.place, near.earlier_place) == (
        "good",
        None,
        {"name": "near", "centre_um": (1.0, 2.0)},
    )
    assert (far.montage_id, far.earlier_ids, far.place) == ("", ["m4"], None)
    assert far.earlier_place is not None
    kept = far.earlier_place
    forget_place(sample)
    assert sample.rois[1].earlier_place == kept, "a kill before it was found again forgets nothing"


WRITER = """
import sys
from pathlib import Path
from plans.sample_report import ListReport, RoiReport, SampleReport
report = ListReport("n", [SampleReport(1, "a")], {"name": "n"}, path=Path(sys.argv[1]) / "n-20260101-100000")
report.write()
print("begun", flush=True)
for count in range(1, 100000):
    report.samples[0].rois.append(RoiReport(f"roi {count}", reason="x" * 200))
    report.samples[0].load_attempts = count
    report.write()
    print(count, flush=True)
"""


@pytest.mark.parametrize("after", [3, 20])
def test_a_killed_writer_leaves_the_last_account_whole(tmp_path: Path, after: int) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if line.strip() == str(after):
                break
        writer.kill()
        acknowledged = [int(line) for line in writer.stdout.read().split()] or [after]
    report = ListReport.read(tmp_path / "n-20260101-100000.json")
    assert len(report.rois) == report.samples[0].load_attempts
    assert acknowledged[-1] <= len(report.rois) <= acknowledged[-1] + 1
    json.loads((tmp_path / "n-20260101-100000.json").read_text())


def test_sections_keep_their_names_where_they_are_found_in_another_order() -> None:
    from plans.find_rois import FoundRoi
    from plans.specs.samples import SampleRoi

    before = [
        SampleRoi(name=f"section-{n}", centre_um=at) for n, at in ((1, (0, 0)), (2, (30, 0)), (3, (0, 40)))
    ]

    def found(name: str, x_um: float, y_um: float) -> FoundRoi:
        return FoundRoi(name, ((0, 0), (1, 0), (1, 1)), (x_um, y_um), 1.0, 0.9)

    again = (found("section-1", 34, 1), found("section-2", 4, 3), found("section-3", 6, 42))
    named = {one.name: one.centre_um for one in named_as_before(before, again)}
    assert named == {"section-1": (4, 3), "section-2": (34, 1), "section-3": (6, 42)}
