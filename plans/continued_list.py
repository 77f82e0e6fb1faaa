"""Going on with a list of samples whose process has ended: its account, what is done, what is open."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from devices.errors import ConfigurationError, MontangoError
from plans.record import MontageRecord
from plans.sample_report import ListReport, RoiReport, SampleReport
from plans.specs.samples import SampleList
from processing.callbacks.journal import JournalledRun, find_runs

logger = logging.getLogger(__name__)

DONE: Final = ("good", "accounted")
FAILED: Final = ("incomplete", "failed", "skipped")
LONGEST_VALUE: Final = 60


def account_path(folder: Path | str, name: str, now: datetime | None = None) -> Path:
    """Return where the account of a list that begins now is kept, without suffix: ``NAME-TIME``."""
    return Path(folder) / f"{_label(name)}-{now or datetime.now():%Y%m%d-%H%M%S}"


def find_account(folder: Path | str, name: str) -> ListReport:
    """Return the newest account of a list.

    Raises
    ------
    ConfigurationError
        There is none, or it cannot be read.
    """
    times = re.compile(re.escape(_label(name)) + r"-\d{8}-\d{6}\.json")
    for path in sorted(Path(folder).glob("*.json"), reverse=True):
        if times.fullmatch(path.name):
            report = ListReport.read(path)
            if report.name == name:
                return report
    raise ConfigurationError(
        f"{folder} has no account of a list with name = {name!r}: there is nothing to go on with; run the "
        f"list, or say with --report where its account is"
    )


def go_on_with(
    before: ListReport, spec: SampleList, *, accept_changes: bool = False, retry: bool = False
) -> ListReport:
    """Return the account of a list that goes on.

    What is done keeps its account. What had not had its turn, or was cut off in the middle, is open again;
    with ``retry`` what failed is, too. Samples that the list has no more keep their account where they have
    one.

    Parameters
    ----------
    before
        The account as the process that ended left it.
    spec
        The list.
    accept_changes
        Go on although the list differs from the one that was begun.
    retry
        Try again what failed, is incomplete or was left out.

    Raises
    ------
    ConfigurationError
        The list differs; naming what does.
    """
    after = spec.model_dump(mode="json")
    changes = list(changed_parts(_as_now(before.listed), after))
    if changes and not accept_changes:
        raise ConfigurationError(
            f"list {spec.name!r} was begun differently: {'; '.join(changes)}; give the same list, or accept "
            f"the changes with accept_changes=True (--accept-changes)"
        )
    known = {sample.name: sample for sample in before.samples}
    samples = [
        known.pop(one.name) if one.name in known else SampleReport(one.slot, one.name) for one in spec.samples
    ]
    for sample, asked in zip(samples, spec.samples, strict=True):
        sample.slot = asked.slot
        _reopen(sample, [roi.name for roi in asked.rois], retry)
    left = [sample for sample in known.values() if sample.rois]
    return replace(
        before,
        samples=samples + left,
        listed=after,
        continued_s=[*before.continued_s, time.time()],
        ended="",
        ended_s=0.0,
        reason="",
    )


def is_open(sample: SampleReport) -> bool:
    """Whether something of a sample is still to be done."""
    return sample.status not in ("done", "failed", "skipped")


def changed_parts(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """Yield what differs between two lists, as JSON has them, a line a field; samples and ROIs by name."""
    if _named(before) and _named(after):
        old, new = ({one["name"]: one for one in listed} for listed in (before, after))
        if [name for name in old if name in new] != [name for name in new if name in old]:
            yield f"{where}: their order"
        before, after = old, new
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in {**before, **after}:
            place = f"{where}.{key}" if where else key
            if key not in after or key not in before:
                yield f"{place} is {'new' if key in after else 'gone'}"
            else:
                yield from changed_parts(before[key], after[key], place)
    elif before != after:
        yield f"{where} was {_short(before)} and is {_short(after)}"


def check_frames(report: ListReport, journal_dir: Path | str) -> None:
    """Open those ROIs again whose files have lost frames, as after a power cut.

    A file that is gone as a whole has been moved by somebody: its ROI stays done.
    """
    runs = find_runs(journal_dir)
    for sample in report.samples:
        for roi in sample.rois:
            lost = _frames_lost(roi, journal_dir, runs) if roi.status in DONE else 0
            if lost:
                sample.incidents.append(f"ROI {roi.name}: {lost} frames of it are lost, it is gone on with")
                roi.status, roi.retry = "pending", True
                sample.status, sample.reason = "pending", ""


def _frames_lost(roi: RoiReport, journal_dir: Path | str, runs: Sequence[JournalledRun]) -> int:
    try:
        record = MontageRecord.read(journal_dir, roi.montage_id, runs=runs)
    except MontangoError as error:
        logger.warning("ROI %s is not checked: %s", roi.name, error)
        return 0
    if any(run.path is not None and not run.path.exists() for run in record.runs):
        return 0
    return max(0, roi.exposures - record.exposures)


def _reopen(sample: SampleReport, asked: list[str], retry: bool) -> None:
    """Open what is to be done of a sample."""
    for roi in sample.rois:
        cut = roi.status == "pending" or roi.not_reached or roi.aborted
        if cut or (retry and roi.status in FAILED):
            roi.retry = roi.status in FAILED and not (roi.not_reached or roi.aborted)
            roi.status, roi.reason, roi.not_reached, roi.aborted = "pending", "", False, False
    pending = any(roi.status == "pending" for roi in sample.rois)
    added = sample.status == "done" and not {*asked} <= {roi.name for roi in sample.rois}
    again = retry and sample.status in ("failed", "skipped")
    if pending or added or again or sample.not_reached or sample.status == "loaded":
        sample.status, sample.reason, sample.not_reached = "pending", "", False


def _as_now(listed: Mapping[str, Any]) -> Any:
    """Return a list as this version writes it: fields that are new since have their defaults."""
    try:
        return SampleList.model_validate(listed).model_dump(mode="json")
    except ValueError:
        return listed


def _named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, Mapping) and "name" in one for one in value)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _label(name: str) -> str:
    """Return a list's name as a part of a file's."""
    return re.sub(r"[^\w.+-]", "_", name).lstrip(".")
