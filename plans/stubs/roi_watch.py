"""What the documents of a ROI's montage say while it runs, and what the journal says of it afterwards."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plans.record import PURPOSES
from processing.callbacks._documents import Document
from processing.callbacks.journal import find_runs, read_journal


class RoiWatch:
    """Follows the documents of a montage: its runs, the faults of its tiles, its verdict.

    Attributes
    ----------
    run_uids
        Its runs so far.
    ended
        Whether the last one came to its end: what of it is bad stays so.
    verdict, reason
        On the last run.
    faults, reasons
        How often each kind was seen; why a tile (ROI, row, column) is not good.
    """

    def __init__(self, montage_id: str) -> None:
        self._montage_id = montage_id
        self._ours = False
        self.run_uids: list[str] = []
        self.ended = False
        self.verdict = ""
        self.reason = ""
        self.faults: Counter[str] = Counter()
        self.reasons: dict[tuple[int, int, int], str] = {}

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document."""
        if name == "start":
            self._ours = doc.get("montage_id") == self._montage_id
            if self._ours and doc.get("purpose") in PURPOSES:  # frames judged later have a run of their own
                self.run_uids.append(doc["uid"])
                self.verdict = self.reason = ""
                self.ended = False
        elif name == "stop" and doc["run_start"] in self.run_uids:
            self.ended = doc["exit_status"] == "success" and not doc.get("reason")
        elif name == "event" and self._ours:
            data = doc["data"]
            if "montage_verdict" in data:
                self.verdict, self.reason = data["montage_verdict"], data["montage_reason"]
            elif "qc_state" in data and "faults" in data:
                self._judged(data)

    def _judged(self, data: Mapping[str, Any]) -> None:
        place = int(data.get("tile_roi", 0)), int(data["tile_row"]), int(data["tile_column"])
        kinds = [str(fault["kind"]) for fault in json.loads(data["faults"])]
        self.faults.update(kinds)
        self.reasons[place] = data.get("qc_reason") or ", ".join(kinds)


def recall(journal_dir: Path | str, montage_id: str) -> tuple[RoiWatch, list[Document]]:
    """Return what the journal has of a montage: a watch that has seen all of it, and the documents.

    Raises
    ------
    MontangoError
        A journal is damaged before its last line.
    """
    watch = RoiWatch(montage_id)
    documents = [
        document
        for run in find_runs(journal_dir)
        if run.start.get("montage_id") == montage_id
        for document in read_journal(run.path)
    ]
    for name, doc in documents:
        watch(name, doc)
    return watch, documents
