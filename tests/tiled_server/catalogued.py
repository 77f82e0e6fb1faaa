"""A montage in the SQLite catalog of a state directory without a server, and what an analyst reads there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pandas as pd

from processing.callbacks._catalog_run import write_run
from processing.callbacks.journal import find_runs, read_journal
from tests.tiled_server.conftest import KEY
from tests.tiled_server.exported_montage import MONTAGE, Made, make_montage
from tiled_server.client import montage
from tiled_server.configuration import CatalogServer
from tiled_server.moving.opening import opened


@dataclass(frozen=True)
class Seen:
    """What an analyst reads of the montage."""

    tiles: pd.DataFrame
    verdicts: pd.DataFrame
    frames: npt.NDArray[Any]
    mosaic: npt.NDArray[Any]

    def check_same(self, other: Seen) -> None:
        """See that another catalog has the same."""
        pd.testing.assert_frame_equal(self.tiles, other.tiles)
        pd.testing.assert_frame_equal(self.verdicts, other.verdicts)
        assert (self.frames == other.frames).all()
        assert (self.mosaic == other.mosaic).all()
        assert self.frames.any()
        assert self.mosaic.any()


@dataclass(frozen=True)
class Catalogued:
    """The montage as it was made, and as it is read from SQLite."""

    made: Made
    seen: Seen

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.made.data.parent

    def server(self, database: str | None = None) -> CatalogServer:
        """Return how the catalog is served; with a database from there instead of SQLite."""
        return CatalogServer(self.state, (self.made.data,), KEY, database, database)


def look(client: Any) -> Seen:
    """Read the montage with the analysts' client."""
    one: Any = montage(client, MONTAGE)
    assert one.status == "complete"
    return Seen(one.tiles, one.verdicts, one.stack().compute(), one.mosaic(0).compute())


def catalogue(folder: Path) -> Catalogued:
    """Make the montage and its catalog in a folder."""
    state = folder / "state"
    (state / "data").mkdir(parents=True)
    (state / "run").mkdir()
    made = make_montage(folder, state / "data")
    with opened(CatalogServer(state, (made.data,), KEY)) as client:
        for run in find_runs(made.journal):
            write_run(client, list(read_journal(run.path)))
        return Catalogued(made, look(client))
