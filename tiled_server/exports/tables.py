"""The table of a montage as CSV or Parquet."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, Final

import pandas as pd

from devices.tiles import TILE_COLUMNS
from tiled_server.exports.montage import Montage
from tiled_server.exports.output import Progress

ROWS: Final = 4096
"""Rows that are written at a time."""
_UNITS: Final = {
    **{column.name: column.unit for column in TILE_COLUMNS},
    "solved_x_px": "px", "solved_y_px": "px", "solved_x_um": "um", "solved_y_um": "um", "residual_px": "px",
    "mean_counts": "counts", "std_counts": "counts", "bright_counts": "counts",
}  # fmt: skip


def exported(table: pd.DataFrame) -> pd.DataFrame:
    """Return a part of the table as it is written: what is one thing a column, in a steady order."""
    first = ["roi", "row", "column", "attempt", "best", "run_uid", "tile_index"]
    return table[[*first, *(name for name in table.columns if name not in first)]]


def write_csv(montage: Montage, path: Path, progress: Progress) -> None:
    """Write the table as CSV: UTF-8, a header, an empty field where nothing is known.

    Times are Unix times; numbers are written so that reading them gives the same.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        for first in range(0, len(montage), ROWS):
            rows = exported(montage.table.iloc[first : first + ROWS])
            before = file.tell()
            rows.to_csv(file, index=False, header=first == 0, quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
            progress.step(file.tell() - before)


def write_parquet(montage: Montage, path: Path, progress: Progress) -> None:
    """Write the table as Parquet (zstd).

    Units stand in the metadata of the columns (``unit``), the start documents of the runs in that of the file
    (``montango``, JSON).
    """
    import pyarrow
    import pyarrow.parquet

    whole = pyarrow.Table.from_pandas(exported(montage.table), preserve_index=False)
    fields = [
        field.with_metadata({"unit": _UNITS[field.name]}) if _UNITS.get(field.name) else field
        for field in whole.schema
    ]
    about: dict[Any, Any] = {**(whole.schema.metadata or {}), "montango": json.dumps(description(montage))}
    schema = pyarrow.schema(fields, metadata=about)
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for first in range(0, len(montage), ROWS):
            before = path.stat().st_size
            writer.write_table(whole.slice(first, ROWS).cast(schema))
            progress.step(path.stat().st_size - before)


def description(montage: Montage) -> dict[str, Any]:
    """Return what a montage is, as JSON: its runs' start documents, settings, and what was left out."""
    return {
        "montage_id": montage.montage_id,
        "runs": [
            {"start": dict(run.start), "stop": dict(run.stop), "settings": dict(run.settings)}
            for run in montage.runs
        ],
        "mosaics": [{"uid": one.uid, "roi": one.roi} for one in montage.mosaics],
        "missing": list(montage.missing),
        "left_out": list(montage.left_out),
    }


def table_steps(montage: Montage) -> int:
    """Return in how many steps a table is written."""
    return -(-len(montage) // ROWS)
