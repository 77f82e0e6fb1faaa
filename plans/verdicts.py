"""How verdicts on tiles reach a plan, and how a plan writes them into its run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from bluesky.protocols import Readable, Reading
from event_model import DataKey

PASS = "pass"
FAIL = "fail"


class Verdict(Protocol):
    """A judgement of one frame."""

    @property
    def tile_index(self) -> int:
        """Index of the frame in its file."""

    @property
    def qc_state(self) -> str:
        """``"pass"`` or ``"fail"``."""

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


class VerdictReadable(Readable[Any]):
    """A readable that holds one verdict, so that a plan can save it as an event."""

    name = "qc"
    parent = None

    def __init__(self) -> None:
        self._data: Mapping[str, Any] = {}

    def hold(self, verdict: Verdict) -> None:
        """Keep the verdict that the next `read` returns."""
        self._data = verdict.as_event()

    def read(self) -> dict[str, Reading[Any]]:
        """Return the verdict's fields."""
        now = time.time()
        return {key: Reading(value=value, timestamp=now) for key, value in self._data.items()}

    def describe(self) -> dict[str, DataKey]:
        """Describe the verdict's fields."""
        return {
            key: DataKey(source="processing.callbacks.tile_qc", dtype=_dtype(value), shape=[])
            for key, value in self._data.items()
        }


def _dtype(value: object) -> Any:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    return "number" if isinstance(value, float) else "string"
