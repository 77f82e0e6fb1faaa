"""How a montage is watched and steered while it runs: what a plan asks between two tiles.

A plan holds a `Control`. `LocalControl` serves one process; `plans.tango_control.TangoControl` speaks with
the montage-control server, so that any process can pause, resume or abort.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from devices.montage_control.board import ACTIVE_STATES, MontageState, Progress, Request

__all__ = ["ACTIVE_STATES", "Control", "LocalControl", "MontageState", "Progress", "Request"]


class Control(Protocol):
    """What a plan needs to be steered. Every call returns at once and never raises."""

    def take(self) -> Sequence[Request]:
        """Return the requests since the last call, oldest first."""

    def publish(self, progress: Progress) -> None:
        """Show how far the montage is."""

    @property
    def holds(self) -> Sequence[str]:
        """Why nothing may be exposed now, such as a suspender's reason; empty: go on."""


class LocalControl:
    """A control within one process; `ask` may be called from any thread.

    Examples
    --------
    >>> control = LocalControl()
    >>> control.ask(Request.PAUSE)
    >>> control.take()
    [<Request.PAUSE: 'pause'>]
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._progress = Progress()
        self._sources: list[Callable[[], Sequence[str]]] = []

    def take(self) -> list[Request]:
        """Return the requests since the last call, oldest first."""
        with self._lock:
            requests, self._requests = self._requests, []
        return requests

    def publish(self, progress: Progress) -> None:
        """Keep how far the montage is; requests left over from an earlier montage are dropped."""
        with self._lock:
            if progress.montage_id != self._progress.montage_id:
                self._requests.clear()
            self._progress = progress

    @property
    def progress(self) -> Progress:
        """What was published last."""
        return self._progress

    @property
    def holds(self) -> list[str]:
        """Why nothing may be exposed now; empty: go on."""
        return [reason for source in tuple(self._sources) for reason in source()]

    def hold_by(self, source: Callable[[], Sequence[str]]) -> None:
        """Ask ``source`` for reasons to hold whenever `holds` is read; it returns at once."""
        self._sources.append(source)

    def ask(self, request: Request) -> None:
        """Make a request, as an operator does."""
        with self._lock:
            self._requests.append(request)

    def pause(self) -> None:
        """Pause after the tile that runs."""
        self.ask(Request.PAUSE)

    def pause_now(self) -> None:
        """Pause now; the exposure that runs is given up."""
        self.ask(Request.PAUSE_NOW)

    def resume(self) -> None:
        """Go on after a pause."""
        self.ask(Request.RESUME)

    def abort(self) -> None:
        """End the montage now."""
        self.ask(Request.ABORT)

    def abort_at_end_of_row(self) -> None:
        """End the montage when the row is done."""
        self.ask(Request.ABORT_AT_END_OF_ROW)

    def abort_at_end_of_roi(self) -> None:
        """End the montage when the region of interest is done."""
        self.ask(Request.ABORT_AT_END_OF_ROI)

    def skip_roi(self) -> None:
        """Leave out what is left of the region of interest."""
        self.ask(Request.SKIP_ROI)

    def retry(self) -> None:
        """Acquire the tile judged last again."""
        self.ask(Request.RETRY)

    def accept(self) -> None:
        """Keep the tile judged last as it is."""
        self.ask(Request.ACCEPT)
