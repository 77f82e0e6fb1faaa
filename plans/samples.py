"""A list of samples, one after the other, unattended: load, survey, find or realign, acquire, account."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import Readable
from bluesky.utils import Msg, RunEngineControlException

from devices.camera.device import Camera
from devices.column.device import Column
from devices.errors import ConfigurationError, LimitError
from devices.loader.device import Loader
from devices.sequencer.device import Sequencer
from devices.stage.device import Stage
from plans.calibrations import CalibrationStore
from plans.control import Control
from plans.preprocessors import tolerate
from plans.sample_report import ListReport, SampleReport
from plans.specs.samples import SampleList
from plans.stubs.ask import ask
from plans.stubs.load import load_sample, recover_loader
from plans.stubs.roi import Instruments, one_line
from plans.stubs.sample import ListEnded, SampleRun
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
        A slot does not exist or has another barcode; nothing has moved.
    RunEngineControlException
        The RunEngine was told to stop or to abort; the account is written nevertheless.

    Examples
    --------
    >>> report = yield from run_samples(  # doctest: +SKIP
    ...     loader, sequencer, camera, column, stage, load_samples("list.yaml"), journal_dir=journal
    ... )
    """
    path = None
    if report_dir is not None:
        path = Path(report_dir) / f"{spec.name.replace(' ', '_')}-{datetime.now():%Y%m%d-%H%M%S}"
    options = {
        "verdicts": verdicts,
        "baseline": baseline,
        "minimum_free_gb": minimum_free_gb,
        "calibrations": calibrations,
        "control": control,
    }
    instruments = Instruments(sequencer, camera, column, stage, Path(journal_dir), options, thresholds)
    report = ListReport(spec.name, [SampleReport(one.slot, one.name) for one in spec.samples], path=path)
    listed = _Listed(loader, instruments, spec, report, md or {}, calibrations, say or logger.info)
    yield from listed.check()
    report.write()
    return (yield from bpp.finalize_wrapper(listed.run(), listed.finish))  # type: ignore[no-any-return]


class _Listed(SampleRun):
    """A list in progress."""

    def check(self) -> Generator[Msg, Any, None]:
        """Refuse a list whose slots or barcodes are not the loader's; nothing moves."""
        slots = {slot.number: slot for slot in (yield from ask(self.loader.slots))}
        for sample in self.spec.samples:
            if sample.slot not in slots:
                raise LimitError(
                    f"sample {sample.name!r}: slot = {sample.slot} is outside the loader's 1 to {len(slots)}"
                )
            found = slots[sample.slot].barcode
            if sample.barcode is not None and found != sample.barcode:
                raise ConfigurationError(
                    f"sample {sample.name!r}: slot {sample.slot} has barcode {found!r}, not "
                    f"{sample.barcode!r}; correct the list or the cassette"
                )

    def run(self) -> Generator[Msg, Any, ListReport]:
        """Acquire sample after sample."""
        try:
            for sample, report in zip(self.spec.samples, self.report.samples, strict=True):
                began = time.monotonic()
                try:
                    yield from self.sample(sample, report)
                except (RunEngineControlException, ListEnded):
                    raise
                except Exception as failure:  # noqa: BLE001  # one sample must not end the list
                    self.unforeseen(sample, report, failure)
                finally:
                    report.duration_s = time.monotonic() - began
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
            for roi in sample.rois:
                if roi.status == "pending":
                    roi.status, roi.reason = "skipped", f"the list was stopped: {reason}"

    def finish(self) -> Generator[Msg, Any, None]:
        """Take the last sample out, leave the beam blanked, write the account."""
        yield from tolerate(
            bps.abs_set(self.instruments.column.beam_blanked, True, wait=True), "blanking the beam"
        )
        parts = self.loader, self.instruments.column, self.instruments.stage
        yield from tolerate(recover_loader(*parts), "recovering the loader")
        yield from tolerate(load_sample(*parts, 0), "taking the last sample out")
        if not self.report.ended:
            self.stopped("the plan was ended from outside")
        self.report.ended_s = time.time()
        self.report.write()
