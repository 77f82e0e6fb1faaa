"""Ctrl-C for programs: the run is aborted at once, cleanly, and the program sees KeyboardInterrupt."""

from __future__ import annotations

import signal
import threading
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any

from bluesky.run_engine import RunEngine, TransitionError  # type: ignore[attr-defined]


class AbortOnInterrupt(AbstractContextManager["AbortOnInterrupt"]):
    """Around a plan: SIGINT and SIGTERM abort it, its clean-up runs, then KeyboardInterrupt is raised.

    A context manager of the RunEngine, for programs that nobody sits in front of: the RunEngine's own asks
    for Ctrl-C twice and leaves the plan paused.
    """

    def __init__(self, engine: RunEngine) -> None:
        self._engine = engine
        self._wanted = threading.Event()
        self._ended = threading.Event()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> AbortOnInterrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        threading.Thread(target=self._watch, name="interrupt", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupted = self._wanted.is_set()
        if interrupted:
            self._abort_if_paused()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._ended.set()
        self._wanted.set()
        if interrupted:
            raise KeyboardInterrupt

    def _abort_if_paused(self) -> None:
        """Abort a plan with checkpoints: the signal has only paused it."""
        engine = self._engine
        if engine.state != "paused":
            return
        managers, engine.context_managers = engine.context_managers, []
        try:
            engine.abort(reason="interrupted")
        finally:
            engine.context_managers = managers

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._wanted.set()

    def _watch(self) -> None:
        """Ask from a thread: a signal handler must not wait for the RunEngine's loop."""
        self._wanted.wait()
        if self._ended.is_set():
            return
        try:
            self._engine.request_pause(defer=False)  # without a checkpoint this aborts
        except TransitionError:
            return
