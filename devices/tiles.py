"""What is recorded of every tile beside its pixels.

One dataset a column, in the file of the frames (``/entry/tiles/NAME``, float64, shape ``(tile,)``), and one
data key a column in the ``tiles`` stream, under the same name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from devices.errors import LimitError

IMAGE_KEY = "image"
IMAGE_DATASET = "/entry/data"
TILE_GROUP = "/entry/tiles"


class TileColumn(NamedTuple):
    """One number that is recorded of every tile."""

    name: str
    unit: str
    description: str


SEQUENCER_COLUMNS: tuple[TileColumn, ...] = (
    TileColumn("raster_index", "", "position of the tile in its grid's order of acquisition, from 0"),
    TileColumn("roi", "", "region of interest that the tile belongs to, from 0"),
    TileColumn("row", "", "row of the tile in its region, from 0"),
    TileColumn("column", "", "column of the tile in its region, from 0"),
    TileColumn("attempt", "", "0 for the first acquisition of a tile, then 1, 2, ..."),
    TileColumn("x_requested_um", "um", "stage x asked for"),
    TileColumn("y_requested_um", "um", "stage y asked for"),
    TileColumn("x_um", "um", "stage x read back when the exposure began"),
    TileColumn("y_um", "um", "stage y read back when the exposure began"),
    TileColumn("z_um", "um", "stage z read back when the exposure began"),
    TileColumn(
        "centre_x_um", "um", "stage x of the image centre: read-back and image shift, less stage_offset_um"
    ),
    TileColumn(
        "centre_y_um", "um", "stage y of the image centre: read-back and image shift, less stage_offset_um"
    ),
    TileColumn("image_shift_x_um", "um", "image shift along x"),
    TileColumn("image_shift_y_um", "um", "image shift along y"),
    TileColumn("defocus_um", "um", "defocus set, underfocus negative"),
    TileColumn("move_time_s", "s", "from the request of the move to the arrival of the stage; 0: no move"),
    TileColumn("settle_time_s", "s", "waited between arrival and exposure"),
    TileColumn("stage_tries", "", "moves it took to arrive within the tolerance; 0: the stage did not move"),
    TileColumn("drift_nm_s", "nm/s", "last speed measured before the exposure; NaN: not measured"),
    TileColumn("dose_e_per_a2", "e/A2", "dose of this exposure and of its drift frames"),
    TileColumn("prior_dose_e_per_a2", "e/A2", "dose there before, as the plan knew it"),
)
"""Columns that the sequencer sends with each exposure, in this order."""

CAMERA_COLUMNS: tuple[TileColumn, ...] = (
    TileColumn("exposure_start_s", "s", "start of the exposure, Unix time"),
    TileColumn("exposure_time_s", "s", "length of the exposure"),
    TileColumn("readout_time_s", "s", "from the end of the exposure to the frame in memory"),
    TileColumn("exposure_count", "", "exposures the camera server has made since it was installed"),
)
"""Columns that the camera server adds."""

TILE_COLUMNS: tuple[TileColumn, ...] = SEQUENCER_COLUMNS + CAMERA_COLUMNS

_NAMES: Final = tuple(column.name for column in SEQUENCER_COLUMNS)


def sequencer_values(numbers: Sequence[float] | None = None) -> dict[str, float]:
    """Return the sequencer's columns by name, from their values in order; None: NaN in each.

    Raises
    ------
    LimitError
        Too few or too many numbers.
    """
    if numbers is None:
        return dict.fromkeys(_NAMES, float("nan"))
    if len(numbers) != len(_NAMES):
        raise LimitError(f"an exposure of a tile takes {len(_NAMES)} numbers, not {len(numbers)}")
    return dict(zip(_NAMES, map(float, numbers), strict=True))
