"""A montage as a laboratory leaves it: cut off, resumed, with a tile acquired twice, and with results."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from processing.callbacks.catalog import CatalogWriter
from processing.callbacks.journal import Journal
from processing.callbacks.live_mosaic import LiveMosaic
from processing.callbacks.overview import Overview
from tests.processing.documents import MontageRun
from tests.processing.specimens import expose, tissue
from tests.tiled_server.conftest import Server

SIZE: Final = 192
PITCH: Final = 152
PIXEL_UM: Final = 0.01
ROWS, COLUMNS = 3, 3
PATIENCE_S: Final = 180.0
SPECS: Final = [{"name": "EMMontage", "version": "1.0"}]
SPECIMEN: Final = expose(tissue((520, 520), seed=4), seed=2)
BLURRED: Final = (
    '[{"kind": "blurred", "severity": 0.8, "confidence": 0.9, "scope": "transient", "metrics": {}}]'
)


@dataclass
class Acquired:
    """What a test needs to know of the montage."""

    montage_id: str
    uids: list[str] = field(default_factory=list)
    mosaic: Path | None = None


def frame_of(row: int, column: int) -> npt.NDArray[np.uint16]:
    """Return a good frame of a place."""
    x, y = 20 + PITCH * column, 20 + PITCH * row
    return SPECIMEN[y : y + SIZE, x : x + SIZE].copy()


def acquire(server: Server, folder: Path, montage_id: str = "m-client", **start: Any) -> Acquired:
    """Write a montage of 3 x 3 tiles: 7 frames, cut off, then 3 in a run that resumes it.

    Tile (0, 1) is blurred, and acquired again. The mosaic and the overview are of both runs.
    """
    journal = Journal(folder / "journal")
    writer = CatalogWriter(server.uri, server.key, journal.directory)
    server.data.mkdir(exist_ok=True)
    made = Acquired(montage_id)

    def emit(name: str, doc: dict[str, Any]) -> None:
        journal(name, doc)
        writer(name, doc)

    overview = Overview(server.data / "overviews", emit, reduction=1)
    mosaic = LiveMosaic(server.data / "mosaics", emit, journal_dir=journal.directory, minimum_free_gb=0.0)
    places = [(row, column) for row in range(ROWS) for column in range(COLUMNS)]
    first = [(*place, 0) for place in places[:6]] + [(0, 1, 1)]
    for tiles, status in ((first, "abort"), ([(*place, 0) for place in places[6:]], "success")):
        about = _about(montage_id, len(places) if not made.uids else 3, made.uids) | start
        run = MontageRun(server.data, (SIZE, SIZE), emit, pixel_size_nm=1e3 * PIXEL_UM, **about)
        run.cycle_s = 0.01
        for index, (row, column, attempt) in enumerate(tiles):
            good = (row, column, attempt) != (0, 1, 0)
            frame = frame_of(row, column) if good else np.full((SIZE, SIZE), 700, np.uint16)
            where = [PIXEL_UM * (20 + PITCH * at + (SIZE - 1) / 2) for at in (column, row)]
            run.tiles([frame], [(where[0], where[1])], row=row, column=column, attempt=attempt)
            run.verdict(_verdict(index, row, column, attempt, good))
        if not made.uids:
            event(run, "incidents", {"incident_kind": "hold", "incident_text": "vacuum", "incident_frame": 6})
        else:
            event(run, "focus", _FOCUS)
            event(run, "verdict", {"montage_verdict": "GOOD", "montage_reason": "", "montage_tiles": 9})
        for name, doc in run.documents:
            overview(name, doc)
            mosaic(name, doc)
        run.emit("stop", run.run.compose_stop(exit_status=status, reason="interrupted" * (status == "abort")))
        overview(*run.documents[-1])
        mosaic(*run.documents[-1])
        run.close()
        made.uids.append(run.uid)
    assert mosaic.problems == ()
    made.mosaic = mosaic.paths[0]
    journal.close()
    assert writer.close(PATIENCE_S), writer.state
    return made


_FOCUS: Final = {
    "focus_method": "sharpness", "focus_converged": 1, "focus_reason": "",
    "focus_offset_um": 0.25, "focus_defocus_um": -1.5,
}  # fmt: skip


def event(run: MontageRun, stream: str, data: Mapping[str, Any]) -> None:
    """Emit one event in a stream of its own."""
    kinds = {str: "string", int: "integer", float: "number"}
    keys: dict[str, Any] = {
        key: {"source": "test", "dtype": kinds[type(value)], "shape": []} for key, value in data.items()
    }
    descriptor = run.run.compose_descriptor(name=stream, data_keys=keys)
    run.emit("descriptor", descriptor.descriptor_doc)
    stamps = dict.fromkeys(data, time.time())
    run.emit("event", descriptor.compose_event(data=dict(data), timestamps=stamps))


def until(ready: Callable[[], bool]) -> None:
    """Wait until something is so: what the server does by itself has no end that could be waited for."""
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < deadline, "it never was"
        time.sleep(0.05)


def _about(montage_id: str, asked: int, resumes: list[str]) -> dict[str, Any]:
    return {
        "montage_id": montage_id,
        "montage_view": {
            "width_px": SIZE, "height_px": SIZE, "stage_per_px_um": [[PIXEL_UM, 0.0], [0.0, PIXEL_UM]]
        },
        "num_points": asked,
        "ring_slots": 10,
        "sample": "mouse 7 hippocampus",
        "operator": "grace",
        "proposal": "p-2",
        "data_session": "s-42",
        "notes": "Second try after the filament change",
        "tiled_specs": SPECS,
        "software": {"montango": "0.1.0"},
        "calibration_uids": ["no-such-calibration"],
        **({"resumes": list(resumes)} if resumes else {}),
    }  # fmt: skip


def _verdict(index: int, row: int, column: int, attempt: int, good: bool) -> dict[str, Any]:
    return {
        "tile_index": index, "tile_roi": 0, "tile_row": row, "tile_column": column, "tile_attempt": attempt,
        "qc_state": "pass" if good else "fail",
        "qc_decision": "keep" if good else "again: refocus",
        "faults": "[]" if good else BLURRED,
        "mean_counts": 900.0 + index,
        "sharpness": 0.5 + 0.01 * (COLUMNS * row + column) if good else 0.06,
        "focus_score": -10.0 - row - 0.5 * column if good else -40.0,
    }  # fmt: skip
