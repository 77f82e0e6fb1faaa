"""Kinds of data that runs point to, as Tiled names them."""

from __future__ import annotations

from typing import Final

HDF5: Final = "application/x-hdf5"
SQL_TABLE: Final = "application/x-tiled-sql-table"
ZARR: Final = "application/x-zarr"
