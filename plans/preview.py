"""What a montage will be, before anything moves: tiles, bytes, dose, time, and a picture of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from devices.errors import LimitError
from devices.stage.driver import StageLimits
from plans.checks import check_dose, check_positions, dose_per_exposure, largest_dose
from plans.specs.grid import Grid, make_grid
from plans.specs.montage import MontageSpec
from plans.specs.view import View
from plans.timing import Duration, Timing, estimate_time

BYTES_PER_PIXEL = 2
"""Frames are uint16."""


@dataclass(frozen=True, slots=True)
class Beam:
    """The beam that a preview reckons dose with: its current, and the diameter of what it illuminates."""

    current_na: float
    illuminated_area_um: float


@dataclass(frozen=True, eq=False)
class Preview:
    """What a montage will be.

    Attributes
    ----------
    spec, view, grid
        What is asked, what a frame shows, and the tiles.
    limits
        The stage's limits, if known.
    duration
        How long it takes, reckoned with ``timing``.
    dose_e_per_a2
        Dose of one exposure, e/A^2; None: beam not known.
    largest_dose_e_per_a2
        Dose where most exposures overlap, e/A^2: the illuminated disc reaches over neighbours.
    refusals
        Why it would be refused, a line each; empty: it would not.
    remarks
        What else should be known, a line each.
    """

    spec: MontageSpec
    view: View
    grid: Grid
    limits: StageLimits | None
    timing: Timing
    duration: Duration
    dose_e_per_a2: float | None
    largest_dose_e_per_a2: float | None
    refusals: tuple[str, ...] = field(default=())
    remarks: tuple[str, ...] = field(default=())

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return len(self.grid.tiles)

    @property
    def stations(self) -> int:
        """Number of stage positions."""
        return self.grid.stations

    @property
    def pixels(self) -> int:
        """Pixels of all frames, overlaps counted as often as they are acquired."""
        return self.tiles * self.view.width_px * self.view.height_px

    @property
    def size_bytes(self) -> int:
        """Bytes of all frames, uncompressed."""
        return self.pixels * BYTES_PER_PIXEL

    def as_dict(self) -> dict[str, Any]:
        """Return the figures, for programs."""
        return {
            "tiles": self.tiles,
            "stations": self.stations,
            "rows": self.grid.rows,
            "columns": self.grid.columns,
            "rois": dict(zip(self.grid.roi_names, self._per_roi(), strict=True)),
            "pixels": self.pixels,
            "size_bytes": self.size_bytes,
            "tile_um": [self.view.width_um, self.view.height_um],
            "pixel_size_nm": self.view.pixel_size_nm,
            "rotation_deg": self.view.rotation_deg,
            "dose_e_per_a2": self.dose_e_per_a2,
            "largest_dose_e_per_a2": self.largest_dose_e_per_a2,
            "time_s": self.duration.total_s,
            "time_parts_s": asdict(self.duration),
            "timing": asdict(self.timing),
            "refusals": list(self.refusals),
            "remarks": list(self.remarks),
        }

    def as_text(self) -> str:
        """Return the figures, for people."""
        from plans.preview_text import describe

        return describe(self)

    def draw(self, path: Path | str) -> Path:
        """Draw tiles, order, regions, stations and limits to a PNG, and return its path.

        Raises
        ------
        ConfigurationError
            The file cannot be written.
        """
        from plans.preview_picture import draw_preview

        return draw_preview(self, Path(path))

    def _per_roi(self) -> list[int]:
        counts = [0] * len(self.grid.roi_names)
        for tile in self.grid.tiles:
            counts[tile.roi] += 1
        return counts


def preview(
    spec: MontageSpec,
    view: View,
    *,
    centre_um: tuple[float, float] = (0.0, 0.0),
    limits: StageLimits | None = None,
    beam: Beam | None = None,
    timing: Timing | None = None,
) -> Preview:
    """Return what a montage will be; nothing moves.

    Parameters
    ----------
    spec
        What to acquire.
    view
        What a frame shows.
    centre_um
        Where the stage is; the montage lies there if the spec names no place.
    limits
        The stage's limits, to say whether a tile is outside.
    beam
        For the dose; None leaves it unknown.
    timing
        What the instrument takes for its steps.

    Raises
    ------
    LimitError
        The grid cannot be laid out: a supertile over the limit of image shift, or too many tiles.
    """
    grid = make_grid(spec, view, centre_um)
    timing = timing or Timing()
    dose = largest = None
    if beam is not None and beam.current_na > 0 and beam.illuminated_area_um > 0:
        dose = dose_per_exposure(beam.current_na, beam.illuminated_area_um, spec.exposure_time_s)
        largest = largest_dose(grid, beam.illuminated_area_um, dose)
    return Preview(
        spec,
        view,
        grid,
        limits,
        timing,
        estimate_time(spec, grid, timing),
        dose,
        largest,
        _refusals(spec, grid, limits, largest),
        _remarks(spec),
    )


def _refusals(
    spec: MontageSpec, grid: Grid, limits: StageLimits | None, largest: float | None
) -> tuple[str, ...]:
    found: list[str] = []
    try:
        if limits is not None:
            check_positions(grid.tiles, limits, grid.roi_names if spec.rois else ())
    except LimitError as error:
        found.append(str(error))
    try:
        if spec.max_dose_e_per_a2 is not None and largest is not None:
            check_dose(spec.max_dose_e_per_a2, largest)
    except LimitError as error:
        found.append(str(error))
    return tuple(found)


def _remarks(spec: MontageSpec) -> tuple[str, ...]:
    shapes = [(roi.name, roi.shape()) for roi in spec.rois]
    found = []
    for (name, shape), (other, other_shape) in combinations(shapes, 2):
        area = shape.intersection(other_shape).area
        if area > 1e-9 * min(shape.area, other_shape.area):
            found.append(f"ROIs {name!r} and {other!r} share {area:.3g} um^2, which is exposed for both")
    return tuple(found)
