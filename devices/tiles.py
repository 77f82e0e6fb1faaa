"""What is recorded of every tile beside its pixels.

One dataset a column, in the file of the frames (``/entry/tiles/NAME``, float64, shape ``(tile,)``), and one
data key a column in the ``tiles`` stream, under the same name.
"""

from __future__ import annotations

from typing import NamedTuple

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
    TileColumn("row", "", "row of the tile in the montage, from 0"),
    TileColumn("column", "", "column of the tile in the montage, from 0"),
    TileColumn("attempt", "", "0 for the first acquisition of a tile, then 1, 2, ..."),
    TileColumn("x_requested_um", "um", "stage x asked for"),
    TileColumn("y_requested_um", "um", "stage y asked for"),
    TileColumn("x_um", "um", "stage x read back when the exposure began"),
    TileColumn("y_um", "um", "stage y read back when the exposure began"),
    TileColumn("z_um", "um", "stage z read back when the exposure began"),
    TileColumn("image_shift_x_um", "um", "image shift along x"),
    TileColumn("image_shift_y_um", "um", "image shift along y"),
    TileColumn("defocus_um", "um", "defocus set, underfocus negative"),
    TileColumn("move_time_s", "s", "from the request of the move to the arrival of the stage"),
    TileColumn("settle_time_s", "s", "waited between arrival and exposure"),
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
