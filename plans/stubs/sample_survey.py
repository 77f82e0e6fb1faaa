"""The survey of the sample that is loaded: the one there is, the rest of one cut off, or a new one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import bluesky.preprocessors as bpp
from bluesky.utils import Msg

from devices.errors import MontangoError
from plans.calibrations import CalibrationStore
from plans.sample_report import SampleReport
from plans.specs.montage import MontageSpec
from plans.specs.samples import SurveySpec
from plans.stubs.ask import ask
from plans.stubs.roi import Instruments, begun_before, new_montage_id
from plans.stubs.roi_account import settled_record
from plans.stubs.roi_watch import RoiWatch, recall
from plans.survey import survey, survey_picture
from processing.callbacks._documents import Document
from processing.survey import SurveyImage

logger = logging.getLogger(__name__)


@dataclass
class Surveying:
    """Surveys the sample that is loaded; tried again, it goes on with the survey that was begun.

    Attributes
    ----------
    parts
        The instruments.
    plan
        What the survey is to be.
    report
        The sample's account: its ``survey_id`` says which survey is its own.
    md
        Metadata of the runs.
    note
        Is called before anything is exposed: what is in ``report`` then must be on disk.
    """

    parts: Instruments
    plan: SurveySpec
    report: SampleReport
    md: dict[str, Any]
    calibrations: CalibrationStore | None
    note: Callable[[], None]
    watch: RoiWatch | None = None

    def anew(self) -> None:
        """Let the next picture be of a survey of its own."""
        self.report.survey_id, self.watch = "", None

    def picture(self) -> Generator[Msg, Any, SurveyImage]:
        """Return the survey's picture; nothing is exposed where the survey had come to its end.

        Raises
        ------
        MontangoError
            As of the montage.
        """
        if self.watch is None:
            self.report.survey_id = self.report.survey_id or new_montage_id()
            self.watch = yield from begun_before(self.parts.journal_dir, self.report.survey_id)
        earlier, spec = yield from self._earlier(self.watch)
        if self.watch.ended and spec.magnification is not None:
            try:
                return survey_picture(
                    earlier, spec.magnification, max_px=self.plan.max_px, calibrations=self.calibrations
                )
            except MontangoError as error:
                text = f"survey {self.report.survey_id} cannot be read: {error}; the sample is surveyed again"
                logger.warning("%s", text)
                self.report.incidents.append(text)
                self.anew()
                return (yield from self.picture())
        self.note()
        plan = survey(
            self.parts.sequencer, self.parts.camera, self.parts.column, self.parts.stage, spec,
            {**self.md, "montage_id": self.report.survey_id}, acquire=self._acquire(bool(earlier)),
            max_px=self.plan.max_px, calibrations=self.calibrations, earlier=earlier,
        )  # fmt: skip
        return (yield from bpp.subs_wrapper(plan, {"all": [self.watch]}))  # type: ignore[no-any-return]

    def _earlier(self, watch: RoiWatch) -> Generator[Msg, Any, tuple[list[Document], MontageSpec]]:
        """Return the documents of the runs there are, and what they acquire: it ends as it was begun."""
        if not watch.run_uids:
            return [], self.plan.spec()
        journal_dir, survey_id = self.parts.journal_dir, self.report.survey_id
        record = yield from settled_record(journal_dir, survey_id, watch.run_uids)
        _, documents = yield from ask(lambda: asyncio.to_thread(recall, journal_dir, survey_id))
        return documents, record.spec

    def _acquire(self, begun: bool) -> Callable[..., Generator[Msg, Any, str]]:
        def montage(*arguments: Any) -> Generator[Msg, Any, str]:
            spec, md = arguments[4:]
            if begun:
                return self.parts.resume(self.report.survey_id, md)
            return self.parts.montage(spec, md)

        return montage
