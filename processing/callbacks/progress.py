"""Progress of a montage on the terminal: tiles, tiles/s, time left, verdicts, the last fault."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from devices.tiles import IMAGE_KEY

_log = logging.getLogger(__name__)
_LINE_INTERVAL_S: Final = 5.0
_RATE_MEMORY_S: Final = 5.0


class Progress:
    """Show the progress of each run with a ``tiles`` stream.

    On a terminal a bar that stays at the bottom; elsewhere a line every five seconds. Runs without tiles
    leave no trace. It is quick, so it may be subscribed to the RunEngine as it is, and it never raises.

    Parameters
    ----------
    console
        Where it goes; default: the standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._bar: Bar | None = None
        self._reset({})

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document."""
        try:
            self._take(name, doc)
        except Exception:  # noqa: BLE001  # a display never stops a run
            _log.exception("the progress display failed")

    def close(self) -> None:
        """End the display."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def text(self) -> str:
        """Return the progress as one line."""
        left = self._time_left_s()
        parts = [
            f"{self._done}/{self._total or '?'} tiles",
            f"{self._rate():.2f}/s",
            "" if left is None else f"{_minutes(left)} left",
            ", ".join(f"{count} {state}" for state, count in sorted(self._states.items(), reverse=True)),
            self._last_fault and f"last fault: {self._last_fault}",
            self._held and f"HELD: {self._held}",
        ]
        return " | ".join(part for part in parts if part)

    def _take(self, name: str, doc: Mapping[str, Any]) -> None:
        if name == "start":
            self.close()
            self._reset(doc)
        elif name == "descriptor":
            self._streams[doc["uid"]] = doc["name"]
            if doc["name"] == "tiles":
                self._open()
        elif name == "stream_resource" and doc["data_key"] == IMAGE_KEY:
            self._image = doc["uid"]
        elif name == "stream_datum" and doc["stream_resource"] == self._image:
            self._count(int(doc["indices"]["stop"]))
        elif name == "event" and self._streams.get(doc["descriptor"]) == "qc":
            self._judge(doc["data"])
        elif name == "event" and self._streams.get(doc["descriptor"]) == "incidents":
            self._note(doc["data"])
        elif name == "stop" and "tiles" in self._streams.values():
            self._show()
            self.close()
            self._console.print(f"{self.text()} | {doc['exit_status']}", highlight=False)

    def _reset(self, start: Mapping[str, Any]) -> None:
        self._title = str(start.get("montage_id", "tiles"))
        self._total = int(start.get("num_points", 0))
        self._done = 0
        self._image = ""
        self._last_fault = ""
        self._held = ""
        self._streams: dict[str, str] = {}
        self._verdicts: dict[int, str] = {}
        self._states: Counter[str] = Counter()
        self._marks: list[tuple[float, int]] = []
        self._next_line_s = time.monotonic() + _LINE_INTERVAL_S

    def _open(self) -> None:
        self._marks = [(time.monotonic(), 0)]
        if self._bar is not None or not self._console.is_terminal:
            return
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self._console,
            refresh_per_second=4,
        )
        self._task = self._bar.add_task(self._title, total=self._total or None, detail="")
        self._bar.start()

    def _count(self, done: int) -> None:
        self._done = done
        self._total = max(self._total, done) if self._total else 0  # re-acquired tiles come on top
        now = time.monotonic()
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] > _RATE_MEMORY_S:
            self._marks.pop(0)
        self._show()

    def _judge(self, verdict: Mapping[str, Any]) -> None:
        self._verdicts[int(verdict["tile_index"])] = str(verdict["qc_state"])
        self._states = Counter(self._verdicts.values())
        kinds = [fault["kind"] for fault in json.loads(verdict.get("faults") or "[]")]
        if kinds:
            self._last_fault = (
                f"{', '.join(kinds)} at row {verdict['tile_row']} column {verdict['tile_column']}"
            )
        self._show()

    def _note(self, incident: Mapping[str, Any]) -> None:
        """Say at once why the montage holds, and when it goes on."""
        kind, text = incident["incident_kind"], incident["incident_text"]
        self._held = text if kind == "hold" else "" if kind == "resume" else self._held
        self._console.print(f"{self._title}: {kind}: {text}", highlight=False)
        self._show()

    def _show(self) -> None:
        if self._bar is not None:
            detail = self.text().split(" | ", 1)[-1]
            self._bar.update(self._task, completed=self._done, total=self._total or None, detail=detail)
        elif time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + _LINE_INTERVAL_S
            self._console.print(f"{self._title}: {self.text()}", highlight=False)

    def _rate(self) -> float:
        """Return tiles a second over the last seconds."""
        if not self._marks:
            return 0.0
        (since_s, before), (_, done) = self._marks[0], self._marks[-1]
        elapsed = self._marks[-1][0] - since_s
        return (done - before) / elapsed if elapsed > 0 else 0.0

    def _time_left_s(self) -> float | None:
        rate = self._rate()
        return (self._total - self._done) / rate if self._total and rate else None


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
