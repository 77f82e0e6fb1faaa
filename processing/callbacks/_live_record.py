"""The run of a mosaic: what it is derived from, its pixels, and where its tiles lie."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

import event_model
import numpy as np

from processing.callbacks._documents import KEPT, Callback
from processing.callbacks._live_region import Finished
from processing.kernels.render import Area
from processing.stitching.options import StitchOptions
from processing.stitching.solution import Key, StitchSolution

RECIPE: Final = "live_mosaic"
MOSAIC: Final = "mosaic"
ALIGNMENT: Final = "alignment"
_MARGIN: Final = 1 / 32
"""By which the stage may miss, of a frame's side, before the mosaic has to grow."""
_SOFTWARE: Final = ("montango", "numpy", "scipy", "opencv-python-headless", "tensorstore")


def provenance(
    start: Mapping[str, Any], inputs: Sequence[str], roi: int, options: StitchOptions, corrected: bool
) -> dict[str, Any]:
    """Return what a mosaic comes from, as it is in its run and in the file.

    Parameters
    ----------
    start
        Start document of the montage's run.
    inputs
        Uids of all its runs whose tiles are shown.
    roi
        The region.
    options
        How it was stitched.
    corrected
        Whether dark and bright reference were taken out.
    """
    names = list(start.get("montage_rois", ()))
    return {
        **{key: start[key] for key in KEPT if key in start},
        "recipe": RECIPE,
        "input_uids": [*inputs],
        "parameters": {
            "degree": options.degree,
            "affine": options.affine,
            "calibrate_field": options.calibrate_field,
            "corrected": corrected,
        },
        "roi": roi,
        "roi_name": names[roi] if 0 <= roi < len(names) else "",
        "stage_per_px_um": start["montage_view"]["stage_per_px_um"],
        "software": {name: version(name) for name in _SOFTWARE},
    }


def expected_area(start: Mapping[str, Any], roi: int, size_px: tuple[int, int]) -> Area | None:
    """Return what a region's mosaic will cover, px, or None where the start document does not say.

    Parameters
    ----------
    start
        Of the montage's run.
    roi
        The region.
    size_px
        Width and height of a frame.
    """
    extents = start.get("montage_extents_px", ())
    if not 0 <= roi < len(extents) or len(extents[roi]) != 4 or not np.isfinite(extents[roi]).all():
        return None
    x0, y0, x1, y1 = extents[roi]
    width, height = ((0.5 + _MARGIN) * side for side in size_px)
    return Area(
        math.floor(x0 - width), math.floor(y0 - height), math.ceil(x1 + width), math.ceil(y1 + height)
    )


def findings(solution: StitchSolution, problems: Sequence[str]) -> dict[str, Any]:
    """Return what a solution says of the whole mosaic; None for what it could not tell."""
    return {
        "tiles": len(solution.tiles),
        "tiles_matched": int(solution.matched.sum()),
        "complete": not problems,
        "problems": [*problems],
        "field_origin": solution.field_origin,
        "stage_sigma_px": _number(solution.stage_sigma_px),
        "residual_median_px": _number(solution.residual_median_px),
        "residual_p95_px": _number(solution.residual_p95_px),
        "holdout_median_px": _number(solution.holdout_median_px),
        "holdout_p95_px": _number(solution.holdout_p95_px),
    }


def emit_run(emit: Callback, found: Finished, metadata: Mapping[str, Any]) -> str:
    """Emit the run of a mosaic and return its uid."""
    run = event_model.compose_run(
        metadata={
            "plan_name": RECIPE,
            "purpose": "processing",
            **metadata,
            "mosaic": str(found.path),
            "solution": str(found.solution_path),
            "origin_px": [*found.origin_px],
        }
    )
    emit("start", run.start_doc)
    _emit_pixels(emit, run, found)
    _emit_alignment(emit, run, found, np.array(metadata["stage_per_px_um"], np.float64))
    emit("stop", run.compose_stop())
    return str(run.start_doc["uid"])


def _emit_pixels(emit: Callback, run: Any, found: Finished) -> None:
    uri = f"file://localhost{found.path.absolute()}"
    keys: dict[str, Any] = {
        f"level_{level}": {
            "source": f"{uri}/{level}",
            "shape": [*shape],
            "dtype": "array",
            "dtype_numpy": found.dtype.str,
            "external": "STREAM:",
        }
        for level, shape in enumerate(found.levels)
    }
    stream = run.compose_descriptor(name=MOSAIC, data_keys=keys)
    emit("descriptor", stream.descriptor_doc)
    for key, about in keys.items():
        resource = run.compose_stream_resource(
            mimetype="application/x-zarr",
            uri=about["source"],
            data_key=key,
            parameters={"chunk_shape": [min(found.chunk_px, length) for length in about["shape"]]},
        )
        emit("stream_resource", resource.stream_resource_doc)
        datum = resource.compose_stream_datum(
            indices={"start": 0, "stop": 1},
            seq_nums={"start": 1, "stop": 2},
            descriptor=stream.descriptor_doc,
        )
        emit("stream_datum", datum)


def _emit_alignment(emit: Callback, run: Any, found: Finished, stage_per_px_um: Any) -> None:
    events = alignment_events(found, stage_per_px_um)
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string"}
    keys: dict[str, Any] = {
        key: {"source": "processing.callbacks.live_mosaic", "dtype": kinds[type(value)], "shape": []}
        for key, value in events[0].items()
    }
    stream = run.compose_descriptor(name=ALIGNMENT, data_keys=keys)
    emit("descriptor", stream.descriptor_doc)
    stamps = dict.fromkeys(keys, time.time())
    for data in events:
        emit("event", stream.compose_event(data=data, timestamps=stamps))


def alignment_events(found: Finished, stage_per_px_um: Any) -> list[dict[str, Any]]:
    """Return one event a tile: where it lies, and how far its overlaps disagree.

    Parameters
    ----------
    found
        The mosaic.
    stage_per_px_um
        (2, 2): takes mosaic coordinates to stage coordinates.
    """
    worst: dict[Key, float] = {}
    partners: dict[Key, int] = {}
    for edge in found.solution.edges:
        if not edge.accepted:
            continue
        for key in (edge.first, edge.second):
            partners[key] = partners.get(key, 0) + 1
            worst[key] = max(worst.get(key, 0.0), edge.residual_px)
    events = []
    for tile in found.solution.tiles:
        frame = found.frames[tile.key]
        x_um, y_um = (stage_per_px_um @ np.array(tile.position_px)).tolist()
        (xx, xy), (yx, yy) = tile.matrix
        events.append(
            {
                "tile_run": frame.run,
                "tile_index": frame.index,
                "tile_roi": tile.key[0],
                "tile_row": tile.key[1],
                "tile_column": tile.key[2],
                "tile_attempt": frame.attempt,
                "position_x_px": float(tile.position_px[0]),
                "position_y_px": float(tile.position_px[1]),
                "nominal_x_px": float(tile.nominal_px[0]),
                "nominal_y_px": float(tile.nominal_px[1]),
                "position_x_um": x_um,
                "position_y_um": y_um,
                "matrix_xx": float(xx),
                "matrix_xy": float(xy),
                "matrix_yx": float(yx),
                "matrix_yy": float(yy),
                "matched": bool(tile.matched),
                "matches": partners.get(tile.key, 0),
                "residual_px": worst.get(tile.key, math.nan),
                "alignment_reason": tile.reason,
            }
        )
    return events


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
