"""What plans are wrapped in."""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Any, TypeVar

from bluesky.utils import FailedStatus, Msg

from devices.errors import MontangoError

T = TypeVar("T")
logger = logging.getLogger(__name__)


def cause_of(error: BaseException) -> BaseException:
    """Return the `MontangoError` behind a failed status, or the error itself."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MontangoError):
            return seen
        seen = seen.__cause__
    return error


def plain_errors(plan: Generator[Msg, Any, T]) -> Generator[Msg, Any, T]:
    """Run a plan so that a failed status ends it with the instrument's own error, not with the status."""
    try:
        return (yield from plan)
    except FailedStatus as failure:
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
