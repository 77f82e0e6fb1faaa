"""How a stage that was switched on anew reads against the coordinates of a montage. No messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

from plans.record import MontageRecord
from plans.specs.grid import Grid, Tile

Pair = tuple[float, float]
OFFSET_KEY = "stage_offset_um"
REFERENCE_KEY = "stage_reference"


@dataclass(frozen=True, slots=True)
class ReferenceImage:
    """The image that an offset was found with.

    Attributes
    ----------
    roi, row, column
        The tile that it was taken at.
    x_um, y_um
        Its centre in the coordinates of the montage.
    peak
        Its correlation with what was acquired there, 0 to 1.
    error_um
        One standard deviation of a component of the offset.
    exposure_time_s, binning
        How it was exposed.
    dose_e_per_a2, diameter_um
        Dose, and the disc that got it; NaN: not known.
    """

    roi: int
    row: int
    column: int
    x_um: float
    y_um: float
    peak: float
    error_um: float
    exposure_time_s: float
    binning: int
    dose_e_per_a2: float
    diameter_um: float


@dataclass(frozen=True, slots=True)
class StageOffset:
    """What the stage reads now at a place, less what it read there when the montage was begun, um."""

    offset_um: Pair = (0.0, 0.0)
    image: ReferenceImage | None = None

    @classmethod
    def known(cls, record: MontageRecord | None) -> Self:
        """Return the offset of a montage's last run: what holds as long as nobody finds another."""
        if record is None:
            return cls()
        x_um, y_um = record.runs[-1].start.get(OFFSET_KEY, (0.0, 0.0))
        return cls((float(x_um), float(y_um)))

    def metadata(self) -> dict[str, Any]:
        """Return what a start document says of it; nothing where there is none."""
        if self.image is None and self.offset_um == (0.0, 0.0):
            return {}
        reference = {} if self.image is None else {REFERENCE_KEY: asdict(self.image)}
        return {OFFSET_KEY: list(self.offset_um), **reference}

    def shifted(self, grid: Grid) -> Grid:
        """Return a grid as the stage reads it now."""
        dx, dy = self.offset_um
        if not dx and not dy:
            return grid

        def moved(tile: Tile) -> Tile:
            return tile._replace(
                x_um=tile.x_um + dx,
                y_um=tile.y_um + dy,
                centre_x_um=tile.centre_x_um + dx,
                centre_y_um=tile.centre_y_um + dy,
            )

        return grid._replace(tiles=tuple(map(moved, grid.tiles)))

    def places(self, places_um: Iterable[Pair]) -> list[Pair]:
        """Return places of the montage's coordinates as the stage reads them now."""
        return [(x + self.offset_um[0], y + self.offset_um[1]) for x, y in places_um]


class Disc(NamedTuple):
    """A dose that was given: centre as the stage reads it now, diameter, e/A^2."""

    x_um: float
    y_um: float
    diameter_um: float
    dose_e_per_a2: float


def reference_doses(record: MontageRecord, offset: StageOffset) -> Iterator[Disc]:
    """Yield the doses of the reference images of a montage, that of ``offset`` included."""
    images = [run.start[REFERENCE_KEY] for run in record.runs if REFERENCE_KEY in run.start]
    images += [asdict(offset.image)] if offset.image is not None else []
    for image in images:
        if image["dose_e_per_a2"] > 0 and image["diameter_um"] > 0:  # NaN where it is not known
            ((x_um, y_um),) = offset.places([(image["x_um"], image["y_um"])])
            yield Disc(x_um, y_um, image["diameter_um"], image["dose_e_per_a2"])
