"""What passes between the engine that acquires a montage and whoever watches or steers it.

A `Board` holds the progress that the engine published last and the requests that it has not taken yet. It
knows no Tango: the device server in `devices.montage_control.server` translates.

A request stays on the board until the engine says that it took it, so that an answer lost on its way loses no
request, and none is delivered twice.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from devices.errors import ConfigurationError, MontangoError

MontageState = Literal[
    "idle", "started", "in_progress", "paused", "resumed", "cancelled", "completed", "error"
]
ACTIVE_STATES: frozenset[str] = frozenset({"started", "in_progress", "paused", "resumed"})
"""States in which an engine drives: losing it then leaves a beam or a stage that nobody looks after."""

LOST_AFTER_S = 5.0


class Request(StrEnum):
    """What an operator may ask of a montage that runs."""

    PAUSE = "pause"
    """After the tile that runs; the beam is blanked."""
    PAUSE_NOW = "pause_now"
    """Now: beam blanked, stage stopped, the exposure that runs is given up."""
    RESUME = "resume"
    """Go on after a pause."""
    ABORT = "abort"
    """End now."""
    ABORT_AT_END_OF_ROW = "abort_at_end_of_row"
    ABORT_AT_END_OF_ROI = "abort_at_end_of_roi"
    SKIP_ROI = "skip_roi"
    """Leave out what is left of the region of interest."""
    RETRY = "retry"
    """Acquire the tile judged last again."""
    ACCEPT = "accept"
    """Keep the tile judged last as it is."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a montage is.

    Attributes
    ----------
    montage_id
        Of the montage, over all its runs.
    state
        The words of TilEM; "idle" before the first montage.
    current_tile, total_tiles
        Tiles exposed so far, and in the montage; a tile acquired again counts once.
    reimaged
        Tiles acquired more than once so far.
    roi
        Name of the region of interest, "" where there is none.
    avg_cycle_time_s, move_time_s, capture_time_s
        Mean time of a tile, of its stage move and of its exposure, s.
    throughput_per_min
        Tiles a minute.
    eta_s
        Until the last tile, s.
    verdict
        GOOD, STOP_AT_END or STOP_NOW.
    reason
        Why it is paused, cancelled or in error; of the verdict where that is not GOOD.
    """

    montage_id: str = ""
    state: MontageState = "idle"
    current_tile: int = 0
    total_tiles: int = 0
    reimaged: int = 0
    roi: str = ""
    avg_cycle_time_s: float = 0.0
    move_time_s: float = 0.0
    capture_time_s: float = 0.0
    throughput_per_min: float = 0.0
    eta_s: float = 0.0
    verdict: str = "GOOD"
    reason: str = ""

    @property
    def active(self) -> bool:
        """Whether an engine drives."""
        return self.state in ACTIVE_STATES

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can carry it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Progress:
        """Return what `as_dict` gave; keys of a newer version are ignored."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


@dataclass(frozen=True, slots=True)
class BoardView:
    """What a board shows at one moment: the progress, by whom, since when unheard, why it holds."""

    progress: Progress
    engine: str
    last_seen_s: float
    holds: tuple[str, ...]
    lost: bool
    waiting: tuple[tuple[int, Request], ...]


class Board:
    """The board between one engine and any number of operators; every method may come from any thread.

    Parameters
    ----------
    lost_after_s
        Silence of the engine, in s, after which it counts as gone.
    state_file
        Keeps who drives over a restart of the server, so that an engine that died with it is noticed; "" for
        none.
    clock
        Returns seconds that only grow.

    Raises
    ------
    ConfigurationError
        ``lost_after_s`` is not more than 0.
    """

    def __init__(
        self,
        lost_after_s: float = LOST_AFTER_S,
        state_file: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not lost_after_s > 0:
            raise ConfigurationError(
                f"lost_after_s = {lost_after_s:g} s is not more than 0; an engine reports every 0.2 s, give 5"
            )
        self.lost_after_s = lost_after_s
        self._file = Path(state_file) if state_file else None
        self._clock = clock
        self._lock = threading.Lock()
        self._progress = Progress()
        self._engine = ""
        self._heard_s = clock()
        self._holds: tuple[str, ...] = ()
        self._waiting: list[tuple[int, Request]] = []
        self._newest = 0

    def open(self) -> None:
        """Read who drove when the server ended, and begin to count silence now."""
        self._heard_s = self._clock()
        if self._file is not None:
            with suppress(OSError, ValueError, TypeError, KeyError):
                kept = json.loads(self._file.read_text())
                self._engine, self._progress = kept["engine"], Progress.from_dict(kept["progress"])

    def close(self) -> None:
        """Nothing is held open."""

    def ask(self, request: Request) -> int:
        """Put a request on the board and return its id.

        Raises
        ------
        MontangoError
            No montage runs, or the engine that ran it is gone.
        """
        view = self.view()
        if not view.progress.active:
            raise MontangoError(
                f"no montage is running (state {view.progress.state}), so there is nothing to "
                f"{request.replace('_', ' ')}; `montango control status` shows what was"
            )
        if view.lost:
            raise MontangoError(
                f"{view.engine} has not reported for {view.last_seen_s:.0f} s and cannot "
                f"{request.replace('_', ' ')}; go on with `montango resume {view.progress.montage_id}`"
            )
        with self._lock:
            self._newest += 1
            self._waiting.append((self._newest, request))
            return self._newest

    def exchange(
        self, engine: str, progress: Progress | None, holds: Sequence[str], taken: int
    ) -> tuple[tuple[int, Request], ...]:
        """Take an engine's report; return the requests that wait for it.

        Parameters
        ----------
        engine
            Who reports, such as ``"user@host pid 71"``.
        progress, holds
            How far it is, and why nothing may be exposed now. None of an engine that has run no montage yet:
            what the one before it did stays, ended in error if that had not ended.
        taken
            Id of the newest request that it has; this one and older ones leave the board.
        """
        with self._lock:
            before = self._engine, self._progress.montage_id, self._progress.state
            if progress is None:
                progress = self._left_by_others(engine)
            if progress.montage_id != self._progress.montage_id:
                self._waiting.clear()  # meant for another montage
            self._progress, self._engine, self._holds = progress, engine, tuple(holds)
            self._heard_s = self._clock()
            self._waiting = [item for item in self._waiting if item[0] > taken]
            if before != (engine, progress.montage_id, progress.state):
                self._keep()
            return tuple(self._waiting)

    def view(self) -> BoardView:
        """Return what the board shows now."""
        with self._lock:
            silence_s = self._clock() - self._heard_s
            lost = bool(self._engine) and self._progress.active and silence_s > self.lost_after_s
            progress = self._progress
            return BoardView(progress, self._engine, silence_s, self._holds, lost, tuple(self._waiting))

    def _left_by_others(self, engine: str) -> Progress:
        if not self._progress.active:
            return self._progress
        reason = f"{self._engine} ended in its middle; `montango resume {self._progress.montage_id}` goes on"
        if self._engine == engine:
            reason = f"it ended without a word; `montango resume {self._progress.montage_id}` goes on"
        return replace(self._progress, state="error", reason=reason)

    def _keep(self) -> None:
        if self._file is not None:
            part = self._file.with_name(f".{self._file.name}.{os.getpid()}")
            with suppress(OSError):  # a full disk must not end a montage
                part.write_text(json.dumps({"engine": self._engine, "progress": self._progress.as_dict()}))
                part.replace(self._file)
