"""What an export is asked for: validated, the same on the command line and over HTTP."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Format(StrEnum):
    """Formats that a montage is exported to."""

    MRC = "mrc"
    OME_TIFF = "ome-tiff"
    OME_ZARR = "ome-zarr"
    NXEM = "nxem"
    TRAKEM2 = "trakem2"
    RENDER = "render"
    CSV = "csv"
    PARQUET = "parquet"
    RO_CRATE = "ro-crate"


SUFFIXES: dict[Format, str] = {
    Format.MRC: ".mrc",
    Format.OME_TIFF: ".ome.tif",
    Format.OME_ZARR: ".ome.zarr",
    Format.NXEM: ".nxs",
    Format.TRAKEM2: "-trakem2",
    Format.RENDER: "-render",
    Format.CSV: ".csv",
    Format.PARQUET: ".parquet",
    Format.RO_CRATE: ".crate.zip",
}
"""What the name of a montage gets, where no other name is given."""
FOLDERS = frozenset({Format.OME_ZARR, Format.TRAKEM2, Format.RENDER})
MOSAICS = frozenset({Format.OME_ZARR})


class ExportOptions(BaseModel):
    """Which part of a montage is exported.

    Examples
    --------
    >>> ExportOptions(roi=1).attempts
    'best'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    roi: int | None = Field(default=None, ge=0, le=100_000, description="only this region; None: all")
    attempts: Literal["best", "all"] = Field(
        default="best", description="best: of each tile the attempt that counts; all"
    )
    level: int = Field(
        default=0, ge=0, le=30, description="first level of the mosaic that is exported, 0 is the finest"
    )
    allow_missing: bool = Field(default=False, description="export without the frames that cannot be read")
