"""What plans are wrapped in."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from typing import Any, TypeVar

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import HasName
from bluesky.utils import FailedStatus, Msg

from devices.errors import MontangoError

T = TypeVar("T")
logger = logging.getLogger(__name__)


def cause_of(error: BaseException) -> BaseException:
    """Return the first `MontangoError` that led to an error, or the error itself.

    The first one: what fails while a run is closed after a failure must not hide that failure.
    """
    first, seen = error, {id(error)}
    step: BaseException | None = error
    while step is not None:
        if isinstance(step, MontangoError):
            first = step
        step = step.__cause__ or (None if step.__suppress_context__ else step.__context__)
        if step is not None and id(step) in seen:
            break
        seen.add(id(step))
    return first


def plain_errors(plan: Generator[Msg, Any, T]) -> Generator[Msg, Any, T]:
    """Run a plan so that it ends with the instrument's own error, not with what followed from it."""
    try:
        return (yield from plan)
    except Exception as failure:
        cause = cause_of(failure)
        if cause is failure:
            raise
        raise cause from None


def tolerate(plan: Generator[Msg, Any, Any], what: str) -> Generator[Msg, Any, None]:
    """Run a clean-up plan; log its failure and go on, so that it does not hide why it was needed."""
    try:
        yield from plan
    except (FailedStatus, MontangoError) as failure:
        logger.warning("%s failed: %s", what, cause_of(failure))


def with_baseline(plan: Generator[Msg, Any, T], devices: Sequence[HasName]) -> Generator[Msg, Any, T]:
    """Read devices into stream ``baseline`` when the run of a plan begins, and again before it ends.

    The run ends as it would even if a device is lost by then: what was acquired does not depend on it.
    """

    def read() -> Generator[Msg, Any, None]:
        yield from bps.trigger_and_read(devices, name="baseline")

    def first() -> Generator[Msg, Any, None]:
        yield from bps.declare_stream(*devices, name="baseline")
        yield from read()

    def last(close: Msg) -> Generator[Msg, Any, Any]:
        yield from tolerate(read(), "the closing baseline")
        return (yield close)

    def around(message: Msg) -> tuple[Generator[Msg, Any, Any] | None, Generator[Msg, Any, None] | None]:
        if message.command == "open_run":
            return None, first()
        return (last(message), None) if message.command == "close_run" else (None, None)

    return (yield from bpp.plan_mutator(plan, around))  # type: ignore[no-any-return]
