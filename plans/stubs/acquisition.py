"""A montage in progress: what is exposed, judged, waiting and to be done again. State only, no messages."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from devices.camera.device import Camera
from devices.column.device import Column
from devices.sequencer.device import Sequencer
from devices.sequencer.driver import MoveOptions, TileRequest
from devices.stage.device import Stage
from devices.stage.moves import SettleMode
from plans.calibrations import CalibrationStore
from plans.control import Control, LocalControl, MontageState, Progress
from plans.dose import DoseMap
from plans.specs.focus import FocusSchedule
from plans.specs.grid import Grid, Tile
from plans.specs.montage import MontageSpec
from plans.specs.policy import GOOD, Action, DeviceFault, MontageVerdict
from plans.specs.view import View
from plans.stubs.focus import FocusMap
from plans.stubs.stage_offset import StageOffset
from plans.verdicts import EventReadable, Verdicts

RATE_MEMORY_S = 20.0
CLOCKS = ("before", "focus", "hold", "recover", "qc_wait", "total")
"""What the plan's own time is spent on (``before``: focusing before the first tile); in stream ``verdict``:
time_focus_s, ..."""


class Item(NamedTuple):
    """A tile to acquire: which attempt it is, and what is done before it."""

    tile: Tile
    attempt: int = 0
    remedy: Action | None = None


@dataclass
class Queued:
    """A block on the sequencer: its status, and its tiles."""

    status: Any
    items: Sequence[Item]


@dataclass
class Decision:
    """What was decided about the newest attempt of a tile."""

    index: int
    qc_state: str
    event: dict[str, Any]


class Beam(NamedTuple):
    """Flux in e/A^2/s (NaN: not known) and diameter of the illuminated disc in um."""

    flux_e_per_a2_s: float = math.nan
    diameter_um: float = math.nan


@dataclass
class Acquisition:
    """A montage in progress.

    Attributes
    ----------
    waiting, queued
        Blocks to come, and those on the sequencer.
    exposed
        Tile and attempt of every frame, in the order of the file.
    judged
        Indices of the frames that have a verdict.
    again
        Tiles to acquire again when the region is done.
    attempts, tries
        Newest attempt, made or planned, of each tile by its raster index; how often it was acquired again for
        a kind of fault.
    decisions
        By raster index, about its newest attempt.
    """

    sequencer: Sequencer
    camera: Camera
    column: Column
    stage: Stage
    spec: MontageSpec
    grid: Grid
    view: View
    montage_id: str
    verdicts: Verdicts | None = None
    control: Control = field(default_factory=LocalControl)
    options: MoveOptions = field(default_factory=MoveOptions)
    beam: Beam = field(default_factory=Beam)
    base_shift_um: tuple[float, float] = (0.0, 0.0)
    doses: DoseMap = field(default_factory=DoseMap)
    calibrations: CalibrationStore | None = None

    waiting: deque[list[Item]] = field(default_factory=deque)
    queued: deque[Queued] = field(default_factory=deque)
    exposed: list[Item] = field(default_factory=list)
    judged: set[int] = field(default_factory=set)
    again: list[Item] = field(default_factory=list)
    attempts: dict[int, int] = field(default_factory=dict)
    tries: dict[tuple[int, str], int] = field(default_factory=dict)
    decisions: dict[int, Decision] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)
    newest: Decision | None = None

    schedule: FocusSchedule | None = None
    focus_map: FocusMap | None = None
    map_shift_um: float = 0.0
    focus_wanted: str = ""
    beam_doubted: str = ""
    paused: str = ""
    held: bool = False
    ending: str = ""
    cut_short: str = ""
    device_faults: dict[DeviceFault, int] = field(default_factory=dict)
    faulty_frames: int = -1
    verdict: MontageVerdict = GOOD
    state: MontageState = "started"
    written: int = 0
    settled: int = 0
    given_up: int = 0
    stage_offset: StageOffset = field(default_factory=StageOffset)
    unblanked: bool = False
    defocus_um: float = math.nan
    shift_um: tuple[float, float] = (0.0, 0.0)
    done_before: int = 0
    times_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CLOCKS, 0.0))
    qc: EventReadable = field(default_factory=lambda: EventReadable("qc", "processing.callbacks.tile_qc"))
    incidents: EventReadable = field(default_factory=lambda: EventReadable("incidents", "plans.montage"))
    _marks: deque[tuple[float, int]] = field(default_factory=deque)

    @property
    def repeatable(self) -> bool:
        """Whether focus can be measured at all."""
        return self.spec.focus is not None

    @contextmanager
    def clock(self, what: str) -> Iterator[None]:
        """Count the time spent in something, s, towards `times_s`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.times_s[what] += time.monotonic() - began

    @property
    def exposure_dose(self) -> float:
        """Dose of one tile's exposure, drift frames included, e/A^2; NaN: not known."""
        drift = self.options.settle_mode == SettleMode.DRIFT
        extra_s = 2 * self.options.drift_exposure_s if drift else 0.0
        return self.beam.flux_e_per_a2_s * (self.spec.exposure_time_s + extra_s)

    def prior_dose(self, tile: Tile) -> float:
        """Return the largest dose in a tile's illuminated disc so far, e/A^2; NaN: not known."""
        if math.isnan(self.beam.flux_e_per_a2_s):
            return math.nan
        return self.doses.largest(tile.centre_x_um, tile.centre_y_um, self.beam.diameter_um)

    def count_dose(self, tile: Tile, exposures: int = 1) -> None:
        """Add a tile's exposures to the map of doses; -1 takes back one that was not made."""
        dose = exposures * self.exposure_dose
        if not math.isnan(dose):
            self.doses.add(tile.centre_x_um, tile.centre_y_um, self.beam.diameter_um, dose)

    def request(self, item: Item, prior_dose: float) -> TileRequest:
        """Return a tile as the sequencer takes it."""
        tile, shifted = item.tile, self.grid.supertile != (1, 1)
        shift = (tile.image_shift_x_um, tile.image_shift_y_um) if shifted else self.base_shift_um
        (a, b), (c, d) = self.view.stage_per_shift
        offset_x, offset_y = self.stage_offset.offset_um
        return TileRequest(
            tile.raster_index,
            tile.roi,
            tile.row,
            tile.column,
            item.attempt,
            tile.x_um,
            tile.y_um,
            self.spec.settle_s,
            image_shift_x_um=shift[0] if shifted else math.nan,
            image_shift_y_um=shift[1] if shifted else math.nan,
            defocus_um=self.defocus_of(tile),
            centre_dx_um=a * shift[0] + b * shift[1] - offset_x,
            centre_dy_um=c * shift[0] + d * shift[1] - offset_y,
            prior_dose_e_per_a2=prior_dose,
        )

    def defocus_of(self, tile: Tile) -> float:
        """Return the defocus to set at a tile, um; NaN leaves what the last focusing set."""
        if self.focus_map is None or self.spec.focus is None:
            return math.nan
        offset_um = self.focus_map.offset_um(tile.centre_x_um, tile.centre_y_um)
        return self.spec.focus.target_defocus_um + offset_um + self.map_shift_um

    def correct_map(self, offset_um: float, x_um: float, y_um: float) -> None:
        """Shift the focus map to what was just measured at a place."""
        if self.focus_map is not None:
            self.map_shift_um = offset_um - self.focus_map.offset_um(x_um, y_um)

    def options_for(self, remedy: Action | None) -> MoveOptions:
        """Return how tiles are approached and settled: measured where an attempt was smeared by drift."""
        if remedy == "settle" and self.options.settle_mode == SettleMode.FIXED:
            return replace(self.options, settle_mode=SettleMode.READBACK)
        return self.options

    def take_over(self, items: Sequence[Item]) -> None:
        """Take into account what earlier runs of the montage exposed: tiles done, and doses."""
        todo = {item.tile.raster_index: item.attempt for item in items}
        self.done_before = len(self.grid.tiles) - len(todo)
        for tile in self.grid.tiles:
            for _ in range(todo.get(tile.raster_index, 1)):
                self.count_dose(tile)

    def spoil(self, verdict: MontageVerdict) -> None:
        """Take a reason not to be content with the run."""
        self.verdict = self.verdict.worse(verdict)

    def progress(self, reason: str = "") -> Progress:
        """Return how far the montage is."""
        now = time.monotonic()
        self._marks.append((now, self.written))
        while len(self._marks) > 2 and now - self._marks[1][0] > RATE_MEMORY_S:
            self._marks.popleft()
        tiles = self.written - self._marks[0][1]
        cycle_s = (now - self._marks[0][0]) / tiles if tiles else 0.0
        left = sum(map(len, self.waiting)) + len(self.exposed) - self.written + len(self.again)
        newest = self.exposed[min(self.written, len(self.exposed)) - 1] if self.exposed else None
        reimaged = sum(item.attempt > 0 for item in self.exposed[: self.written])
        return Progress(
            montage_id=self.montage_id,
            state=self.state,
            current_tile=self.done_before + self.written - reimaged,
            total_tiles=len(self.grid.tiles),
            reimaged=reimaged,
            roi=self.grid.roi_names[newest.tile.roi] if newest else "",
            avg_cycle_time_s=cycle_s,
            capture_time_s=self.spec.exposure_time_s,
            throughput_per_min=60 / cycle_s if cycle_s else 0.0,
            eta_s=left * cycle_s,
            verdict=self.verdict.verdict,
            reason=reason or self.verdict.reason,
        )

    def report(self) -> dict[str, Any]:
        """Return the event of stream ``verdict``."""
        states = [one.qc_state for one in self.decisions.values()]
        acquired = {item.tile.raster_index for item in self.exposed[: self.written]}
        return {
            "montage_verdict": str(self.verdict.verdict),
            "montage_reason": self.verdict.reason,
            "montage_tiles": len(self.grid.tiles),
            "montage_missing": len(self.grid.tiles) - self.done_before - len(acquired),
            "montage_skipped": len(self.skipped),
            "montage_failed": states.count("fail"),
            "montage_needs_review": states.count("needs_review"),
            "montage_reimaged": sum(item.attempt > 0 for item in self.exposed[: self.written]),
            **{f"time_{name}_s": spent for name, spent in self.times_s.items()},
        }
