"""Steps of a list of samples that may fail: tried again, skipped, or the end, as its policy says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

from bluesky.utils import Msg, RunEngineControlException

from devices.errors import ConfigurationError, LimitError, MontangoError
from plans.preprocessors import cause_of
from plans.sample_report import SampleReport
from plans.specs.samples import SamplePolicy
from plans.stubs.roi import one_line

logger = logging.getLogger(__name__)
T = TypeVar("T")


class ListEnded(MontangoError):
    """The list ends here, as the policy says."""


class Skipped(MontangoError):
    """This sample or ROI is left out."""


@dataclass(kw_only=True)
class Steps:
    """Takes the steps of a list, and counts what fails.

    Attributes
    ----------
    say
        Is told what happens, a line at a time.
    failures_in_a_row
        Loads, surveys and ROIs that failed since the last that did not.
    """

    say: Callable[[str], None]
    failures_in_a_row: int = 0

    def tried(
        self,
        what: str,
        once: Callable[[], Generator[Msg, object, T]],
        recover: Callable[[], Generator[Msg, object, None]],
        report: SampleReport,
        attempts: int,
    ) -> Generator[Msg, object, T]:
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
