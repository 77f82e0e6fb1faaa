"""Tile QC: every frame is measured and judged while the montage runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from devices.errors import MontangoError
from processing.callbacks._judge import NOTHING_MEASURED, Judge, unreadable
from processing.callbacks._tiles import Tile, TileSource
from processing.callbacks._worker import QueuedCallback
from processing.callbacks.verdicts import QCThresholds, TileFault, Verdict
from processing.kernels.quality import TileMetrics, measure_tile
from processing.kernels.quality_regions import MIN_SIDE_PX
from processing.kernels.reference import Reference

_log = logging.getLogger(__name__)
_FLUSH: Final = "flush"  # travels with the documents, so that it follows the frames announced before it
_REPORT: Final = "report"  # of another callback; travels with the documents, too
_DARK_SHARE_OF_SCALE: Final = 0.02

__all__ = ["QCThresholds", "TileFault", "TileQC", "Verdict"]


@dataclass(frozen=True, slots=True)
class _Measured:
    tile: Tile
    metrics: TileMetrics


class TileQC:
    """Measure and judge the tiles of each run with a ``tiles`` stream.

    It takes frames from the camera's ring, and from the file those that the ring has no more. Faults that
    show by themselves (dark, saturated, damaged, no contrast) are judged at once; sharpness and focus once
    ``reference_tiles`` tiles with texture have been seen, the first tiles then too, or at `flush`, or at the
    end of the run. A tile that `flush` judged early gets a second verdict if it turns out to be blurred.

    Subscribe what `queued` returns to the RunEngine, and give this object to the plan: `take`, `flush` and
    `wait_for` may be called from any thread.

    Parameters
    ----------
    thresholds
        When a tile fails.
    calibrations
        Folder of the calibrations; a run that names a dark and a bright reference is measured with them taken
        out. None: frames are measured as they are.
    """

    def __init__(
        self, thresholds: QCThresholds | None = None, *, calibrations: Path | str | None = None
    ) -> None:
        self.thresholds = thresholds or QCThresholds()
        self.calibrations = calibrations
        self._changed = threading.Condition()
        self._verdicts: list[Verdict] = []
        self._measured = 0
        self._queued: QueuedCallback | None = None
        self._source = TileSource()
        self._reset({})
        shape = (MIN_SIDE_PX, MIN_SIDE_PX)
        reference = Reference.of(np.zeros(shape), np.ones(shape))
        lit = 100 + np.arange(MIN_SIDE_PX**2).reshape(shape) % 97  # light and lines: nothing is left out
        for dtype in (np.uint16, np.uint8):  # compiled now rather than at the first tile
            measure_tile(reference.apply(lit.astype(dtype)))

    def queued(self, max_documents: int = 100_000) -> QueuedCallback:
        """Return this QC behind a queue and a thread of its own."""
        self._queued = QueuedCallback(self, name="tile QC", max_documents=max_documents)
        return self._queued

    @property
    def measured(self) -> int:
        """How many tiles of the newest run have been measured."""
        return self._measured

    def take(self) -> list[Verdict]:
        """Return the verdicts since the last call, and forget them."""
        with self._changed:
            verdicts, self._verdicts = self._verdicts, []
        return verdicts

    def flush(self) -> None:
        """Judge every tile announced so far, with what is known now. Returns at once when queued."""
        (self._queued or self)(_FLUSH, {})

    def report(self, run: str, index: int, faults: Sequence[TileFault]) -> None:
        """Add what another callback found wrong with a tile to its verdict. Returns at once when queued.

        Parameters
        ----------
        run
            Uid of the tile's run; if it is not the newest, nothing happens.
        index
            Of the tile in its file.
        faults
            What is wrong with it.
        """
        (self._queued or self)(_REPORT, {"run": run, "index": index, "faults": tuple(faults)})

    def wait_for(self, count: int, timeout_s: float) -> None:
        """Wait until ``count`` tiles of the run have been measured, at most ``timeout_s``.

        It never raises: what has not been judged by then has no verdict.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._measured >= count, timeout_s):
                _log.warning("tile QC measured %d of %d tiles within %g s", self._measured, count, timeout_s)

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document."""
        if name == "start":
            self._reset(doc)
        elif name == _FLUSH:
            self._judge_pending(final=True)
        elif name == _REPORT:
            if doc["run"] == self._run:
                self._add_faults(doc["index"], doc["faults"])
        elif name == "stop":
            self._judge_pending(final=True)
            self._source.close()
        else:
            indices = self._source(name, doc)
            if indices:
                self._measure(indices)

    def _reset(self, start: dict[str, Any]) -> None:
        self._source.close()
        self._source = TileSource(start, self.calibrations)
        self._run = start.get("uid")
        self._judged: dict[int, tuple[_Measured, tuple[TileFault, ...]]] = {}
        self._reported: dict[int, tuple[TileFault, ...]] = {}
        self._judge = Judge(self.thresholds)
        self._pending: list[_Measured] = []
        self._early: list[_Measured] = []
        with self._changed:
            self._verdicts, self._measured = [], 0

    def _measure(self, indices: range) -> None:
        try:
            tiles = list(self._source.tiles(indices))
        except MontangoError:
            _log.exception("no positions of tiles %d to %d", indices.start, indices.stop - 1)
            tiles = [Tile(index, -1, -1, -1, -1, float("nan"), float("nan")) for index in indices]
        for tile in tiles:
            self._measure_one(tile)
            with self._changed:
                self._measured += 1
                self._changed.notify_all()
        self._judge_pending(final=False)

    def _measure_one(self, tile: Tile) -> None:
        try:
            frame = self._source.frame(tile.index)
        except MontangoError:
            _log.exception("tile %d cannot be judged", tile.index)
            self._emit(_Measured(tile, NOTHING_MEASURED), [unreadable()])
            return
        full = self._source.full_counts(frame.dtype)
        dark = min(self.thresholds.dark_counts, _DARK_SHARE_OF_SCALE * full)
        measured = _Measured(tile, measure_tile(frame, full, dark))
        faults = self._judge.absolute(measured.metrics, frame.shape[0])
        if faults:
            self._emit(measured, faults)
        else:
            self._judge.learn(measured.metrics)
            self._pending.append(measured)

    def _judge_pending(self, final: bool) -> None:
        """Judge what waits; tiles judged before enough were known are looked at again."""
        if self._judge.enough:
            for measured in self._early:
                faults = self._judge.relative(measured.metrics)
                if faults:
                    self._emit(measured, faults)
            self._early = []
        elif not final:
            return
        pending, self._pending = self._pending, []
        for measured in pending:
            faults = self._judge.relative(measured.metrics)
            self._emit(measured, faults)
            if not self._judge.enough and not faults:
                self._early.append(measured)

    def _add_faults(self, index: int, faults: tuple[TileFault, ...]) -> None:
        self._reported[index] = (*self._reported.get(index, ()), *faults)
        if index in self._judged:  # else they go with its first verdict
            measured, own = self._judged[index]
            self._emit(measured, list(own))

    def _emit(self, measured: _Measured, faults: list[TileFault]) -> None:
        index = measured.tile.index
        self._judged[index] = measured, tuple(faults)
        known = {fault.kind for fault in faults}
        faults = [*faults, *(one for one in self._reported.get(index, ()) if one.kind not in known)]
        metrics = measured.metrics
        notes = () if faults else self._judge.notes(metrics)
        unjudged = self._judge.unjudged(metrics)
        verdict = Verdict(
            measured.tile, metrics, self._judge.with_scope(measured.tile, faults), notes, unjudged
        )
        with self._changed:
            self._verdicts.append(verdict)
            self._changed.notify_all()
