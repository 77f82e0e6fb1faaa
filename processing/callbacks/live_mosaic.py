"""The live mosaic: tiles placed by what they show, and drawn at full resolution while the montage runs."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from devices.errors import MontangoError
from processing.callbacks._documents import Callback
from processing.callbacks._live_attempts import Frame
from processing.callbacks._live_field import KnownField, known_field, watch_field
from processing.callbacks._live_record import emit_run, expected_area, findings, provenance
from processing.callbacks._live_region import LiveRegion
from processing.callbacks._tiles import Tile, TileSource
from processing.callbacks._worker import QueuedCallback
from processing.callbacks.journal import read_journal
from processing.callbacks.verdicts import TileFault
from processing.kernels.pairs import PairOptions
from processing.mosaic.canvas import Blending
from processing.stitching.options import StitchOptions
from processing.stitching.solution import StitchSolution
from processing.stored_frames import stored_frames

_log = logging.getLogger(__name__)

Report = Callable[[str, int, Sequence[TileFault]], object]
"""Takes the uid of a run, the index of a tile in its file, and what is wrong with it."""
Told = Callable[[str, str, int], object]
"""Takes how far a tile is ("solved", "drawn" with all levels, "written" to the disk), its run and index."""
_KEEP_MB: Final = 512.0
_BLOCKS: Final = 64
"""Blocks a pair that tell the distortion: fewer than offline, where a tile may take longer."""
_MOST_FAILURES: Final = 5


class LiveMosaic:
    """Stitch the tiles of each montage as they come, into one OME-Zarr a region of interest.

    Every tile is matched with its neighbours, all are placed anew, and the tile is drawn; tiles that lie
    elsewhere by then are drawn again while no others wait. At the stop of the run everything is solved once
    more, what has moved is drawn again, and for each region a run is emitted that names its input: stream
    ``mosaic`` has the levels of the pyramid, stream ``alignment`` the place of each tile.

    Of a tile that was acquired again the newest is shown, unless it failed and an older one passed. A run
    that resumes others shows their tiles, too, from the journal and the files. Nothing that fails here is
    felt by the montage: the mosaic says what it lacks.

    Parameters
    ----------
    directory
        Where the mosaics go, in a folder a run; made where absent. Tiled must be allowed to read it.
    emit
        Gets the documents of the mosaics' runs, in the thread of this callback.
    calibrations
        Folder of the calibrations; frames of a run that names a dark and a bright reference are corrected.
    journal_dir
        Where the runs are journalled that a run resumes; None: their tiles are not shown.
    report
        Told of tiles whose overlaps show another place than their neighbours.
    minimum_free_gb
        Free space of the disk that is left to the frames, besides what those still to come will take, 10^9
        bytes; with less the mosaic ends, incomplete.
    options
        How to stitch; None: as offline, with less memory and fewer blocks a pair.
    blending
        "flat": seams in the middle of the overlaps, no pixel mixed; "feather": blended over the overlaps.
    match_brightness
        Whether each tile gets a gain that makes the overlaps alike; else counts are the camera's.
    told
        Told how far each tile is, at once, in the thread that does it.
    """

    def __init__(
        self,
        directory: str | Path,
        emit: Callback,
        *,
        calibrations: Path | str | None = None,
        journal_dir: Path | str | None = None,
        report: Report | None = None,
        minimum_free_gb: float = 2.0,
        options: StitchOptions | None = None,
        blending: Blending = "flat",
        match_brightness: bool = False,
        told: Told | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.options = options or StitchOptions(keep_mb=_KEEP_MB, pairs=PairOptions(most_blocks=_BLOCKS))
        self._emit = emit
        self._calibrations = calibrations
        self._journal_dir = None if journal_dir is None else Path(journal_dir)
        self._report = report
        self._told = told
        self._look: Any = {"blending": blending, "match_brightness": match_brightness}
        self._reserve_bytes = minimum_free_gb * 1e9
        self._queued: QueuedCallback | None = None
        self._paths: tuple[Path, ...] = ()
        self._problems: list[str] = []
        self._source = TileSource()
        self._regions: dict[int, LiveRegion] = {}
        self._begin({})

    def queued(self, max_documents: int = 100_000) -> QueuedCallback:
        """Return this callback behind a queue and a thread of its own."""
        self._queued = QueuedCallback(
            self, name="live mosaic", tick=self.redraw, yielding=True, max_documents=max_documents
        )
        return self._queued

    @property
    def paths(self) -> tuple[Path, ...]:
        """The mosaics of the newest montage, one a region, complete or growing."""
        return self._paths

    @property
    def problems(self) -> tuple[str, ...]:
        """What the newest mosaic lacks, and why; empty where nothing."""
        return tuple(self._problems)

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document."""
        if name == "start":
            self._begin(doc)
        elif self._view is None:
            return
        elif name == "stop":
            self._finish()
        elif name == "descriptor" and doc.get("name") == "qc":
            self._qc = doc["uid"]
        elif name == "event":
            if doc["descriptor"] == self._qc:
                self._judge(doc["data"])
        else:
            indices = self._source(name, doc)
            if indices and self._failures < _MOST_FAILURES:
                self._take(self._source, str(self._start["uid"]), indices)

    def _judge(self, data: Mapping[str, Any]) -> None:
        """Take a verdict of this run."""
        for region in self._regions.values():
            try:
                region.judge(str(self._start["uid"]), int(data["tile_index"]), str(data["qc_state"]))
            except (OSError, MontangoError) as error:
                self._lacks(f"a better attempt of tile {data['tile_index']} is not shown: {error}")

    def redraw(self) -> None:
        """Draw tiles anew that lie elsewhere than shown, for as long as no documents wait."""
        for region in self._regions.values():
            while region.stale and not (self._queued is not None and self._queued.waiting):
                try:
                    region.redraw()
                except (OSError, MontangoError) as error:
                    self._lacks(f"tiles could not be drawn again: {error}")

    def _begin(self, start: Mapping[str, Any]) -> None:
        for region in self._regions.values():  # of a run without a stop
            try:
                region.close()
            except (OSError, MontangoError):
                _log.exception("%s is not complete", region.path)
        self._source.close()
        self._start = start
        self._source = TileSource(start, self._calibrations)
        self._regions = {}
        self._field: KnownField | None = None
        self._inputs: list[str] = []
        self._seen = self._failures = 0
        self._qc = ""
        self._view: npt.NDArray[np.float64] | None = None
        if "montage_view" in start:
            self._view = np.array(start["montage_view"]["stage_per_px_um"], np.float64)
            self._problems, self._paths = [], ()

    def _take(self, source: TileSource, run: str, indices: range) -> None:
        if not self._inputs:
            self._inputs.append(run)
            self._take_earlier()
        try:
            tiles = list(source.tiles(indices))
        except MontangoError as error:
            self._lacks(f"tiles {indices.start} to {indices.stop - 1} have no place: {error}")
            return
        self._seen += len(tiles)
        self._add_all(source, run, tiles)

    def _take_earlier(self) -> None:
        """Add the tiles of the runs that this one resumes."""
        for uid in self._start.get("resumes", ()):
            try:
                source = self._earlier(str(uid))
                frames = stored_frames(source.path) if source.path is not None else []
                tiles = list(source.tiles(range(len(frames)))) if frames else []
            except (OSError, MontangoError, KeyError) as error:
                self._lacks(f"the tiles of run {uid} are not shown: {error}")
                continue
            self._inputs.append(str(uid))
            self._add_all(source, str(uid), [tile for tile in tiles if frames[tile.index].readable])

    def _earlier(self, uid: str) -> TileSource:
        """Return the tiles of a run of the journal."""
        paths = [] if self._journal_dir is None else list(self._journal_dir.glob(f"*/{uid}.jsonl"))
        if not paths:
            raise MontangoError(f"it is not in the journal {self._journal_dir}")
        source = TileSource()
        for name, doc in read_journal(paths[0]):
            if name == "start":
                source = TileSource(doc, self._calibrations)
            elif name in ("descriptor", "stream_resource"):
                source(name, doc)
        return source

    def _add_all(self, source: TileSource, run: str, tiles: Sequence[Tile]) -> None:
        for tile in tiles:
            if self._failures >= _MOST_FAILURES:
                return
            try:
                for index, fault in self._add(source, run, tile):
                    if self._report is not None:
                        self._report(run, index, (fault,))
                self._failures = 0
            except Exception as error:  # noqa: BLE001  # the others may be fine
                _log.exception("tile %d is not in the mosaic", tile.index)
                self._failures += 1
                self._lacks(f"tile {tile.index} of run {run}: {error}")
                if self._failures == _MOST_FAILURES:
                    self._lacks(f"given up after {_MOST_FAILURES} failures one after the other")

    def _add(self, source: TileSource, run: str, tile: Tile) -> Iterator[tuple[int, TileFault]]:
        """Add a tile; yield the faults of tiles of this run."""
        assert self._view is not None
        x, y = np.linalg.solve(self._view, [tile.x_um, tile.y_um]).tolist()
        image = source.frame(tile.index)
        self._check_room(image.nbytes)
        number = max(tile.roi, 0)
        region = self._regions.get(number)
        if region is None:
            region = self._regions[number] = self._open(number, image)
            self._paths = (*self._paths, region.path)
        frame = Frame(tile.index, run, partial(source.frame, tile.index), tile.attempt, (x, y))
        for key, fault in region.add(tile.place, image, frame):
            about = region.frame(key)
            if about.run == self._start["uid"]:
                yield about.index, fault

    def _open(self, roi: int, first: Any) -> LiveRegion:
        label = re.sub(r"[^\w.-]", "_", str(self._start.get("montage_id", "montage")))
        folder = self.directory / f"{label}_{str(self._start['uid'])[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        options = self.options
        if options.field is None:
            height, width = first.shape
            self._field = known_field(
                self.directory, self._pixel_size_nm(), (width, height), self._start, self._calibrations
            )
            options = replace(options, field=None if self._field is None else self._field.field)
        return LiveRegion(
            folder / f"region-{roi}.ome.zarr",
            first,
            pixel_size_nm=self._pixel_size_nm(),
            tiles=int(self._start.get("num_points", 0)),
            metadata=self._provenance(roi) | {"complete": False},
            options=options,
            least_px=self._tolerance_px(),
            **self._look,
            told=self._told,
            expected=expected_area(self._start, roi, (first.shape[1], first.shape[0])),
        )

    def _tolerance_px(self) -> float:
        """Return how far the stage may stop from its target, px; 0 where the run does not say."""
        tolerance_um = float(self._start.get("montage_spec", {}).get("tolerance_um", 0.0))
        return 1e3 * tolerance_um / self._pixel_size_nm()

    def _provenance(self, roi: int) -> dict[str, Any]:
        known = provenance(self._start, self._inputs, roi, self.options, self._source.corrected)
        return known | {"parameters": known["parameters"] | self._look}

    def _check_room(self, frame_bytes: int) -> None:
        """Refuse to write where the frames still to come may need the space."""
        self.directory.mkdir(parents=True, exist_ok=True)
        to_come = max(0, int(self._start.get("num_points", 0)) - self._seen) * frame_bytes
        free = shutil.disk_usage(self.directory).free
        if free < self._reserve_bytes + to_come:
            self._failures = _MOST_FAILURES - 1  # it does not get better by itself
            raise MontangoError(
                f"{free / 1e9:.1f} GB are free on the disk of {self.directory} and the frames may need "
                f"{(self._reserve_bytes + to_come) / 1e9:.1f} GB: free some, then stitch the run again"
            )

    def _lacks(self, problem: str) -> None:
        _log.error("the mosaic of run %s is incomplete: %s", self._start.get("uid"), problem)
        if len(self._problems) < 20:
            self._problems.append(problem)

    def _finish(self) -> None:
        regions, self._regions = self._regions, {}
        try:
            for roi, region in regions.items():
                try:
                    found = region.finish(lambda solution: findings(solution, self._problems))
                    metadata = self._provenance(roi) | findings(found.solution, self._problems)
                    metadata |= self._watch_field(found.solution)
                    emit_run(self._emit, found, metadata | self._calibration())
                    _log.info("the mosaic of region %d is %s", roi, found.path)
                except Exception as error:  # noqa: BLE001  # the other regions may be fine
                    _log.exception("%s cannot be finished", region.path)
                    self._lacks(f"region {roi} could not be finished: {error}")
        finally:
            self._source.close()
            self._view = None

    def _watch_field(self, solution: StitchSolution) -> dict[str, Any]:
        """Return whether the distortion is the one known, and keep it; a failure costs no mosaic."""
        try:
            uid = str(self._start["uid"])
            return watch_field(self.directory, self._pixel_size_nm(), uid, solution, self._field)
        except (OSError, ValueError):
            _log.exception("the distortion of run %s is not kept", self._start.get("uid"))
            return {}

    def _pixel_size_nm(self) -> float:
        assert self._view is not None
        return 1e3 * float(np.sqrt(abs(np.linalg.det(self._view))))

    def _calibration(self) -> dict[str, Any]:
        kept = ("calibration", "calibration_uids")
        return {key: self._start[key] for key in kept if key in self._start}
