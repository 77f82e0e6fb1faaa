"""A queue and a thread in front of a callback, so that the RunEngine only ever enqueues."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from processing.callbacks._documents import Callback, Document

_log = logging.getLogger(__name__)
_MAX_BATCH: Final = 256
_OVERFLOW_LOG_INTERVAL_S: Final = 10.0
_YIELDING_NICE: Final = 5


class QueuedCallback:
    """Give documents to a callback in a thread of its own.

    Calling it never blocks and never raises. A document that finds the queue full is not given to the
    callback: that is counted in `dropped`, logged, and told to ``on_overflow``, and the run is completed from
    the journal. An exception of the callback is logged and counted in `errors`.

    Parameters
    ----------
    callback
        Gets each document, as ``callback(name, doc)``.
    name
        What the thread and the log call it; default: the callback's class.
    max_documents
        How many documents may wait.
    batch
        Takes, in place of ``callback``, all documents that wait at once (at most 256), in order.
    tick
        Called in the thread after each batch, and every ``tick_s`` seconds while nothing comes.
    yielding
        The thread gives way to others of the machine (Linux: nice 5 on top of the process's own).
    on_overflow
        Told of each document that found the queue full, in the thread of the RunEngine.
    """

    def __init__(
        self,
        callback: Callback,
        *,
        name: str = "",
        max_documents: int = 100_000,
        batch: Callable[[Sequence[Document]], object] | None = None,
        tick: Callable[[], object] | None = None,
        tick_s: float = 0.25,
        yielding: bool = False,
        on_overflow: Callback | None = None,
    ) -> None:
        self.callback = callback
        self.name = name or type(callback).__name__
        self.dropped = 0
        self.errors = 0
        self.last_error: Exception | None = None
        self._batch = batch
        self._tick = tick
        self._tick_s = tick_s
        self._yielding = yielding
        self._on_overflow = on_overflow
        self._queue: queue.Queue[Document | None] = queue.Queue(max_documents)
        self._overflow_logged_s = float("-inf")
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"callback {self.name}", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """How many documents wait or are being worked on."""
        return self._queue.unfinished_tasks

    @property
    def waiting(self) -> int:
        """How many documents have not been taken out of the queue yet."""
        return self._queue.qsize()

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Enqueue a document."""
        try:
            if self._closed:
                raise queue.Full
            self._queue.put_nowait((name, doc))
        except queue.Full:
            self._overflow(name, doc)

    def drain(self, timeout_s: float) -> bool:
        """Wait until every document that came so far is worked off; return whether it is."""
        deadline = time.monotonic() + timeout_s
        with self._queue.all_tasks_done:
            while self._queue.unfinished_tasks:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._queue.all_tasks_done.wait(left)
        return True

    def close(self, timeout_s: float = 5.0) -> bool:
        """Take no more documents, work off those that wait, end the thread; return whether it ended."""
        self._closed = True
        deadline = time.monotonic() + timeout_s
        self.drain(timeout_s)
        try:
            self._queue.put(None, timeout=max(0.01, deadline - time.monotonic()))
        except queue.Full:
            return False
        self._thread.join(max(0.01, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def _overflow(self, name: str, doc: dict[str, Any]) -> None:
        self.dropped += 1
        now = time.monotonic()
        if now - self._overflow_logged_s > _OVERFLOW_LOG_INTERVAL_S:
            self._overflow_logged_s = now
            state = "is closed" if self._closed else f"is behind by {self._queue.maxsize} documents"
            _log.error(
                "%s %s: %d documents not given to it so far; the journal has them",
                self.name,
                state,
                self.dropped,
            )
        if self._on_overflow is not None:
            self._guard(self._on_overflow, name, doc)

    def _run(self) -> None:
        if self._yielding:
            _give_way()
        ended = False
        while not ended:
            documents, ended = self._next()
            if self._batch is not None and documents:
                self._guard(self._batch, documents)
            else:
                for name, doc in documents:
                    self._guard(self.callback, name, doc)
            if self._tick is not None:
                self._guard(self._tick)
            for _ in range(len(documents) + ended):
                self._queue.task_done()

    def _next(self) -> tuple[list[Document], bool]:
        """Wait for documents; return those that are there, and whether the end was among them."""
        documents: list[Document] = []
        try:
            item = self._queue.get(timeout=None if self._tick is None else self._tick_s)
            while item is not None:
                documents.append(item)
                if len(documents) == _MAX_BATCH:
                    return documents, False
                item = self._queue.get_nowait()
        except queue.Empty:
            return documents, False
        return documents, True

    def _guard(self, function: Callable[..., object], *arguments: object) -> None:
        try:
            function(*arguments)
        except Exception as error:  # noqa: BLE001  # a callback never stops a run
            self.errors += 1
            self.last_error = error
            _log.exception("%s failed", self.name)


def _give_way() -> None:
    """Lower the priority of this thread; only Linux has one for each thread."""
    if sys.platform == "linux":
        try:
            nice = os.getpriority(os.PRIO_PROCESS, 0) + _YIELDING_NICE
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(nice, 19))
        except OSError as error:
            _log.warning("%s keeps its priority: %s", threading.current_thread().name, error)
