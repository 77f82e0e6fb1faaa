"""Verdicts on frames that a run ended without: judged from its file, written as a run of their own.

A run that was aborted has frames that nobody has judged yet. Their verdicts are results of processing:
documents in a run that names the runs they come from, like any other.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import bluesky.plan_stubs as bps
from bluesky.utils import Msg

from plans.specs.policy import VerdictPolicy
from plans.verdicts import REVIEW, EventReadable, Fault, Verdict, save_event

PLAN_NAME: Final = "judge_frames"
STREAM: Final = "qc"
RUN_KEY: Final = "tile_run"
"""Data key with the uid of the run that a frame belongs to."""


@dataclass(frozen=True)
class Kept:
    """A verdict on a frame with faults that the policy accepts: kept for review, without more dose."""

    verdict: Verdict
    qc_state: str = REVIEW

    @property
    def tile_index(self) -> int:
        """Index of the frame in its file."""
        return self.verdict.tile_index

    @property
    def faults(self) -> Sequence[Fault]:
        """What is wrong with it."""
        return self.verdict.faults

    def as_event(self) -> dict[str, Any]:
        """Return the data of an event of the ``qc`` stream."""
        return {**self.verdict.as_event(), "qc_state": self.qc_state}


def under_policy(verdict: Verdict, policy: VerdictPolicy) -> Verdict:
    """Return a verdict as a montage with this policy takes it that nobody watched any more."""
    accepted = all(policy.rule(fault.kind).action == "accept" for fault in verdict.faults)
    return Kept(verdict) if verdict.faults and accepted else verdict


def save_judgements(montage_id: str, verdicts: Mapping[str, Sequence[Verdict]]) -> Generator[Msg, Any, None]:
    """Write verdicts, by the uid of the run that their frames belong to, as a run; nothing without any."""
    if not any(verdicts.values()):
        return
    readable = EventReadable(STREAM, "processing.callbacks.tile_qc")
    metadata = {
        "plan_name": PLAN_NAME,
        "purpose": "processing",
        "montage_id": montage_id,
        "input_uids": [uid for uid, found in verdicts.items() if found],
    }
    yield from bps.open_run(metadata)
    for uid, found in verdicts.items():
        for verdict in found:
            yield from save_event(readable, {**verdict.as_event(), RUN_KEY: uid})
    yield from bps.close_run()
