"""A montage of two runs and two regions, with settings, verdicts and a live mosaic, to be exported."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import event_model
import numpy as np
import numpy.typing as npt

from processing.callbacks.journal import Journal
from processing.kernels.field import FieldModel
from processing.mosaic.pyramid import PyramidStore
from processing.stitching.solution import StitchSolution
from tests.processing.documents import MontageRun
from tests.processing.tile_folders import HEIGHT, STEP, WIDTH, cut

MONTAGE: Final = "m20260102-0a1b2c"
PIXEL_NM: Final = 10.0
TURN_DEG: Final = 30.0
COUNTS: Final = 150
"""Factor from the specimen's counts to 16 bit ones: more than signed numbers hold."""
SETTINGS: Final[dict[str, Any]] = {
    "column-high_voltage_kv": 120.0, "column-spot_size_index": 3, "column-magnification": 5000.0,
    "column-magnification_index": 10, "column-target_defocus_um": -1.0, "column-intensity": 0.66,
    "stage-alpha_deg": 1.5, "stage-beta_deg": -2.0, "camera-binning": 2,
}  # fmt: skip
TILES: Final = (
    # run, roi, row, column, attempt, verdict
    ((0, 0, 0, 0, "pass"), (0, 0, 1, 0, "fail"), (0, 0, 2, 0, "pass"), (0, 1, 0, 0, "needs_review")),
    ((0, 0, 1, 1, "pass"), (0, 1, 1, 0, "pass"), (0, 1, 2, 0, "pass"), (1, 0, 0, 0, "pass")),
)
ROWS, COLUMNS = 2, 3
SOLVED_OFF: Final = (7.25, -3.5)
"""Mosaic coordinates of a centre less those of the stage, px."""


@dataclass
class Made:
    """The journal, uids of the runs, frames by (roi, row, column, attempt), and the folder of the mosaic."""

    journal: Path
    data: Path
    uids: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    frames: dict[tuple[int, int, int, int], npt.NDArray[np.uint16]] = field(default_factory=dict)
    mosaic: Path = Path()


def stage_um(x_px: float, y_px: float) -> tuple[float, float]:
    """Return where the stage is for a place of the image, px."""
    angle, um = math.radians(TURN_DEG), PIXEL_NM * 1e-3
    cos, sin = math.cos(angle) * um, math.sin(angle) * um
    return cos * x_px - sin * y_px, sin * x_px + cos * y_px


def make_montage(
    folder: Path, data: Path, sink: Callable[[str, dict[str, Any]], object] = lambda *_: None
) -> Made:
    """Write a montage; every document goes to the journal and to ``sink``."""
    made = Made(folder / "journal", data)
    journal = Journal(made.journal)

    def emit(name: str, doc: dict[str, Any]) -> None:
        journal(name, doc)
        sink(name, doc)

    specimen = [image.astype(np.uint16) * COUNTS for image in cut(ROWS, COLUMNS)[0]]
    for number, tiles in enumerate(TILES):
        run = MontageRun(
            data, (HEIGHT, WIDTH), emit, pixel_size_nm=PIXEL_NM, image_rotation_deg=TURN_DEG,
            montage_id=MONTAGE, montage_spec={"rows": ROWS, "columns": COLUMNS}, sample="mouse 7 [<&>]",
            instrument="em-1", proposal="p-1",
        )  # fmt: skip
        baseline(run)
        for index, (roi, row, column, attempt, state) in enumerate(tiles):
            frame = specimen[row * COLUMNS + column] + np.uint16(1000 * attempt + 100 * roi)
            made.frames[roi, row, column, attempt] = frame
            asked = stage_um(column * STEP[0] + 3000.0 * roi, row * STEP[1])
            x, y = asked[0] + 0.011 * index, asked[1] - 0.007 * index
            run.tiles(
                [frame], [(x, y)], roi=roi, row=row, column=column, attempt=attempt, z_um=5.0 + index,
                x_requested_um=asked[0], y_requested_um=asked[1], defocus_um=-0.5 - index / 8,
                dose_e_per_a2=1.25, prior_dose_e_per_a2=1.25 * index, exposure_time_s=0.5,
                image_shift_x_um=0.25, image_shift_y_um=-0.125,
                exposure_start_s=1767366000.0 + 60 * number + index,
            )  # fmt: skip
            verdict = {"tile_index": index, "qc_state": state, "faults": "[]", "focus_score": -14.0 - index}
            run.verdict(verdict)
        run.stop()
        made.uids.append(run.uid)
        made.files.append(run.path)
    live_mosaic(made, emit)
    journal.close()
    return made


def baseline(run: MontageRun) -> None:
    """Emit the settings of the devices as a run of the lab has them, one event."""
    keys = {name: {"source": name, "dtype": "number", "shape": []} for name in SETTINGS}
    bundle = run.run.compose_descriptor(name="baseline", data_keys=keys)
    run.emit("descriptor", bundle.descriptor_doc)
    stamps = dict.fromkeys(SETTINGS, time.time())
    run.emit("event", bundle.compose_event(data=SETTINGS, timestamps=stamps))


def live_mosaic(made: Made, emit: Callable[[str, dict[str, Any]], object]) -> None:
    """Write a mosaic of region 0 and its run: tiles of the second run are placed, with a matrix."""
    made.mosaic = made.data / "mosaics" / "region-0.ome.zarr"
    pixels = np.random.default_rng(5).integers(1, 60000, (900, 1300), dtype=np.uint16)
    with PyramidStore.create(
        made.mosaic, dtype="uint16", pixel_size_nm=PIXEL_NM, shape=pixels.shape, chunk_px=256, shard_px=512
    ) as store:
        store.write_image(pixels)
    field_model = FieldModel(WIDTH, HEIGHT, 2, np.array([[0.5, 0.25, -0.5], [0.125, -0.25, 0.5]]))
    nan = float("nan")
    affine = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    solution = StitchSolution(
        (WIDTH, HEIGHT), (), (), field_model, "given", None, affine, 1.0, nan, nan, nan, nan
    )
    solved = made.data / "mosaics" / "region-0_solution.json"
    solved.write_text(solution.to_json())
    start = {
        "plan_name": "live_mosaic", "recipe": "live_mosaic", "purpose": "processing", "montage_id": MONTAGE,
        "roi": 0, "mosaic": str(made.mosaic), "solution": str(solved), "input_uids": made.uids,
    }  # fmt: skip
    run = event_model.compose_run(metadata=start)
    emit("start", run.start_doc)
    levels(made.mosaic, run, emit)
    bundle = None
    for number, tiles in enumerate(TILES):
        for index, (roi, row, column, attempt, _) in enumerate(tiles):
            if roi or (row, column, attempt) == (0, 1, 0):
                continue
            x, y = column * STEP[0] + SOLVED_OFF[0], row * STEP[1] + SOLVED_OFF[1]
            um = stage_um(x, y)
            data = {
                "tile_run": made.uids[number], "tile_index": index, "tile_roi": roi, "tile_row": row,
                "tile_column": column, "tile_attempt": attempt, "position_x_px": x, "position_y_px": y,
                "position_x_um": um[0], "position_y_um": um[1], "matrix_xx": 1.001, "matrix_xy": 0.002,
                "matrix_yx": -0.002, "matrix_yy": 0.999, "matched": True, "residual_px": 0.25,
            }  # fmt: skip
            if bundle is None:
                kinds = {str: "string", int: "integer", float: "number", bool: "boolean"}
                keys = {
                    name: {"source": "mosaic", "dtype": kinds[type(value)], "shape": []}
                    for name, value in data.items()
                }
                bundle = run.compose_descriptor(name="alignment", data_keys=keys)
                emit("descriptor", bundle.descriptor_doc)
            stamps = dict.fromkeys(data, time.time())
            emit("event", bundle.compose_event(data=data, timestamps=stamps))
    emit("stop", run.compose_stop())


def levels(mosaic: Path, run: Any, emit: Callable[[str, dict[str, Any]], object]) -> None:
    """Emit the stream of a mosaic's levels, as the live mosaic does."""
    with PyramidStore.open(mosaic) as store:
        shapes = {f"level_{level}": store.geometry.level_shape(level) for level in range(store.levels)}
    uris = {name: f"file://localhost{mosaic}/{name.removeprefix('level_')}" for name in shapes}
    keys = {
        name: {
            "source": uris[name], "shape": [*shape], "dtype": "array", "dtype_numpy": "<u2",
            "external": "STREAM:",
        }
        for name, shape in shapes.items()
    }  # fmt: skip
    bundle = run.compose_descriptor(name="mosaic", data_keys=keys)
    emit("descriptor", bundle.descriptor_doc)
    for name, uri in uris.items():
        resource = bundle_of(run, name, uri)
        emit("stream_resource", resource.stream_resource_doc)
        datum = resource.compose_stream_datum(
            indices={"start": 0, "stop": 1}, seq_nums={"start": 1, "stop": 2},
            descriptor=bundle.descriptor_doc,
        )  # fmt: skip
        emit("stream_datum", datum)


def bundle_of(run: Any, name: str, uri: str) -> Any:
    """Return the resource of a level."""
    return run.compose_stream_resource(
        mimetype="application/x-zarr", uri=uri, data_key=name, parameters={"chunk_shape": [256, 256]}
    )


def labels(made: Made, *, best: bool, roi: int | None = None) -> list[tuple[int, int, int, int]]:
    """Return which frames an export has, in its order."""
    spoiled = (0, 0, 1, 0)
    return sorted(
        key for key in made.frames if not (best and key == spoiled) and (roi is None or key[0] == roi)
    )
