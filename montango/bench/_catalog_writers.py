"""A process that writes montages to a catalog, as a laboratory does: file, journal, catalog writer."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import event_model
import numpy as np

from devices.camera.writer import FrameFile
from devices.tiles import IMAGE_DATASET, IMAGE_KEY, TILE_COLUMNS, TILE_GROUP
from processing.callbacks.catalog import CatalogWriter
from processing.callbacks.journal import Journal

SAMPLE: Final = "killed catalog"
VALUE_KEY: Final = "first_value"
FRAME_PX: Final = 32
RECORDED: Final = ("row", "column", "attempt")
_COLUMNS: Final = tuple(column for column in TILE_COLUMNS if column.name in RECORDED)
_MOST_TILES: Final = 8
_PATIENCE_S: Final = 240.0
_RETRY_S: Final = (0.5, 4.0)
_QC_KEYS: Final = {
    "tile_index": "integer", "tile_row": "integer", "tile_column": "integer", "tile_attempt": "integer",
    "qc_state": "string", "faults": "string", "focus_score": "number",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Written:
    """What a writer did: runs and frames; runs that the catalog had while they were written, or later."""

    runs: int
    frames: int
    set_aside: int
    complete: bool
    last_error: str


def write_runs(
    number: int, uri: str, key: str, folder: str, seed: int, pace_s: float, ending: Any, results: Any
) -> None:
    """Write one run after the other until told to end; then see all of them into the catalog.

    Parameters
    ----------
    number
        Which writer.
    uri, key
        The server.
    folder
        State directory: its data and journal are used.
    seed
        Of what is written.
    pace_s
        Time from tile to tile, s.
    ending
        An event: set to end.
    results
        A queue: gets a `Written`.
    """
    chance = random.Random(f"{seed} {number}")
    journal = Journal(Path(folder) / "journal")
    writer = CatalogWriter(uri, key, journal.directory, batch_size=4, flush_s=0.5, retry_s=_RETRY_S)
    aside: set[str] = set()
    runs = frames = 0

    def emit(name: str, doc: dict[str, Any]) -> None:
        journal(name, doc)
        writer(name, doc)

    while not ending.is_set():
        tiles = chance.randint(3, _MOST_TILES)
        run = _Run(Path(folder) / "data", f"w{number}-{runs}", chance.randrange(1000, 60000), tiles, emit)
        for index in range(tiles):
            run.tile(index)
            ending.wait(pace_s)
            aside.update(writer.state.behind)
        run.stop()
        runs, frames = runs + 1, frames + tiles
    complete = writer.drain(_PATIENCE_S)
    aside.update(writer.state.behind)
    complete = writer.close(_PATIENCE_S) and complete
    journal.close()
    results.put(Written(runs, frames, len(aside), complete, writer.state.last_error))


class _Run:
    """The documents and the file of one montage; every pixel of frame n is the run's value and n."""

    def __init__(
        self, data: Path, name: str, value: int, tiles: int, emit: Callable[[str, dict[str, Any]], object]
    ) -> None:
        self._emit, self._value = emit, value
        facts = {
            "montage_id": name, "plan_name": "montage", "purpose": "montage", "sample": SAMPLE,
            "num_points": tiles, VALUE_KEY: value,
        }  # fmt: skip
        self._run = event_model.compose_run(metadata=facts)
        self._path = data / f"{name}-{self._run.start_doc['uid']}.h5"
        self._file = FrameFile(self._path, (FRAME_PX, FRAME_PX), _COLUMNS)
        emit("start", dict(self._run.start_doc))
        self._declare()

    def _declare(self) -> None:
        number = {"source": "x", "shape": [1], "dtype": "number", "dtype_numpy": "<f8", "external": "STREAM:"}
        keys: dict[str, Any] = {name: dict(number) for name in RECORDED}
        keys[IMAGE_KEY] = number | {
            "shape": [1, FRAME_PX, FRAME_PX], "dtype": "array", "dtype_numpy": "<u2",
        }  # fmt: skip
        self._tiles = self._run.compose_descriptor(name="tiles", data_keys=keys)
        self._emit("descriptor", dict(self._tiles.descriptor_doc))
        self._resources = []
        for name in keys:
            made = self._run.compose_stream_resource(
                mimetype="application/x-hdf5",
                uri=f"file://localhost{self._path}",
                data_key=name,
                parameters={
                    "dataset": IMAGE_DATASET if name == IMAGE_KEY else f"{TILE_GROUP}/{name}",
                    "swmr": True,
                    "chunk_shape": (1,) if name == IMAGE_KEY else (512,),
                },
            )
            self._resources.append(made)
            self._emit("stream_resource", dict(made.stream_resource_doc))
        qc: dict[str, Any] = {
            key: {"source": "x", "dtype": kind, "shape": []} for key, kind in _QC_KEYS.items()
        }
        self._qc = self._run.compose_descriptor(name="qc", data_keys=qc)
        self._emit("descriptor", dict(self._qc.descriptor_doc))

    def tile(self, index: int) -> None:
        """Write a frame, and its verdict."""
        row, column = divmod(index, 3)
        frame = np.full((FRAME_PX, FRAME_PX), self._value + index, np.uint16)
        values = {"row": row, "column": column, "attempt": 0}
        self._file.append([(frame, {name: float(value) for name, value in values.items()})])
        for resource in self._resources:
            datum = resource.compose_stream_datum(
                indices={"start": index, "stop": index + 1},
                seq_nums={"start": index + 1, "stop": index + 2},
                descriptor=self._tiles.descriptor_doc,
            )
            self._emit("stream_datum", dict(datum))
        data = {
            "tile_index": index, "tile_row": row, "tile_column": column, "tile_attempt": 0,
            "qc_state": "pass", "faults": "[]", "focus_score": -10.0 - index,
        }  # fmt: skip
        self._emit(
            "event", dict(self._qc.compose_event(data=data, timestamps=dict.fromkeys(data, time.time())))
        )

    def stop(self) -> None:
        """End it."""
        self._emit("stop", dict(self._run.compose_stop()))
        self._file.close()
