"""How a montage is stitched."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as dataclass_field

from processing.kernels.field import MAX_DEGREE, FieldModel
from processing.kernels.pairs import PairOptions


@dataclass(frozen=True)
class StitchOptions:
    """How a montage is stitched.

    Attributes
    ----------
    first_search_px
        Range of the first pairs, a side, px: while the error of the stage is not known; None: a tenth of the
        shorter side of a tile, at least 64.
    least_search_px, most_search_px
        Limits of the range of all later pairs, a side, px; None: 16 or 1.2 % of a tile's longer side, and the
        range of the first pairs.
    min_overlap
        Least overlap of a pair, of a tile's side, that is tried.
    field
        The known distortion (calibrated for this magnification and camera); None: none known.
    calibrate_field
        Whether to find the distortion from the montage's own overlaps; beside a known one: its monitor.
    degree
        Highest degree of the distortion, 1 (none) to 7.
    affine
        Whether each tile may have a matrix of its own.
    refit_growth
        The distortion is fitted anew each time the tiles have grown by this factor, above 1; infinity: only
        for the final solution.
    keep_mb
        Frames kept for neighbours that may still come, at most, 10^6 bytes; the oldest go first.
    moved_px
        A tile is reported as moved when a corner has moved by more, px.
    pairs
        How pairs are matched and judged.

    Raises
    ------
    ValueError
        A value is outside its range.
    """

    first_search_px: float | None = None
    least_search_px: float | None = None
    most_search_px: float | None = None
    min_overlap: float = 0.02
    field: FieldModel | None = None
    calibrate_field: bool = True
    degree: int = 7
    affine: bool = True
    refit_growth: float = 1.5
    keep_mb: float = 2048.0
    moved_px: float = 1.0
    pairs: PairOptions = dataclass_field(default_factory=PairOptions)

    def __post_init__(self) -> None:
        for name in ("first_search_px", "least_search_px", "most_search_px"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < 1e5:
                raise ValueError(f"{name} = {value} must be 1 to 100000 px, or None")
        if not 0 < self.min_overlap < 1:
            raise ValueError(f"min_overlap = {self.min_overlap} must be above 0 and below 1")
        if not 1 <= self.degree <= MAX_DEGREE:
            raise ValueError(f"degree = {self.degree} must be 1 to {MAX_DEGREE}")
        if not self.refit_growth > 1:
            raise ValueError(f"refit_growth = {self.refit_growth} must be above 1")
        if not self.keep_mb > 0 or not self.moved_px >= 0:
            raise ValueError(
                f"keep_mb = {self.keep_mb} must be above 0, moved_px = {self.moved_px} not below 0"
            )

    def search_px(self, size_px: tuple[int, int]) -> tuple[float, float, float]:
        """Return the first, the least and the most search range for tiles of a size (width, height), px."""
        first = self.first_search_px or max(64.0, 0.1 * min(size_px))
        most = self.most_search_px or first
        least = min(self.least_search_px or max(16.0, 0.012 * max(size_px)), most)
        return first, least, most
