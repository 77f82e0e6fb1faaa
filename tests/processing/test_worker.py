"""The queue in front of callbacks: never blocks, never raises, never drops in silence."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from processing.callbacks._documents import Document
from processing.callbacks._worker import QueuedCallback


class Gate:
    """A callback that waits until it is opened."""

    def __init__(self) -> None:
        self.seen: list[Document] = []
        self.open = threading.Event()
        self.entered = threading.Event()

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        self.entered.set()
        assert self.open.wait(10)
        self.seen.append((name, doc))


def test_documents_come_in_order_in_another_thread() -> None:
    seen: list[tuple[str, int, str]] = []
    queued = QueuedCallback(lambda name, doc: seen.append((name, doc["i"], threading.current_thread().name)))
    for i in range(1000):
        queued("event", {"i": i})
    assert queued.drain(10)
    assert [i for _, i, _ in seen] == list(range(1000))
    assert seen[0][2] != threading.current_thread().name
    assert queued.close()


def test_a_full_queue_is_counted_logged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    lost: list[Document] = []
    queued = QueuedCallback(gate, name="slow", max_documents=2, on_overflow=lambda *doc: lost.append(doc))
    queued("event", {"i": 0})
    assert gate.entered.wait(10)  # one is worked on, so two more fit
    with caplog.at_level(logging.ERROR):
        for i in range(1, 6):
            queued("event", {"i": i})
    assert queued.dropped == len(lost) > 0
    assert lost[-1] == ("event", {"i": 5})
    assert "slow is behind" in caplog.text
    assert "journal" in caplog.text
    gate.open.set()
    assert queued.close()
    assert len(gate.seen) + len(lost) == 6


def test_an_exception_of_the_callback_or_of_on_overflow_stops_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(name: str, doc: dict[str, Any]) -> None:
        raise ValueError(f"bad {doc['i']}")

    queued = QueuedCallback(fail, on_overflow=fail)
    with caplog.at_level(logging.ERROR):
        queued("event", {"i": 1})
        queued("event", {"i": 2})
        assert queued.drain(10)
    assert queued.errors == 2
    assert str(queued.last_error) == "bad 2"
    assert queued.close()
    queued("event", {"i": 3})  # closed: counted, and on_overflow may fail too
    assert (queued.dropped, queued.errors) == (1, 3)


def test_drain_says_when_it_gave_up() -> None:
    gate = Gate()
    queued = QueuedCallback(gate)
    queued("event", {})
    assert not queued.drain(0.01)
    assert queued.pending == 1
    assert not queued.close(0.05)
    gate.open.set()
    assert queued.drain(10)


def test_a_batch_takes_all_that_waits_and_the_tick_follows() -> None:
    sizes: list[int] = []
    ticks: list[int] = []
    go = threading.Event()

    def batch(documents: Sequence[Document]) -> None:
        assert go.wait(10)
        sizes.append(len(documents))

    queued = QueuedCallback(lambda *_: None, batch=batch, tick=lambda: ticks.append(len(sizes)), tick_s=60)
    for i in range(600):
        queued("event", {"i": i})
    go.set()
    assert queued.close(10)
    assert sum(sizes) == 600
    assert max(sizes) == 256
    assert len(sizes) <= 5
    assert ticks[-1] == len(sizes)


def test_the_tick_comes_while_nothing_does() -> None:
    ticked = threading.Event()
    queued = QueuedCallback(lambda *_: None, tick=ticked.set, tick_s=0.01)
    assert ticked.wait(10)
    assert queued.close()
