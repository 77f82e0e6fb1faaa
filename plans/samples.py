"""A list of samples, one after the other, unattended: load, survey, find or realign, acquire, account."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import Readable
from bluesky.utils import Msg, RunEngineControlException

from devices.camera.device import Camera
from devices.column.device import Column
from devices.loader.device import Loader
from devices.sequencer.device import Sequencer
from devices.stage.device import Stage
from plans.calibrations import CalibrationStore
from plans.continued_list import account_path, go_on_with, is_open
from plans.control import Control
from plans.preprocessors import tolerate
from plans.sample_report import ListReport, SampleReport
from plans.specs.samples import SampleList
from plans.stubs.list_start import check_loader, put_settings_back, read_settings, settle
from plans.stubs.load import load_sample, recover_loader
from plans.stubs.roi import Instruments, one_line
from plans.stubs.sample import SampleRun
from plans.stubs.sample_policy import ListEnded
from plans.verdicts import Verdicts
from processing.callbacks.tile_qc import QCThresholds

logger = logging.getLogger(__name__)


def run_samples(
    loader: Loader,
    sequencer: Sequencer,
    camera: Camera,
    column: Column,
    stage: Stage,
    spec: SampleList,
    md: dict[str, Any] | None = None,
    *,
    journal_dir: Path | str,
    report_dir: Path | str | None = None,
    account: ListReport | None = None,
    accept_changes: bool = False,
    retry: bool = False,
    say: Callable[[str], None] | None = None,
    verdicts: Verdicts | None = None,
    baseline: Sequence[Readable[Any]] = (),
    minimum_free_gb: float = 2.0,
    calibrations: CalibrationStore | None = None,
    control: Control | None = None,
    thresholds: QCThresholds | None = None,
) -> Generator[Msg, Any, ListReport]:
    """Acquire the ROIs of a list of samples, and carry on past what fails as the list's policy says.

    Slots and barcodes are checked before anything moves. Each sample is loaded (beam blanked, valves closed,
    stage at zero), surveyed where its ROIs are to be found, and each ROI is a montage of its own; a montage
    whose device servers ended is resumed by itself. At the end the sample is taken out, the beam blanked.
    The account is written anew after each step, so that it is there whatever happens.

    With ``account`` a list goes on whose process has ended, however that was: what is done is not acquired
    again, the montage or survey that was cut off is resumed, what was found in a survey is used again. All
    that holds while the sample lies as it did, which barcode and count of the loader say; a sample that has
    been loaded again is surveyed anew, and its montage that was cut off begun anew.

    Parameters
    ----------
    loader, sequencer, camera, column, stage
        The instruments.
    spec
        The list.
    md
        Metadata of every run.
    journal_dir
        The journal of the laboratory: what it and the files hold counts as acquired.
    report_dir
        Where the account goes, as ``NAME-TIME.txt`` and ``.json``; None: nowhere.
    account
        The account of the list that is gone on with, from `plans.continued_list.find_account`; it stays where
        it is. None begins the list.
    accept_changes
        Go on although the list differs from the one that was begun.
    retry
        Try again what failed, is incomplete or was left out, too.
    say
        Is told what happens, a line at a time.
    verdicts, baseline, minimum_free_gb, calibrations, control, thresholds
        As for `plans.montage.montage` and `plans.resume.resume_montage`.

    Returns
    -------
    ListReport
        The account: every tile is good, or it says which is not and why.

    Raises
    ------
    LimitError, ConfigurationError
        A slot does not exist or has another barcode, or the list is not the one that was begun; nothing has
        moved.
    RunEngineControlException
        The RunEngine was told to stop or to abort; the account is written nevertheless.

    Examples
    --------
    >>> report = yield from run_samples(  # doctest: +SKIP
    ...     loader, sequencer, camera, column, stage, load_samples("list.yaml"), journal_dir=journal
    ... )
    """
    options = {
        "verdicts": verdicts,
        "baseline": baseline,
        "minimum_free_gb": minimum_free_gb,
        "calibrations": calibrations,
        "control": control,
    }
    instruments = Instruments(sequencer, camera, column, stage, Path(journal_dir), options, thresholds)
    if account is None:
        path = None if report_dir is None else account_path(report_dir, spec.name)
        samples = [SampleReport(one.slot, one.name) for one in spec.samples]
        report = ListReport(spec.name, samples, spec.model_dump(mode="json"), path=path)
    else:
        report = go_on_with(account, spec, accept_changes=accept_changes, retry=retry)
    listed = _Listed(
        say=say or logger.info,
        loader=loader,
        instruments=instruments,
        spec=spec,
        report=report,
        md=md or {},
        calibrations=calibrations,
    )
    yield from check_loader(loader, spec, report, accept_changes=accept_changes)
    if account is None:
        report.settings = yield from read_settings(column, camera)
        report.write()
    else:
        yield from bpp.finalize_wrapper(listed.take_over(), listed.leave_dark)
        report.write()
        if not any(map(is_open, report.samples)):
            listed.say(f"list {spec.name}: there is nothing to go on with")
            report.ended, report.ended_s = "complete", time.time()
            report.write()
            return report
    return (yield from bpp.finalize_wrapper(listed.run(), listed.finish))  # type: ignore[no-any-return]


class _Listed(SampleRun):
    """A list in progress."""

    def take_over(self) -> Generator[Msg, Any, None]:
        """Bring to rest and to its end what the process before left, and put its settings back."""
        parts = self.instruments
        yield from settle(self.loader, parts, self.report, self.spec.policy.recovery_timeout_s)
        yield from put_settings_back(parts.column, parts.camera, self.report.settings)
        done = sum(not is_open(sample) for sample in self.report.samples)
        self.say(f"list {self.spec.name} goes on: {done} of {len(self.report.samples)} samples are done")

    def leave_dark(self) -> Generator[Msg, Any, None]:
        """Blank the beam."""
        yield from tolerate(
            bps.abs_set(self.instruments.column.beam_blanked, True, wait=True), "blanking the beam"
        )

    def run(self) -> Generator[Msg, Any, ListReport]:
        """Acquire sample after sample."""
        try:
            reports = {report.name: report for report in self.report.samples}
            for sample in self.spec.samples:
                report, began = reports[sample.name], time.monotonic()
                if not is_open(report):
                    continue
                try:
                    yield from self.sample(sample, report)
                except (RunEngineControlException, ListEnded):
                    raise
                except Exception as failure:  # noqa: BLE001  # one sample must not end the list
                    self.unforeseen(sample, report, failure)
                finally:
                    report.duration_s += time.monotonic() - began
                    self.report.write()
            self.report.ended = "complete"
        except ListEnded as end:
            self.stopped(str(end))
        except RunEngineControlException as end:
            self.stopped(f"ended by the operator: {one_line(end)}")
            raise
        return self.report

    def stopped(self, reason: str) -> None:
        """Note that the list ends early, and why, at everything that was not reached."""
        self.report.ended, self.report.reason = "stopped", reason
        for sample in self.report.samples:
            if sample.status == "pending":
                sample.status, sample.reason = "skipped", f"the list was stopped before: {reason}"
                sample.not_reached = True
            elif sample.status == "loaded" and not sample.rois:
                sample.reason = f"the list was stopped: {reason}"
            for roi in sample.rois:
                if roi.status == "pending":
                    roi.status, roi.reason = "skipped", f"the list was stopped: {reason}"
                    roi.not_reached = True

    def finish(self) -> Generator[Msg, Any, None]:
        """Take the last sample out, leave the beam blanked, write the account."""
        yield from self.leave_dark()
        parts = self.loader, self.instruments.column, self.instruments.stage
        yield from tolerate(recover_loader(*parts), "recovering the loader")
        yield from tolerate(load_sample(*parts, 0), "taking the last sample out")
        if not self.report.ended:
            self.stopped("the plan was ended from outside")
        self.report.ended_s = time.time()
        self.report.write()
