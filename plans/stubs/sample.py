"""One sample of a list: loaded, surveyed, its ROIs found or found again, and acquired."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg
from shapely import Polygon

from devices.errors import InstrumentFault
from devices.loader.device import Loader
from plans.calibrations import CalibrationStore
from plans.find_rois import FoundRoi, find_rois
from plans.preprocessors import cause_of, tolerate
from plans.realign import Anchor, Realignment, realign
from plans.sample_report import ListReport, RoiReport, SampleReport
from plans.specs.samples import Sample, SampleList, SamplePolicy, SampleRoi, SurveySpec
from plans.stubs.ask import read_now
from plans.stubs.load import await_device, load_sample, recover_loader
from plans.stubs.roi import Instruments, acquire_roi, begun_before, come_back, one_line
from plans.stubs.sample_policy import ListEnded, Skipped, Steps
from plans.stubs.sample_survey import Surveying
from plans.verdicts import EventReadable, save_event
from processing.kernels.constellation import match_points
from processing.survey import SurveyImage

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class SampleRun(Steps):
    """Samples of a list in progress: what acquires them, what is asked for, and the account.

    Attributes
    ----------
    surveyed
        The survey of the sample that is loaded.
    lies_still
        Whether it lies as it did when its account was begun.
    """

    loader: Loader
    instruments: Instruments
    spec: SampleList
    report: ListReport
    md: dict[str, Any]
    calibrations: CalibrationStore | None
    surveyed: SurveyImage | None = None
    lies_still: bool = False

    def sample(self, sample: Sample, report: SampleReport) -> Generator[Msg, Any, None]:
        """Acquire what is open of one sample; failures are told in its report."""
        policy = sample.policy or self.spec.policy
        self.say(f"sample {sample.name} (slot {sample.slot})")
        try:
            yield from self.load(sample, report, policy)
            rois = yield from self.rois(sample, report, policy)
        except Skipped:
            return
        self.enter(sample, report, rois)
        self.report.write()
        accounts = {account.name: account for account in report.rois}
        for roi in rois:
            if accounts[roi.name].status == "pending":
                yield from self.roi(sample, roi, accounts[roi.name], report, policy)
                self.report.write()
        report.status = "done"

    def load(self, sample: Sample, report: SampleReport, policy: SamplePolicy) -> Generator[Msg, Any, None]:
        """Load a sample; one that is in the microscope stays there."""
        began = time.monotonic()

        def once() -> Generator[Msg, Any, tuple[str, int]]:
            report.load_attempts += 1
            slot = yield from load_sample(
                self.loader, self.instruments.column, self.instruments.stage, sample.slot,
                barcode=sample.barcode, recovery_timeout_s=policy.recovery_timeout_s,
            )  # fmt: skip
            (count,) = yield from read_now(self.loader, "load_count")
            return slot.barcode, int(count)

        def recover() -> Generator[Msg, Any, None]:
            yield from tolerate(
                await_device(self.loader, policy.recovery_timeout_s), "waiting for the loader"
            )
            yield from come_back(self.instruments, policy.recovery_timeout_s)
            yield from tolerate(
                recover_loader(self.loader, self.instruments.column, self.instruments.stage),
                "recovering the loader",
            )

        try:
            barcode, count = yield from self.tried("loading", once, recover, report, policy.attempts)
        except Skipped as why:
            report.status, report.reason = "failed", str(why)
            self.failed(policy, policy.on_load_failure, f"sample {sample.name}: {why}")
            raise
        self.lies_still = (barcode, count) == (report.barcode, report.load_number)
        self.surveyed = None
        if self.lies_still:
            self.say("  it is in the microscope as it was left")
        elif report.load_number is not None:
            self.say("  it has been loaded again, and lies anew")
            forget_place(report)
        report.status, report.barcode, report.load_number = "loaded", barcode, count
        self.report.write()
        if not self.lies_still:
            yield from self.record_load(sample, report, time.monotonic() - began)

    def record_load(self, sample: Sample, report: SampleReport, took_s: float) -> Generator[Msg, Any, None]:
        """Write which sample was loaded into a run of its own, stream ``loader``."""
        event = {
            "loaded_slot": report.slot,
            "loaded_barcode": report.barcode,
            "load_number": report.load_number,
            "load_attempts": report.load_attempts,
            "load_time_s": took_s,
        }
        md = {"plan_name": "load_sample", "purpose": "loading", **self.metadata(sample, report)}
        yield from bpp.run_wrapper(save_event(EventReadable("loader", "devices.loader"), event), md=md)

    def rois(
        self, sample: Sample, report: SampleReport, policy: SamplePolicy
    ) -> Generator[Msg, Any, list[SampleRoi]]:
        """Return the ROIs of a sample: given, found in its survey, or found there by an earlier process."""
        plan = sample.survey or self.spec.survey
        known = [SampleRoi.model_validate(one.place) for one in report.rois if one.place is not None]
        search = not sample.rois and not (known and self.lies_still)
        found: tuple[FoundRoi, ...] = ()
        try:
            if plan is not None and (search or self.spec.realign is not None):
                found = yield from self.survey(sample, plan, report, policy, search)
        except Skipped as why:
            report.status, report.reason = "failed", str(why)
            self.failed(policy, policy.on_survey_failure, f"sample {sample.name}: {why}")
            raise
        if not search:
            return list(sample.rois) or known
        self.say(f"  {len(found)} sections found")
        before = [SampleRoi.model_validate(one.earlier_place) for one in report.rois if one.earlier_place]
        found = named_as_before(before, found) if before else found
        for one in found:
            account = next((roi for roi in report.rois if roi.name == one.name), None)
            if account is None:
                report.rois.append(account := RoiReport(one.name))
            account.place = one.as_roi().model_dump(mode="json")
            account.confidence = one.confidence
        return [one.as_roi() for one in found]

    def enter(self, sample: Sample, report: SampleReport, rois: list[SampleRoi]) -> None:
        """Let the account have a place for each ROI, and a reason for each that there is no more."""
        names = [roi.name for roi in rois]
        report.rois += [RoiReport(name) for name in names if name not in {one.name for one in report.rois}]
        for account in report.rois:
            if account.status == "pending" and account.name not in names:
                account.status = "skipped"
                account.reason = (
                    "the list has it no more"
                    if sample.rois
                    else "not found again after the sample was reloaded"
                )

    def survey(
        self, sample: Sample, plan: SurveySpec, report: SampleReport, policy: SamplePolicy, find: bool
    ) -> Generator[Msg, Any, tuple[FoundRoi, ...]]:
        """Survey the sample that is loaded, and find its sections where they are looked for."""
        parts, search, md = self.instruments, sample.search or self.spec.search, self.metadata(sample, report)
        surveying = Surveying(parts, plan, report, md, self.calibrations, self.report.write)

        def once() -> Generator[Msg, Any, tuple[FoundRoi, ...]]:
            self.surveyed = yield from surveying.picture()
            if not find:
                return ()
            found = yield from find_rois(self.surveyed, spec=search, md=md)
            if len(found) < search.min_rois:
                surveying.anew()
                raise InstrumentFault(
                    f"{len(found)} sections were found in the survey, search.min_rois = {search.min_rois} "
                    f"are wanted; see the survey's overview, or change search"
                )
            return found

        def recover() -> Generator[Msg, Any, None]:
            yield from come_back(parts, policy.recovery_timeout_s)

        return (yield from self.tried("survey", once, recover, report, policy.attempts))

    def roi(
        self, sample: Sample, roi: SampleRoi, account: RoiReport, report: SampleReport, policy: SamplePolicy
    ) -> Generator[Msg, Any, None]:
        """Acquire one ROI; a montage that was begun goes on where its tiles lie."""
        begun = False
        if account.montage_id:
            begun = bool((yield from begun_before(self.instruments.journal_dir, account.montage_id)).run_uids)
        if not begun:
            try:
                roi = yield from self.found_again(sample, roi, account, report, policy)
            except Skipped as why:
                account.status, account.reason = "skipped", str(why)
                self.failed(policy, policy.on_realign_failure, f"sample {sample.name}, ROI {roi.name}: {why}")
                return
        spec = self.spec.montage_spec(sample, roi)
        md = {**self.metadata(sample, report), "roi": roi.name}
        yield from acquire_roi(self.instruments, spec, account, policy, md, self.report.write)
        if account.aborted:
            raise ListEnded(f"sample {sample.name}, ROI {roi.name}: {account.reason}")
        self.say(
            f"  {roi.name}: {account.status}, {account.good} of {account.tiles} tiles good; {account.line}"
        )
        if account.status in ("failed", "incomplete"):
            where = f"sample {sample.name}, ROI {roi.name}: {account.reason}"
            report.incidents.append(f"ROI {roi.name} {account.status}: {account.reason}")
            self.failed(policy, policy.on_montage_failure, where)
        else:
            self.failures_in_a_row = 0

    def found_again(
        self, sample: Sample, roi: SampleRoi, account: RoiReport, report: SampleReport, policy: SamplePolicy
    ) -> Generator[Msg, Any, SampleRoi]:
        """Return a ROI where correlation says it is."""
        if self.spec.realign is None or self.surveyed is None:
            return roi
        centre = _centre(roi)
        parts, picture = self.instruments, self.surveyed
        wanted = self.spec.montage_spec(sample, roi).magnification

        def once() -> Generator[Msg, Any, Realignment]:
            before, area_um = yield from read_now(parts.column, "magnification", "illuminated_area_um")
            plan = realign(
                parts.camera, parts.column, parts.stage, Anchor(picture, centre), spec=self.spec.realign,
                magnification=wanted or float(before), calibrations=self.calibrations,
                md={**self.metadata(sample, report), "roi": roi.name},
            )  # fmt: skip

            def put_back() -> Generator[Msg, Any, None]:
                yield from bps.abs_set(parts.column.magnification, float(before), wait=True)
                yield from bps.abs_set(parts.column.illuminated_area_um, float(area_um), wait=True)

            found: Realignment = yield from bpp.finalize_wrapper(
                plan, lambda: tolerate(put_back(), "setting the magnification back")
            )
            return found

        def recover() -> Generator[Msg, Any, None]:
            yield from come_back(parts, policy.recovery_timeout_s)

        try:
            found = yield from self.tried(f"realigning {roi.name}", once, recover, report, policy.attempts)
        except Skipped:
            if policy.on_realign_failure == "continue":
                return roi
            raise
        account.offset_um, account.residual_um = found.offset_um, found.residual_um
        return _moved(roi, found.offset_um)

    def unforeseen(self, sample: Sample, report: SampleReport, failure: Exception) -> None:
        """Note a failure that no step has caught; the next sample has its turn.

        Raises
        ------
        ListEnded
            Too many have failed in a row.
        """
        logger.error("sample %s", sample.name, exc_info=failure)
        report.status, report.reason = "failed", one_line(cause_of(failure))
        for roi in report.rois:
            if roi.status == "pending":
                roi.status, roi.reason = "skipped", f"the sample failed before: {report.reason}"
        policy = sample.policy or self.spec.policy
        self.failed(policy, "skip", f"sample {sample.name}: {report.reason}")

    def metadata(self, sample: Sample, report: SampleReport) -> dict[str, Any]:
        """Return what every run of a sample says of it."""
        return {
            **self.md,
            "sample": sample.name,
            "slot": sample.slot,
            "load_number": report.load_number,
            "sample_list": self.spec.name,
        }


def forget_place(report: SampleReport) -> None:
    """Forget where a sample lay that has been loaded again: its survey, and montages that were cut off."""
    report.survey_id = ""
    for number, roi in enumerate(report.rois):
        roi.earlier_place, roi.place = roi.place or roi.earlier_place, None
        if roi.status == "pending":
            cut = [*roi.earlier_ids, *([roi.montage_id] if roi.montage_id else [])]
            report.rois[number] = RoiReport(
                roi.name, earlier_place=roi.earlier_place, earlier_ids=cut, duration_s=roi.duration_s
            )


def named_as_before(before: list[SampleRoi], found: tuple[FoundRoi, ...]) -> tuple[FoundRoi, ...]:
    """Return sections that were found again with the names they had; others are left out."""
    pairs = match_points([_centre(one) for one in before], [one.centre_um for one in found])
    return tuple(replace(found[new], name=before[old].name) for old, new in pairs)


def _centre(roi: SampleRoi) -> tuple[float, float]:
    if roi.polygon_um is None:
        assert roi.centre_um is not None
        return roi.centre_um
    point = Polygon(roi.polygon_um).centroid
    return float(point.x), float(point.y)


def _moved(roi: SampleRoi, offset_um: tuple[float, float]) -> SampleRoi:
    """Return a ROI that lies elsewhere."""
    dx, dy = offset_um
    if roi.polygon_um is not None:
        return roi.model_copy(update={"polygon_um": tuple((x + dx, y + dy) for x, y in roi.polygon_um)})
    x, y = roi.centre_um or (0.0, 0.0)
    return roi.model_copy(update={"centre_um": (x + dx, y + dy)})
