"""Tables of the index. They are derived: from the catalog and the files of frames they can be made anew.

On PostgreSQL they lie in the schema `SCHEMA` of the catalog's database, on SQLite in a file of their own.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal, NamedTuple

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    and_,
)

from tiled_server.own_tables import SCHEMA

Better = Literal["higher", "lower", ""]


class Metric(NamedTuple):
    """A number of a tile that can be asked for.

    Attributes
    ----------
    name
        Column of the table of tiles.
    unit
        Its unit; empty for a number without.
    better
        Which end is the good one; empty where neither is.
    """

    name: str
    unit: str
    better: Better


SCORES: Final = (
    Metric("mean_counts", "counts", ""),
    Metric("std_counts", "counts", ""),
    Metric("saturated_fraction", "", "lower"),
    Metric("dark_fraction", "", "lower"),
    Metric("sharpness", "", "higher"),
    Metric("focus_score", "dB", "higher"),
    Metric("anisotropy_db", "dB", ""),
    Metric("smear_db", "dB", "lower"),
    Metric("smear_deg", "deg", ""),
    Metric("banding", "", "lower"),
    Metric("missing_fraction", "", "lower"),
    Metric("opaque_fraction", "", "lower"),
    Metric("opaque_radius", "", "lower"),
    Metric("fold_contrast", "", "lower"),
    Metric("shading", "", "higher"),
    Metric("bright_counts", "counts", ""),
    Metric("detail_db", "dB", "higher"),
)
"""The scores of a verdict, as in stream ``qc``."""

MEASURES: Final = (
    Metric("severity", "", "lower"),
    Metric("x_um", "um", ""),
    Metric("y_um", "um", ""),
    Metric("centre_x_um", "um", ""),
    Metric("centre_y_um", "um", ""),
    Metric("solved_x_um", "um", ""),
    Metric("solved_y_um", "um", ""),
    Metric("residual_px", "px", "lower"),
    Metric("defocus_um", "um", ""),
    Metric("dose_e_per_A2", "e/A2", ""),
)
"""Other numbers of a tile."""

METRICS: Final[dict[str, Metric]] = {one.name: one for one in (*SCORES, *MEASURES)}
"""Whatever a heatmap or statistics can be made of."""

SEVERITY: Final = "severity"
SECOND: Final = "focus_score"
"""What tiles without a fault are ranked by where severity is asked for."""

QC_STATES: Final = ("pass", "fail", "needs_review", "pending")
MONTAGE_STATES: Final = ("running", "complete", "aborted", "failed")

_tables = MetaData(schema=SCHEMA)

about = Table(
    "about",
    _tables,
    Column("name", String(40), primary_key=True),
    Column("value", Text, nullable=False),
)
"""What made the tables: `VERSION`."""

runs = Table(
    "runs",
    _tables,
    Column("uid", String(200), primary_key=True),
    Column("node_id", Integer, nullable=False),
    Column("stamp", Text, nullable=False),
    Column("ended", Boolean, nullable=False),
    Column("montage_id", Text),
    Column("role", String(20), nullable=False),
    Column("recipe", Text),
    Column("started", Double),
    Column("facts", JSON, nullable=False),
    Column("tags", JSON, nullable=False),
    Index("ix_runs_montage_id", "montage_id"),
)
"""Every run that was read: what tells whether it changed since, and what a montage's row is made of."""

montages = Table(
    "montages",
    _tables,
    Column("montage_id", Text, primary_key=True),
    Column("sample", Text),
    Column("operator", Text),
    Column("proposal", Text),
    Column("data_session", Text),
    Column("instrument", Text),
    Column("title", Text),
    Column("notes", Text),
    Column("words", Text, nullable=False),
    Column("runs", JSON, nullable=False),
    Column("results", JSON, nullable=False),
    Column("access_tags", JSON, nullable=False),
    Column("started", Double),
    Column("ended", Double),
    Column("status", String(20), nullable=False),
    Column("asked", Integer),
    *(
        Column(name, Integer, nullable=False)
        for name in ("acquired", "passed", "failed", "needs_review", "pending", "exposures")
    ),
    Index("ix_montages_started", "started"),
    Index("ix_montages_sample", "sample"),
    Index("ix_montages_operator", "operator"),
    Index("ix_montages_proposal", "proposal"),
    Index("ix_montages_data_session", "data_session"),
)
"""A row a montage. ``words`` is what free text is looked for in: sample, title and notes in lower case."""

montage_tags = Table(
    "montage_tags",
    _tables,
    Column("tag", String(255), nullable=False),
    Column("montage_id", Text, nullable=False),
    PrimaryKeyConstraint("montage_id", "tag"),
    Index("ix_montage_tags_tag", "tag", "montage_id"),
)
"""Access tags that every acquiring run of a montage has."""

tiles = Table(
    "tiles",
    _tables,
    Column("run_uid", String(200), nullable=False),
    Column("tile_index", Integer, nullable=False),
    Column("montage_id", Text, nullable=False),
    *(Column(name, Integer) for name in ("roi", "row", "column", "attempt")),
    Column("best", Boolean, nullable=False),
    Column("time", Double),
    *(Column(one.name, Double) for one in MEASURES if one.name != "severity"),
    Column("status", String(20), nullable=False),
    Column("qc_state", String(20), nullable=False),
    Column("decision", Text),
    Column("faults", Text),
    Column("severity", Double),
    *(Column(one.name, Double) for one in SCORES),
    PrimaryKeyConstraint("run_uid", "tile_index"),
    Index("ix_tiles_montage_id", "montage_id"),
)
"""A row a frame. Unknown is NULL; ``severity`` is NULL where there is no fault."""

_bad = and_(tiles.c.best, tiles.c.severity.is_not(None))
Index(
    "ix_tiles_severity",
    tiles.c.severity.desc(),
    tiles.c.run_uid,
    tiles.c.tile_index,
    postgresql_where=_bad,
    sqlite_where=_bad,
)

metadata = _tables

_READING: Final = 2
"""To be raised when rows are made of runs in another way."""

_TABLES: Final = [
    (table.name, [(one.name, str(one.type)) for one in table.c]) for table in _tables.sorted_tables
]
VERSION: Final = hashlib.sha256(repr((_READING, _TABLES)).encode()).hexdigest()[:16]
"""Changes with the tables and with `_READING`: an index of another version is dropped and made anew."""

# plain texts: those of SQLAlchemy are of a class of their own, which orjson refuses as keys
TILE_COLUMNS: Final = tuple(str(column.name) for column in tiles.c)
MONTAGE_COLUMNS: Final = tuple(str(column.name) for column in montages.c if column.name != "words")
