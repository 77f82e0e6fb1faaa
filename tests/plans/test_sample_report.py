"""The account of a list of samples: nothing is left out, and a person can read it."""

from __future__ import annotations

import json
from pathlib import Path

from plans.sample_report import BadTile, ListReport, RoiReport, SampleReport


def account(path: Path | None = None) -> ListReport:
    """Return an account with something of everything."""
    good = RoiReport("cortex", "good", "m1", tiles=12, good=12, reimaged=2, faults={"blurred": 2}, resumes=1)
    bad = RoiReport("edge", "accounted", "m2", tiles=9, good=8, offset_um=(1.25, -0.5))
    bad.bad.append(BadTile(0, 2, 1, "needs_review", 2, "fold after 2 attempts"))
    lost = RoiReport("far", "failed", reason="tile lies outside the stage's limits")
    return ListReport(
        "brain 7",
        [
            SampleReport(1, "a", "B1", "done", 1, [good, bad], ["loading failed, attempt 1: jammed"]),
            SampleReport(2, "b", "B2", "done", 1, [lost]),
            SampleReport(3, "c", status="failed", reason="no section was found in the survey"),
        ],
        started_s=1000.0,
        ended_s=1000.0 + 2 * 3600 + 75,
        ended="complete",
        path=path,
    )


def test_every_roi_has_a_line_and_every_bad_tile_its_reason() -> None:
    text = account().as_text()
    assert "brain 7: complete after 2:01:15" in text
    for words in (
        "2 blurred; resumed 1 x",
        "realigned by +1.2, -0.5 um",
        "needs_review: tile row 2 column 1, 2 attempts: fold after 2 attempts",
        "tile lies outside the stage's limits",
        "no section was found in the survey",
        "! loading failed, attempt 1: jammed",
        "3 samples, 3 ROIs: 1 accounted, 1 failed, 1 good",
        "21 tiles: 20 good (2 exposures repeated), 1 needs_review, all accounted for",
    ):
        assert words in text
    assert max(map(len, text.splitlines())) < 140


def test_a_tile_that_is_nowhere_is_noticed() -> None:
    report = account()
    assert report.accounted_for
    report.samples[0].rois[1].bad.clear()
    assert not report.accounted_for
    assert "NOT all accounted for" in report.as_text()


def test_what_has_no_reason_is_not_accounted_for() -> None:
    report = account()
    report.samples[2].reason = ""
    assert not report.accounted_for
    report = account()
    report.samples[1].rois[0].reason = ""
    assert not report.accounted_for


def test_many_bad_tiles_are_cut_in_the_table_and_not_in_the_json(tmp_path: Path) -> None:
    report = account(tmp_path / "accounts" / "brain")
    roi = report.samples[0].rois[1]
    roi.bad = [BadTile(0, row, 0, "missing", 0, "the camera was lost") for row in range(40)]
    assert "and 30 more; see the JSON" in report.as_text()
    report.write()
    data = json.loads((tmp_path / "accounts" / "brain.json").read_text())
    assert len(data["samples"][0]["rois"][1]["bad"]) == 40
    assert data["accounted_for"] is False
    assert (tmp_path / "accounts" / "brain.txt").read_text() == report.as_text() + "\n"
    assert sorted(path.name for path in (tmp_path / "accounts").iterdir()) == ["brain.json", "brain.txt"]
