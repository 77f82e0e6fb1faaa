"""The catalog writer: runs appear in Tiled while they happen; whatever Tiled does, no run waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processing.callbacks._catalog_run import (
    BATCH_SIZE,
    RunSink,
    RunStore,
    TiledStore,
    replay_lock,
)
from processing.callbacks._documents import Document, RunIndex
from processing.callbacks._worker import QueuedCallback
from processing.callbacks.journal import has_stop

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CatalogState:
    """How the catalog stands: runs written, runs that wait to be completed, the last error."""

    connected: bool
    written: int
    behind: tuple[str, ...]
    last_error: str


class CatalogWriter:
    """Write runs to a Tiled catalog, in a thread of its own.

    Calling it only enqueues. If anything fails for a run (no server yet, server gone or slow, queue full),
    the run is set aside, and completed from the journal once it has ended and the server is back; that is
    tried again and again, at growing intervals.

    Parameters
    ----------
    uri, api_key
        The Tiled server.
    journal_dir
        The journal of the same documents.
    store
        Where runs are written to instead of the Tiled server.
    batch_size
        Tiles or events that are written in one request.
    flush_s
        How long stream datums may be held to be joined, s.
    retry_s
        Shortest and longest time between tries, s.
    max_documents
        How many documents may wait.
    """

    def __init__(
        self,
        uri: str,
        api_key: str,
        journal_dir: str | Path,
        *,
        store: RunStore | None = None,
        batch_size: int = BATCH_SIZE,
        flush_s: float = 1.0,
        retry_s: tuple[float, float] = (1.0, 30.0),
        max_documents: int = 100_000,
    ) -> None:
        self._store: RunStore = store or TiledStore(uri, api_key)
        self._journal_dir = Path(journal_dir)
        self._batch_size = batch_size
        self._flush_s = flush_s
        self._retry_s = retry_s
        self._client: Any = None
        self._runs = RunIndex()
        self._writers: dict[str, RunSink] = {}
        self._changed = threading.Condition()
        self._behind: dict[str, bool] = {}  # run: whether its stop document has come
        self._incoming = RunIndex()
        self._written = 0
        self._last_error = ""
        self._wait_s = retry_s[0]
        self._next_try_s = self._next_flush_s = 0.0
        self._queue = QueuedCallback(
            self._write_one,
            name="catalog",
            batch=self._write,
            tick=self._tick,
            max_documents=max_documents,
            on_overflow=self._overflow,
        )

    @property
    def state(self) -> CatalogState:
        """How the catalog stands now."""
        with self._changed:
            behind = tuple(self._behind)
        return CatalogState(self._client is not None, self._written, behind, self._last_error)

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Enqueue a document; never blocks, never raises."""
        run = self._incoming.run_of(name, doc)
        if name == "stop" and run in self._behind:
            with self._changed:
                self._behind[str(run)] = True
        self._queue(name, doc)

    def drain(self, timeout_s: float) -> bool:
        """Wait until every run that has ended is complete in the catalog; return whether it is."""
        deadline = time.monotonic() + timeout_s
        if not self._queue.drain(timeout_s):
            return False
        with self._changed:
            return self._changed.wait_for(
                lambda: not any(self._behind.values()), max(0.0, deadline - time.monotonic())
            )

    def close(self, timeout_s: float = 5.0) -> bool:
        """End the thread; return whether every run that ended is complete in the catalog.

        It waits for the catalog only while the server answers: ``montango journal replay`` does the rest.
        """
        deadline = time.monotonic() + timeout_s
        done = self._queue.drain(timeout_s)
        while any(self._behind.values()) and time.monotonic() < deadline and self._store.is_up():
            self.drain(min(1.0, deadline - time.monotonic()))
        done = done and not any(self._behind.values())
        ended = self._queue.close(max(0.1, deadline - time.monotonic()))
        if ended:
            self._writers.clear()
            self._disconnect()
        return ended and done

    def _write(self, documents: Sequence[Document]) -> None:
        for name, doc in documents:
            self._write_one(name, doc)

    def _write_one(self, name: str, doc: dict[str, Any]) -> None:
        run = self._runs.run_of(name, doc)
        if run is None:
            return
        if run not in self._behind:
            try:
                if name == "start":
                    self._writers[run] = self._store.writer(self._connected(), self._batch_size)
                self._writers[run](name, doc)
                self._written += name == "stop"
            except Exception as error:  # noqa: BLE001  # whatever it is, the journal completes the run
                self._set_aside(run, error)
        if name == "stop":
            self._writers.pop(run, None)
            with self._changed:
                if run in self._behind:
                    self._behind[run] = True
                    self._next_try_s = 0.0

    def _connected(self) -> Any:
        if self._client is None:
            if not self._store.is_up():
                raise ConnectionError(f"no answer from {self._store}")
            self._client = self._store.connect()
        return self._client

    def _set_aside(self, run: str, error: Exception) -> None:
        self._last_error = f"{type(error).__name__}: {error}"
        _log.warning(
            "run %s goes on without the catalog (%s); it is completed from the journal later",
            run,
            self._last_error,
        )
        self._writers.pop(run, None)
        self._disconnect()
        with self._changed:
            self._behind.setdefault(run, False)

    def _overflow(self, name: str, doc: dict[str, Any]) -> None:
        run = self._incoming.run_of(name, doc)
        if run is not None:
            with self._changed:
                self._behind[run] = self._behind.get(run, False) or name == "stop"

    def _tick(self) -> None:
        now = time.monotonic()
        if now >= self._next_flush_s:
            self._next_flush_s = now + self._flush_s
            for run, writer in list(self._writers.items()):
                try:
                    if run in self._behind:
                        del self._writers[run]
                    else:
                        writer.flush()
                except Exception as error:  # noqa: BLE001  # whatever it is, the journal completes the run
                    self._set_aside(run, error)
        if now >= self._next_try_s and any(self._behind.values()):
            self._retry()

    def _retry(self) -> None:
        """Complete the runs set aside that have ended; a failure lengthens the time to the next try."""
        try:
            client = self._connected()
            with replay_lock(self._journal_dir, self._store.lock) as mine:
                for run in [run for run, ended in self._behind.items() if ended and mine]:
                    self._replay(client, run)
            self._wait_s = self._retry_s[0]
        except Exception as error:  # noqa: BLE001  # tried again later
            self._not_yet(error)
            self._wait_s = min(2 * self._wait_s, self._retry_s[1])
        self._next_try_s = time.monotonic() + self._wait_s

    def _replay(self, client: Any, run: str) -> None:
        paths = [path for path in self._journal_dir.glob(f"*/{run}.jsonl") if has_stop(path)]
        if not paths:
            return  # the journal is still at it
        try:
            outcome = self._store.replay(client, paths[0])
        except Exception as error:
            if not self._store.is_up():
                raise
            self._not_yet(error)  # one bad run keeps no other out of the catalog
            return
        _log.info("run %s is in the catalog (%s)", run, outcome)
        with self._changed:
            del self._behind[run]
            self._written += 1
            self._changed.notify_all()

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None and not self._writers:
            self._store.disconnect(client)

    def _not_yet(self, error: Exception) -> None:
        self._disconnect()
        self._last_error = f"{type(error).__name__}: {error}"
        _log.info("the catalog cannot be completed yet: %s", self._last_error)
