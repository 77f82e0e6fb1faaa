"""Verdicts on frames that a run ended without: judged from its file, written as a run of their own.

A run that was aborted has frames that nobody has judged yet. Their verdicts are results of processing:
documents in a run that names the runs they come from, like any other.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final

import bluesky.plan_stubs as bps
from bluesky.utils import Msg

from plans.verdicts import EventReadable, Verdict, save_event

PLAN_NAME: Final = "judge_frames"
STREAM: Final = "qc"
RUN_KEY: Final = "tile_run"
"""Data key with the uid of the run that a frame belongs to."""


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
