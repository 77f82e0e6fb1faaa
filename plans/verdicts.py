"""How verdicts on tiles reach a plan, and how a plan writes them into its run."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Protocol

from bluesky.protocols import Readable, Reading
from bluesky.utils import Msg
from event_model import DataKey

from processing.fault_kinds import FaultKind, Scope

PASS = "pass"
FAIL = "fail"
REVIEW = "needs_review"


class Fault(Protocol):
    """One thing that is wrong with a frame."""

    @property
    def kind(self) -> FaultKind:
        """What it is."""

    @property
    def scope(self) -> Scope:
        """How far it reaches over the neighbouring tiles."""


class Verdict(Protocol):
    """A judgement of one frame."""

    @property
    def tile_index(self) -> int:
        """Index of the frame in its file."""

    @property
    def qc_state(self) -> str:
        """``"pass"`` or ``"fail"``."""

    @property
    def faults(self) -> Sequence[Fault]:
        """What is wrong with it."""

    def as_event(self) -> Mapping[str, Any]:
        """Return the data of an event of the ``qc`` stream."""


class Verdicts(Protocol):
    """Where a plan gets its verdicts: a callback that judges the frames of the run in progress.

    Calls return at once; they come from the thread of the RunEngine.
    """

    def take(self) -> Sequence[Verdict]:
        """Return the verdicts since the last call."""

    def flush(self) -> None:
        """Ask for a verdict on every frame seen so far, with what is known now."""


class EventReadable(Readable[Any]):
    """A readable that holds the data of one event, so that a plan can save it into a stream.

    Parameters
    ----------
    name
        Of the readable, and of the stream.
    source
        What the descriptor names as the origin of the data.
    """

    parent = None

    def __init__(self, name: str, source: str) -> None:
        self._name = name
        self._source = source
        self._data: Mapping[str, Any] = {}

    @property
    def name(self) -> str:
        """Name of the readable and of its stream."""
        return self._name

    def hold(self, data: Mapping[str, Any]) -> None:
        """Keep what the next `read` returns."""
        self._data = data

    def read(self) -> dict[str, Reading[Any]]:
        """Return the data."""
        now = time.time()
        return {key: Reading(value=value, timestamp=now) for key, value in self._data.items()}

    def describe(self) -> dict[str, DataKey]:
        """Describe the data."""
        return {
            key: DataKey(source=self._source, dtype=_dtype(value), shape=[])
            for key, value in self._data.items()
        }


def save_event(readable: EventReadable, data: Mapping[str, Any]) -> Generator[Msg, Any, None]:
    """Write an event into the stream that a readable is named after."""
    readable.hold(data)
    yield Msg("create", None, name=readable.name)
    yield Msg("read", readable)
    yield Msg("save")


def _dtype(value: object) -> Any:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    return "number" if isinstance(value, float) else "string"
