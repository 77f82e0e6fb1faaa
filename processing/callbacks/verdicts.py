"""What quality control says of a tile."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from processing.callbacks._tiles import Tile
from processing.fault_kinds import FaultKind, Scope
from processing.kernels.quality import TileMetrics


class QCThresholds(BaseModel):
    """When a tile fails. The first group is absolute; the second compares with the other tiles of the run.

    Sharpness, focus score, texture and relief are explained in `processing.kernels.quality`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dark_counts: float = Field(default=300.0, ge=0, le=65535)
    """Counts at or under this are dark (the sensor's offset and a little); at most 2 % of the full scale."""
    max_dark_fraction: float = Field(default=0.5, gt=0, le=1)
    """Share of dark pixels over which a tile is dark."""
    max_saturated_fraction: float = Field(default=0.02, gt=0, le=1)
    """Share of saturated pixels over which a tile is saturated."""
    min_std_counts: float = Field(default=5.0, ge=0, le=65535)
    """Standard deviation, counts, under which a tile has too little contrast."""
    max_damaged_fraction: float = Field(default=0.004, gt=0, le=1)
    """Share of constant or torn lines over which a frame is damaged; never for fewer than 3 lines."""
    max_banding: float = Field(default=0.04, gt=0, le=1)
    """Brightness of lines that most of a frame's width shares, over which the sample charges; more is allowed
    for frames under 256 lines."""

    min_relative_mean: float = Field(default=0.3, ge=0, lt=1)
    """Mean, as a fraction of the run's median, under which a tile is dark."""
    false_alarms: float = Field(default=1e-3, gt=0, le=0.1)
    """How often a clean tile may be taken for a faulty one, all learned limits together."""
    max_relative_sharpness: float = Field(default=0.8, gt=0, lt=1)
    """Sharpness, as a fraction of that of like tiles, over which a loss of detail is noted and no fault."""
    min_focus_drop_db: float = Field(default=5.0, gt=0, le=60)
    """Least loss of detail of half of the directions against like tiles, dB, that is a blur; more where they
    differ more."""
    min_smear_db: float = Field(default=5.0, gt=0, le=60)
    """Least loss of detail of a third of the directions against like tiles, dB, that is a blur, smear or
    astigmatism; more where these differ more."""
    max_opaque_radius: float = Field(default=0.06, gt=0, le=0.5)
    """Radius of the largest opaque circle, relative to the shorter side, over which it is dirt; more where
    tiles of the run have larger ones."""
    max_fold_contrast: float = Field(default=0.4, gt=0, le=10)
    """Contrast of a dark line right across the tile, natural logarithm, over which it is a fold; more where
    tiles of the run have such lines."""
    min_shading: float = Field(default=0.4, gt=0, lt=1)
    """Bright parts of the darkest of nine fields over those of the brightest, under which the beam is cut;
    less where tiles of the run are as uneven."""
    min_texture: float = Field(default=20.0, ge=1, le=1000)
    """Texture under which nothing is said of sharpness: resin."""
    min_relative_relief: float = Field(default=0.3, gt=0, le=1)
    """Relief, as a fraction of the run's median, over which a tile without texture is blurred tissue."""
    reference_tiles: int = Field(default=5, ge=3, le=100)
    """Tiles with texture that must have been seen before tiles are compared."""
    window_tiles: int = Field(default=200, ge=10, le=10_000)
    """How many of the newest tiles are compared with."""
    persistent_after: int = Field(default=3, ge=2, le=100)
    """Neighbouring tiles with the same fault that make it persistent."""


@dataclass(frozen=True, slots=True)
class TileFault:
    """What is wrong with a tile.

    Attributes
    ----------
    kind
        ``dark``, ``saturated``, ``low_contrast``, ``blurred`` (out of focus), ``smeared`` (drift),
        ``astigmatic``, ``damaged`` (lines lost or torn), ``incomplete`` (the rest never came), ``frozen``
        (the frame before once more), ``debris``, ``fold``, ``charging``, ``vignetted`` (the beam's edge),
        ``unmatched`` (shows another place than its neighbours), ``misplaced`` (lies elsewhere than the stage
        says) or ``unreadable``.
    severity
        0 (just over the limit) to 1.
    confidence
        0 to 1.
    scope
        ``transient``: this tile; ``persistent``: several tiles that touch each other; ``critical``: the same,
        and going on is useless (no beam, detector saturated, frames unreadable).
    metrics
        The numbers it rests on, and their limits.
    """

    kind: FaultKind
    severity: float
    confidence: float
    scope: Scope
    metrics: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return it as a plain dictionary."""
        return {
            "kind": self.kind,
            "severity": round(self.severity, 3),
            "confidence": round(self.confidence, 3),
            "scope": self.scope,
            "metrics": {name: float(f"{value:.5g}") for name, value in self.metrics.items()},
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement of one tile; a later one of the same ``tile.index`` takes its place.

    Attributes
    ----------
    faults
        What is wrong with it: the policy acts on these, and on nothing else.
    notes
        What is unusual about it, and not enough to act: for who looks at the tiles later.
    unjudged
        Kinds of faults that it shows too little to tell, or that too few tiles are known to tell by.
    """

    tile: Tile
    metrics: TileMetrics
    faults: tuple[TileFault, ...]
    notes: tuple[TileFault, ...] = ()
    unjudged: tuple[FaultKind, ...] = ()

    @property
    def tile_index(self) -> int:
        """Index of the tile in its file."""
        return self.tile.index

    @property
    def qc_state(self) -> Literal["pass", "fail"]:
        """``"pass"`` or ``"fail"``."""
        return "fail" if self.faults else "pass"

    def as_event(self) -> dict[str, Any]:
        """Return the data of an event of the ``qc`` stream.

        Its keys differ from those of stream ``tiles``: TiledWriter takes a key that is external in one stream
        of a run for external in all.
        """
        tile, metrics = self.tile, self.metrics
        return {
            "tile_index": tile.index,
            "tile_roi": tile.roi,
            "tile_row": tile.row,
            "tile_column": tile.column,
            "tile_attempt": tile.attempt,
            "tile_x_um": tile.x_um,
            "tile_y_um": tile.y_um,
            "qc_state": str(self.qc_state),
            "faults": json.dumps([fault.as_dict() for fault in self.faults]),
            "notes": json.dumps([note.as_dict() for note in self.notes]),
            "not_judged": ",".join(self.unjudged),
            "mean_counts": metrics.mean_counts,
            "std_counts": metrics.std_counts,
            "saturated_fraction": metrics.saturated_fraction,
            "dark_fraction": metrics.dark_fraction,
            "sharpness": metrics.sharpness,
            "focus_score": metrics.focus_score,
            "anisotropy_db": metrics.anisotropy_db,
            "smear_db": metrics.smear_db,
            "smear_deg": metrics.smear_deg,
            "banding": metrics.banding,
            "missing_fraction": metrics.missing_fraction,
            "opaque_fraction": metrics.opaque_fraction,
            "opaque_radius": metrics.opaque_radius,
            "fold_contrast": metrics.fold_contrast,
            "shading": metrics.shading,
            "bright_counts": metrics.bright_counts,
            "detail_db": metrics.detail_db,
        }
