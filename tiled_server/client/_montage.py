"""A montage as one thing, whatever runs it took."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from devices.errors import ConfigurationError
from devices.tiles import IMAGE_KEY
from tiled_server.client import page, pictures, pixels
from tiled_server.client.heatmaps import Heatmap, heatmap_of_answer, heatmap_of_tiles
from tiled_server.client.metrics import find_metric, find_ranked, summed_up, worst_of
from tiled_server.client.names import find_row, id_of_run
from tiled_server.client.notes import Annotated
from tiled_server.client.provenance import Provenance, provenance
from tiled_server.client.routes import Routes
from tiled_server.client.runs import TILES, all_runs, has_stream, start_of, stream_parts, uid_of
from tiled_server.client.summaries import Row, acquisitions_of, is_indexed, results_of
from tiled_server.client.tiles import arranged, count_states, join_recorded, read_tiles, read_verdicts
from tiled_server.client.timeline import timeline

if TYPE_CHECKING:
    import dask.array

Attempt = int | Literal["best"]


class Montage(Annotated):
    """All that was acquired under one montage id: runs that resumed others, tiles acquired again, results.

    What is read is kept; `refresh` forgets it, to see how a montage goes on.

    Parameters
    ----------
    client
        A Tiled client of the catalog.
    row
        Its summary, as `tiled_server.client.montages` finds it.
    """

    def __init__(self, client: Any, row: Row) -> None:
        self.client = client
        self.montage_id = str(row["montage_id"])
        self._routes = Routes(client)
        self._row = dict(row)

    @classmethod
    def named(cls, client: Any, name: str) -> Montage:
        """Return a montage by its id or by the uid of one of its runs; see `tiled_server.client.montage`."""
        row = find_row(client, name)
        if row is None:
            row = find_row(client, id_of_run(client, name))
        if row is None:
            raise ConfigurationError(
                f"{name!r} is the run of a result, and the catalog lacks the run that it is made of; "
                f"complete it: montango journal replay"
            )
        return cls(client, row)

    def refresh(self) -> None:
        """Forget what was read, so that all is asked for again."""
        self._row = find_row(self.client, self.montage_id) or self._row
        for name, one in vars(Montage).items():
            if isinstance(one, cached_property):
                self.__dict__.pop(name, None)

    @property
    def status(self) -> str:
        """``running``, ``complete``, ``aborted`` or ``failed``: how its newest run stands or ended."""
        return str(self._row["status"])

    @property
    def started(self) -> pd.Timestamp:
        """When its first run began, UTC."""
        return pd.Timestamp(self._row["started"], unit="s", tz="UTC")

    @property
    def counts(self) -> dict[str, int | None]:
        """How many places were ``asked`` for (None: not known) and ``acquired``, how many are of which state.

        ``exposures`` are frames in all.
        """
        if self._row.get("exposures") is None:
            self._row |= count_states(self.tiles)
        names = ("asked", "acquired", "passed", "failed", "needs_review", "pending", "exposures")
        return {name: self._row[name] for name in names}

    @cached_property
    def _all_runs(self) -> list[Any]:
        return all_runs(self.client, self.montage_id)

    @cached_property
    def runs(self) -> list[Any]:
        """The runs that acquired it, oldest first: Tiled clients."""
        return acquisitions_of(self._all_runs)

    @cached_property
    def results(self) -> list[Any]:
        """The runs of what was made of it (overviews, mosaics), oldest first: Tiled clients."""
        return results_of(self._all_runs)

    @cached_property
    def _tile_runs(self) -> list[Any]:
        return [run for run in self.runs if has_stream(run, TILES)]

    @property
    def metadata(self) -> dict[str, Any]:
        """The start document of its first run, with ``title`` and ``notes`` of all."""
        start: Mapping[str, Any] = start_of(self.runs[0])
        return {**start, **{name: self._row[name] for name in ("title", "notes") if self._row.get(name)}}

    @cached_property
    def tiles(self) -> pd.DataFrame:
        """A row for each place and attempt, by region, row, column and attempt.

        ``best`` marks the attempt that counts: the newest that passed or is kept for review, else the newest.
        A number that is not known is NaN. The reference of the catalog has every column.
        """
        if self._indexed is not None:
            return join_recorded(self._indexed, self._tile_runs)
        mosaics = [run for run in self.results if start_of(run).get("recipe") == pixels.MOSAIC_RECIPE]
        return read_tiles(self._tile_runs, mosaics)

    @property
    def _has_index(self) -> bool:
        """Whether the server has an index, and it is not behind what is known of this montage already.

        While it catches up (after a restart, or made anew) it may have tiles of a montage as it once was.
        """
        return self._routes.there and is_indexed(self._row)

    @cached_property
    def _indexed(self) -> pd.DataFrame | None:
        """The rows of the server's index; None where it has none, or a run goes on and is ahead of it."""
        if not self._has_index or self.status == "running":
            return None
        try:
            rows = self._routes.table("montages", self.montage_id, "tiles")
        except KeyError:  # the index has not come to it yet
            return None
        return rows if set(rows["run_uid"]) >= {uid_of(run) for run in self._tile_runs} else None

    @cached_property
    def _places(self) -> pd.DataFrame:
        """The rows of `tiles`, in the same order, with at least what the index knows: in one request."""
        return self.tiles if self._indexed is None or "tiles" in self.__dict__ else arranged(self._indexed)

    @property
    def best(self) -> pd.DataFrame:
        """The rows of `tiles` that count, one a place: in the order of `stack`."""
        return self.tiles[self.tiles["best"]].reset_index(drop=True)

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """Every event of stream ``qc``, oldest first, also those that later ones replaced."""
        return read_verdicts(self._tile_runs)

    def image(self, row: int, column: int, attempt: Attempt = "best", *, roi: int = 0) -> npt.NDArray[Any]:
        """Return a frame as the camera made it: no dark or bright reference is taken out.

        Parameters
        ----------
        row, column, roi
            Its place, from 0.
        attempt
            ``"best"``: the one that counts; or its number, 0 for the first.

        Returns
        -------
        numpy.ndarray
            (y, x), raw counts, uint16 for the cameras of Montango.

        Raises
        ------
        ConfigurationError
            There is no such tile, or it was not acquired so often.
        """
        tile = self._tile(row, column, attempt, roi)
        return np.asarray(self._image(str(tile["run_uid"]))[int(tile["tile_index"]), 0])

    def stack(self) -> dask.array.Array:
        """Return the frames that count, (tile, y, x), raw counts, as a dask array of one chunk a frame.

        Nothing is read before ``compute``, and of a slice only that. Row n of `best` is tile n.

        Raises
        ------
        ConfigurationError
            It has no tiles.
        """
        best = self._places[self._places["best"]]
        if best.empty:
            raise ConfigurationError(f"montage {self.montage_id} has no tiles yet")
        uids = list(dict.fromkeys(best["run_uid"]))
        frames = [
            (uids.index(uid), int(index))
            for uid, index in zip(best["run_uid"], best["tile_index"], strict=True)
        ]
        return pixels.lazy_stack([self._image(uid) for uid in uids], frames)

    def mosaic(self, level: int = 0, *, roi: int = 0) -> dask.array.Array:
        """Return a level of the newest mosaic of a region, (y, x), counts; 0 where no tile is.

        Parameters
        ----------
        level
            0: full resolution; each further level is half as large; -1: the smallest.
        roi
            The region.

        Raises
        ------
        ConfigurationError
            There is no mosaic, or no such level.
        """
        run = self.mosaic_run(roi)
        array = pixels.mosaic_level(run, level)
        return pixels.lazy_level(array, f"mosaic-{uid_of(run)}-{array.item['id']}")

    def mosaic_run(self, roi: int = 0) -> Any:
        """Return the run of the newest mosaic of a region: where it lies is in its start document.

        Raises
        ------
        ConfigurationError
            There is none.
        """
        found = pixels.newest(self.results, pixels.MOSAIC_RECIPE, roi)
        if found is None:
            raise ConfigurationError(
                f"montage {self.montage_id} ({self.status}) has no mosaic of region {roi}: the live mosaic "
                f"comes when its run has ended, unless processing.live_mosaic is off; see montango stitch"
            )
        return found

    def overview(self) -> npt.NDArray[Any]:
        """Return the overview, (y, x) counts: the whole montage at reduced scale, of all runs.

        Raises
        ------
        ConfigurationError
            There is none yet.
        """
        found = pictures.overview_picture(self.results)
        if found is None:
            raise ConfigurationError(
                f"montage {self.montage_id} ({self.status}) has no overview: it comes when its run has ended"
            )
        return found.pixels

    def heatmap(self, metric: str = "focus_score") -> Heatmap:
        """Return a number of the tiles that count, as a grid a region.

        Parameters
        ----------
        metric
            A score of tile QC, ``severity``, ``residual_px``, ``defocus_um``, ... or a beginning that only
            one of them has.

        Raises
        ------
        ConfigurationError
            There is no such number.
        """
        one = find_metric(metric)
        if self._has_index:
            try:
                answer = self._routes.json("montages", self.montage_id, "heatmap", metric=one.name)
                return heatmap_of_answer(answer, self.montage_id)
            except KeyError:
                pass
        return heatmap_of_tiles(self.tiles, one, self.montage_id)

    def worst(self, n: int = 20, by: str = "severity") -> pd.DataFrame:
        """Return the worst n of the tiles that count, the worst first; ``value`` is what they are ranked by.

        By severity, tiles without a fault follow: those with the lowest focus score first, without a value.

        Raises
        ------
        ConfigurationError
            There is no such number, neither of its ends is bad, or n is less than 1.
        """
        return worst_of(self.tiles, find_ranked(by), n)

    def statistics(self, metric: str = "focus_score") -> dict[str, Any]:
        """Return how a number is distributed over the tiles that count: `tiled_server.client.statistics`."""
        one = find_metric(metric)
        if self._has_index:
            answer = dict(self._routes.json("statistics", montage=self.montage_id, metric=one.name))
            if answer["states"]:  # else the index has not come to it yet
                return answer
        return summed_up(self.tiles, one)

    def timeline(self) -> pd.DataFrame:
        """Return what happened, and when: runs, pauses, failures, tiles acquired again, focus, results."""
        return timeline(self.runs, self.results, self.tiles)

    def provenance(self) -> Provenance:
        """Return what it comes from and what was made of it: a dictionary that prints as a tree."""
        return provenance(self.client, self.montage_id, self.runs, self.results, self.tiles)

    def picture(self, roi: int = 0) -> pictures.Picture | None:
        """Return the mosaic at a size to look at, else the overview, and where it lies; None without both."""
        mosaic = pixels.newest(self.results, pixels.MOSAIC_RECIPE, roi)
        if mosaic is not None:
            return pictures.mosaic_picture(mosaic)
        return pictures.overview_picture(self.results)

    def plot(self, *, roi: int = 0, ax: Any = None, **options: Any) -> Any:
        """Draw the mosaic, or else the overview, where it lies on the stage, in um; return the figure.

        ``options`` go to `matplotlib.axes.Axes.imshow`.

        Raises
        ------
        ConfigurationError
            There is neither yet.
        """
        from tiled_server.client.plots import draw_picture

        picture = self.picture(roi)
        if picture is None:
            raise ConfigurationError(
                f"montage {self.montage_id} ({self.status}) has neither mosaic nor overview yet"
            )
        return draw_picture(picture, f"{self.montage_id}: {picture.what}", ax, options)

    def plot_worst(self, n: int = 8, by: str = "severity") -> Any:
        """Draw the worst tiles beside each other; return the figure."""
        from tiled_server.client.plots import draw_tiles

        tiles = self.worst(n, by)
        frames = [
            self._image(uid)[int(at), 0]
            for uid, at in zip(tiles["run_uid"], tiles["tile_index"], strict=True)
        ]
        texts = [page.tile_text(tile) for tile in tiles.to_dict("records")]
        return draw_tiles(
            frames, texts, f"{self.montage_id}: the worst {len(texts)} by {find_ranked(by).name}"
        )

    def __repr__(self) -> str:
        return page.montage_text(self)

    def _repr_html_(self) -> str:
        return page.montage_html(self)

    def _tile(self, row: int, column: int, attempt: Attempt, roi: int) -> pd.Series:
        tiles = self._places
        here = tiles[(tiles["roi"] == roi) & (tiles["row"] == row) & (tiles["column"] == column)]
        if here.empty:
            raise ConfigurationError(
                f"montage {self.montage_id} has no tile at row {row}, column {column} of region {roi}; "
                f"it has {_extent(tiles, roi)}"
            )
        chosen = here[here["best"] if attempt == "best" else here["attempt"] == attempt]
        if chosen.empty:
            raise ConfigurationError(
                f"attempt = {attempt!r} of row {row}, column {column} is not there; there are "
                f"{here['attempt'].tolist()}, or 'best'"
            )
        return chosen.iloc[-1]

    def _image(self, uid: str) -> Any:
        if uid not in self._images:
            run = next((run for run in self._tile_runs if uid_of(run) == uid), None) or self.client[uid]
            self._images[uid] = (stream_parts(run, TILES) or {})[IMAGE_KEY]
        return self._images[uid]

    @cached_property
    def _images(self) -> dict[str, Any]:
        return {}


def _extent(tiles: pd.DataFrame, roi: int) -> str:
    region = tiles[tiles["roi"] == roi]
    if region.empty:
        return f"regions {sorted(tiles['roi'].unique().tolist())}"
    return (
        f"rows {region['row'].min()} to {region['row'].max()}, "
        f"columns {region['column'].min()} to {region['column'].max()}"
    )
