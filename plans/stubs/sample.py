"""One sample of a list: loaded, surveyed, its ROIs found or found again, and acquired."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg, RunEngineControlException
from shapely import Polygon

from devices.errors import ConfigurationError, InstrumentFault, LimitError, MontangoError
from devices.loader.device import Loader
from plans.calibrations import CalibrationStore
from plans.find_rois import FoundRoi, find_rois
from plans.preprocessors import cause_of, tolerate
from plans.realign import Anchor, Realignment, realign
from plans.sample_report import ListReport, RoiReport, SampleReport
from plans.specs.samples import Sample, SampleList, SamplePolicy, SampleRoi, SurveySpec
from plans.stubs.ask import read_now
from plans.stubs.load import await_device, load_sample, recover_loader
from plans.stubs.roi import Instruments, acquire_roi, come_back, one_line
from plans.survey import survey
from processing.survey import SurveyImage

logger = logging.getLogger(__name__)
T = TypeVar("T")


class ListEnded(MontangoError):
    """The list ends here, as the policy says."""


class Skipped(MontangoError):
    """This sample or ROI is left out."""


@dataclass
class SampleRun:
    """Samples of a list in progress: what acquires them, what is asked for, and the account.

    Attributes
    ----------
    say
        Is told what happens, a line at a time.
    failures_in_a_row
        Loads, surveys and ROIs that failed since the last that did not.
    surveyed
        The survey of the sample that is loaded.
    """

    loader: Loader
    instruments: Instruments
    spec: SampleList
    report: ListReport
    md: dict[str, Any]
    calibrations: CalibrationStore | None
    say: Callable[[str], None]
    failures_in_a_row: int = 0
    surveyed: SurveyImage | None = None

    def sample(self, sample: Sample, report: SampleReport) -> Generator[Msg, Any, None]:
        """Acquire one sample; failures are told in its report."""
        policy = sample.policy or self.spec.policy
        self.say(f"sample {sample.name} (slot {sample.slot})")
        try:
            yield from self.load(sample, report, policy)
            rois, certain = yield from self.rois(sample, report, policy)
        except Skipped:
            return
        report.rois = [RoiReport(roi.name, confidence=certain.get(roi.name)) for roi in rois]
        for roi, account in zip(rois, report.rois, strict=True):
            yield from self.roi(sample, roi, account, report, policy)
            self.report.write()
        report.status = "done"

    def load(self, sample: Sample, report: SampleReport, policy: SamplePolicy) -> Generator[Msg, Any, None]:
        """Load a sample."""

        def once() -> Generator[Msg, Any, str]:
            report.load_attempts += 1
            slot = yield from load_sample(
                self.loader, self.instruments.column, self.instruments.stage, sample.slot,
                barcode=sample.barcode, recovery_timeout_s=policy.recovery_timeout_s,
            )  # fmt: skip
            return slot.barcode

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
            report.barcode = yield from self.tried("loading", once, recover, report, policy.attempts)
        except Skipped as why:
            report.status, report.reason = "failed", str(why)
            self.failed(policy, policy.on_load_failure, f"sample {sample.name}: {why}")
            raise
        report.status = "loaded"
        self.surveyed = None

    def rois(
        self, sample: Sample, report: SampleReport, policy: SamplePolicy
    ) -> Generator[Msg, Any, tuple[list[SampleRoi], dict[str, float]]]:
        """Return the ROIs of a sample, given or found in its survey, and how sure each is."""
        plan = sample.survey or self.spec.survey
        certain: dict[str, float] = {}
        try:
            found: tuple[FoundRoi, ...] = ()
            if plan is not None and (not sample.rois or self.spec.realign is not None):
                found = yield from self.survey(sample, plan, report, policy)
            if sample.rois:
                return list(sample.rois), certain
        except Skipped as why:
            report.status, report.reason = "failed", str(why)
            self.failed(policy, policy.on_survey_failure, f"sample {sample.name}: {why}")
            raise
        self.say(f"  {len(found)} sections found")
        return [one.as_roi() for one in found], {one.name: one.confidence for one in found}

    def survey(
        self, sample: Sample, plan: SurveySpec, report: SampleReport, policy: SamplePolicy
    ) -> Generator[Msg, Any, tuple[FoundRoi, ...]]:
        """Survey the sample that is loaded, and find its sections where its ROIs are not given."""
        parts, search = self.instruments, sample.search or self.spec.search

        def acquire(*arguments: Any) -> Generator[Msg, Any, str]:
            return parts.montage(*arguments[4:])

        def once() -> Generator[Msg, Any, tuple[FoundRoi, ...]]:
            self.surveyed = yield from survey(
                parts.sequencer, parts.camera, parts.column, parts.stage, plan.spec(), self.metadata(sample),
                acquire=acquire, max_px=plan.max_px,
            )  # fmt: skip
            if sample.rois:
                return ()
            found = yield from find_rois(self.surveyed, spec=search, md=self.metadata(sample))
            if len(found) < search.min_rois:
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
        """Acquire one ROI."""
        try:
            roi = yield from self.found_again(sample, roi, account, report, policy)
        except Skipped as why:
            account.status, account.reason = "skipped", str(why)
            self.failed(policy, policy.on_realign_failure, f"sample {sample.name}, ROI {roi.name}: {why}")
            return
        spec = self.spec.montage_spec(sample, roi)
        md = {**self.metadata(sample), "roi": roi.name}
        yield from acquire_roi(self.instruments, spec, account, policy, md)
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
                md=self.metadata(sample),
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

    def tried(
        self,
        what: str,
        once: Callable[[], Generator[Msg, Any, T]],
        recover: Callable[[], Generator[Msg, Any, None]],
        report: SampleReport,
        attempts: int,
    ) -> Generator[Msg, Any, T]:
        """Take a step, again and again as long as the policy says.

        Raises
        ------
        Skipped
            It failed every time, or cannot succeed.
        """
        for attempt in range(1, attempts + 1):
            try:
                return (yield from once())
            except RunEngineControlException:
                raise
            except Exception as failure:  # one sample must not end the list
                error = cause_of(failure)
                text = f"{what} failed, attempt {attempt}: {one_line(error)}"
                logger.warning("%s", text, exc_info=not isinstance(error, MontangoError))
                report.incidents.append(text)
                self.say(f"  {text}")
                yield from recover()
                if isinstance(error, LimitError | ConfigurationError):
                    break
        raise Skipped(f"{what} failed: {one_line(error)}")

    def failed(self, policy: SamplePolicy, reaction: str, what: str) -> None:
        """Count a failure; end the list where the policy says so.

        Raises
        ------
        ListEnded
            It says so.
        """
        self.failures_in_a_row += 1
        if reaction == "stop":
            raise ListEnded(what)
        if self.failures_in_a_row >= policy.max_failures_in_a_row:
            raise ListEnded(f"{self.failures_in_a_row} failures in a row, the last: {what}")

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

    def metadata(self, sample: Sample) -> dict[str, Any]:
        """Return what every run of a sample says of it."""
        return {**self.md, "sample": sample.name, "slot": sample.slot, "sample_list": self.spec.name}


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
