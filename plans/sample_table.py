"""The account of a list of samples as a table for people: a line a ROI, what went wrong, and the sums."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plans.sample_report import ListReport, SampleReport

STATUS_WORDS: Mapping[str, str] = {
    "pending": "not reached",
    "good": "every tile is good",
    "accounted": "every tile is acquired; some are bad, and it says which and why",
    "incomplete": "tiles are missing, and it says which and why",
    "failed": "not acquired at all",
    "skipped": "left out, as the policy or the operator said",
}
LISTED_TILES = 10
"""Bad tiles of a ROI that the table names; the JSON has them all."""


def table_lines(report: ListReport) -> Iterator[str]:
    """Yield the lines of an account."""
    end_s = report.ended_s or time.time()
    yield f"sample list {report.name}: {report.ended or 'running'} after {_hours(end_s - report.started_s)}"
    if report.continued_s:
        yield f"  gone on with {len(report.continued_s)} x after it was interrupted"
    if report.reason:
        yield f"  {report.reason}"
    yield ""
    yield (
        f"{'slot':>4} {'sample':<14}{'ROI':<14}{'state':<11}{'tiles':>6}{'good':>6}{'again':>6}{'bad':>5}"
        f"{'time':>9}  remarks"
    )
    for sample in report.samples:
        yield from _sample_lines(sample)
    yield ""
    yield from _sums(report)


def _sums(report: ListReport) -> Iterator[str]:
    rois = report.rois
    states = Counter(roi.status for roi in rois)
    yield (
        f"{len(report.samples)} samples, {len(rois)} ROIs: "
        + (", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none")
    )
    tiles, good = sum(roi.tiles for roi in rois), sum(roi.good for roi in rois)
    bad = Counter(one.state for roi in rois for one in roi.bad)
    words = ", ".join(f"{count} {state}" for state, count in sorted(bad.items()))
    yield (
        f"{tiles} tiles: {good} good ({sum(roi.reimaged for roi in rois)} exposures repeated)"
        + (f", {words}" if words else "")
        + (", all accounted for" if report.accounted_for else ", NOT all accounted for")
    )
    faults: Counter[str] = Counter()
    for roi in rois:
        faults.update(roi.faults)
    incidents = sum(len(sample.incidents) for sample in report.samples)
    if faults or incidents:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(faults.items())) or "none"
        resumed = sum(roi.resumes for roi in rois)
        yield f"faults of tiles: {kinds}; {incidents} incidents besides; {resumed} montages resumed"
    for state, meaning in STATUS_WORDS.items():
        if any(roi.status == state for roi in rois) and state != "good":
            yield f"  {state}: {meaning}"


def _sample_lines(sample: SampleReport) -> Iterator[str]:
    if not sample.rois:
        words = f"{sample.slot:>4} {sample.name[:13]:<14}{'-':<14}{sample.status:<11}"
        yield f"{words}{'':>23}{_hours(sample.duration_s):>9}  {sample.reason}"
    for roi in sample.rois:
        yield (
            f"{sample.slot:>4} {sample.name[:13]:<14}{roi.name[:13]:<14}{roi.status:<11}"
            f"{roi.tiles:>6}{roi.good:>6}{roi.reimaged:>6}{len(roi.bad):>5}{_hours(roi.duration_s):>9}"
            f"  {roi.line}"
        ).rstrip()
        for tile in roi.bad[:LISTED_TILES]:
            yield (
                f"{'':>33}{tile.state}: tile row {tile.row} column {tile.column}, "
                f"{tile.attempts} attempts: {tile.reason}"
            )
        if len(roi.bad) > LISTED_TILES:
            yield f"{'':>33}and {len(roi.bad) - LISTED_TILES} more; see the JSON"
    for incident in sample.incidents:
        yield f"{'':>5}{'! ' + incident}"


def _hours(seconds: float) -> str:
    """Return a time as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
