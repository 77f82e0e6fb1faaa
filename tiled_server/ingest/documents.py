"""The documents of an ingested run: the same streams and keys as of a montage that was acquired here."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import event_model
import numpy as np
import numpy.typing as npt

from devices.tiles import IMAGE_DATASET, IMAGE_KEY, TILE_COLUMNS, TILE_GROUP
from processing.callbacks._documents import Document
from processing.callbacks._tiles import TILES_STREAM
from processing.frame_list import MIMETYPE, FrameList
from tiled_server.ingest.source import Source, SourceFrame
from tiled_server.mimetypes import HDF5

RECIPE: Final = "ingest"
SOURCE_STREAM: Final = "source"
UNITS: Final = {
    "high_voltage_kv": "kV", "target_defocus_um": "um", "alpha_deg": "deg",
}  # fmt: skip
_SPECS: Final = [{"name": "EMMontage", "version": "1.0"}]
_NAMED: Final = 100


@dataclass(frozen=True)
class About:
    """What the caller says of a montage; empty: nothing.

    Attributes
    ----------
    montage_id
        The montage.
    facts
        ``sample``, ``operator``, ``proposal``, ``data_session``, ``instrument``, ``title``, ``notes``, and
        ``tiled_access_tags``.
    resumes
        Uids of the runs that have other frames of it.
    asked
        Frames that the source describes, taken or not.
    left_out
        (name, reason) of those that are not taken.
    """

    montage_id: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    resumes: Sequence[str] = ()
    asked: int = 0
    left_out: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Taken:
    """Frames that go into a run: what is described of each, which attempt it is, and where they are."""

    frames: tuple[SourceFrame, ...]
    attempts: tuple[int, ...]
    listing: FrameList

    def columns(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return what is known of the tiles, (frame,) each, by the names of `devices.tiles.TILE_COLUMNS`."""
        found = {
            column.name: np.array([one.values.get(column.name, math.nan) for one in self.frames], np.float64)
            for column in TILE_COLUMNS
        }
        keys = np.array([one.key for one in self.frames], np.float64).reshape(-1, 3).T
        found |= dict(zip(("roi", "row", "column"), keys, strict=True))
        found["attempt"] = np.array(self.attempts, np.float64)
        found["raster_index"] = np.arange(len(self.frames), dtype=np.float64)
        return found


def run_uid(montage_id: str, taken: Taken) -> str:
    """Return the uid of a run: the same for the same frames of a montage, wherever they lie."""
    text = json.dumps(
        [montage_id]
        + [
            [*one.key, attempt, taken.listing.files[file].blake3, int(page)]
            for one, attempt, file, page in zip(
                taken.frames, taken.attempts, taken.listing.file, taken.listing.page, strict=True
            )
        ]
    )
    return str(uuid.uuid5(uuid.NAMESPACE_OID, text))


def documents(source: Source, taken: Taken, about: About, path: Path) -> Iterator[Document]:
    """Yield the documents of a run.

    Parameters
    ----------
    source
        Where the frames are from.
    taken
        The frames.
    about
        What the caller says of the montage.
    path
        The list of the frames, which is written already.
    """
    began = source.began or min(one.mtime_ns for one in taken.listing.files) * 1e-9
    ended = max(source.ended or began, began)
    uid = run_uid(about.montage_id, taken)
    run = event_model.compose_run(uid=uid, time=began, metadata=_start(source, taken, about, path))
    yield "start", dict(run.start_doc)
    if source.settings:
        yield from _baseline(run, source.settings, began)
    yield from _tiles(run, taken.listing, path)
    yield from _sources(run, taken, began)
    yield "stop", dict(run.compose_stop(exit_status="success", time=ended))


def _start(source: Source, taken: Taken, about: About, path: Path) -> dict[str, Any]:
    (height, width), count = taken.listing.shape, len(taken.frames)
    rows, columns = (1 + max(one.key[axis] for one in taken.frames) for axis in (1, 2))
    facts = {"instrument": source.instrument, **about.facts}
    start: dict[str, Any] = {
        "plan_name": RECIPE,
        "recipe": RECIPE,
        "purpose": "montage",
        "technique": "TEM montage",
        "montage_id": about.montage_id,
        "montage_shape": [rows, columns],
        "num_points": about.asked if not about.resumes else count,
        "montage_view": {
            "width_px": width,
            "height_px": height,
            "stage_per_px_um": source.stage_per_px_um,
        },
        "calibration": {
            "pixel_size_nm": source.pixel_size_nm,
            "image_rotation_deg": source.image_rotation_deg,
        },
        "software": {name: version(name) for name in ("montango", "tiled", "bluesky-tiled-plugins")},
        "tiled_specs": _SPECS,
        "ingest": {
            "kind": source.kind,
            "source": str(source.path.resolve()),
            "list": str(path),
            "time": time.time(),
            "head": dict(source.head),
            "files": len(taken.listing.files),
            "left_out": [list(one) for one in about.left_out[:_NAMED]],
            "left_out_count": len(about.left_out),
        },
    }
    start |= {name: value for name, value in facts.items() if value}
    return start | ({"resumes": list(about.resumes)} if about.resumes else {})


def _baseline(run: Any, settings: Mapping[str, float], at: float) -> Iterator[Document]:
    keys = {
        name: {"source": RECIPE, "dtype": "number", "dtype_numpy": "<f8", "shape": []}
        | ({"units": unit} if (unit := UNITS.get(name.rpartition("-")[2])) else {})
        for name in settings
    }
    made = run.compose_descriptor(name="baseline", data_keys=keys, time=at)
    yield "descriptor", dict(made.descriptor_doc)
    yield (
        "event",
        dict(made.compose_event(data=dict(settings), timestamps=dict.fromkeys(settings, at), time=at)),
    )


def _tiles(run: Any, listing: FrameList, path: Path) -> Iterator[Document]:
    uri, count = f"file://localhost{_quoted(path)}", len(listing)
    keys: dict[str, Any] = {
        IMAGE_KEY: {
            "source": uri,
            "shape": [1, *listing.shape],
            "dtype": "array",
            "dtype_numpy": listing.dtype.str,
            "external": "STREAM:",
        }
    }
    keys |= {
        column.name: {
            "source": uri,
            "shape": [1],
            "dtype": "number",
            "dtype_numpy": "<f8",
            "external": "STREAM:",
            **({"units": column.unit} if column.unit else {}),
        }
        for column in TILE_COLUMNS
    }
    made = run.compose_descriptor(name=TILES_STREAM, data_keys=keys)
    yield "descriptor", dict(made.descriptor_doc)
    files = [f"file://localhost{_quoted(one.path)}" for one in listing.files]
    bundles = []
    for name in keys:
        image = name == IMAGE_KEY
        parameters: dict[str, Any] = (
            {
                "dataset": IMAGE_DATASET,
                "files": files,
                "one_each": listing.file.tolist() == list(range(len(files))),
                "chunk_shape": [1],
            }
            if image
            else {"dataset": f"{TILE_GROUP}/{name}", "swmr": False, "chunk_shape": [512]}
        )
        bundle = run.compose_stream_resource(
            mimetype=MIMETYPE if image else HDF5, uri=uri, data_key=name, parameters=parameters
        )
        yield "stream_resource", dict(bundle.stream_resource_doc)
        bundles.append(bundle)
    for bundle in bundles:
        datum = bundle.compose_stream_datum(
            indices={"start": 0, "stop": count},
            seq_nums={"start": 1, "stop": count + 1},
            descriptor=made.descriptor_doc,
        )
        yield "stream_datum", dict(datum)


def _sources(run: Any, taken: Taken, began: float) -> Iterator[Document]:
    """Yield an event a tile: where its pixels are from, and all that was written of it."""
    kinds: dict[str, str] = {
        **dict.fromkeys(("tile_index", "tile_roi", "tile_row", "tile_column", "tile_attempt"), "integer"),
        **dict.fromkeys(("source_path", "source_blake3", "source_keys"), "string"),
        **dict.fromkeys(("source_page", "source_size"), "integer"),
    }
    keys = {name: {"source": RECIPE, "dtype": kind, "shape": []} for name, kind in kinds.items()}
    made = run.compose_descriptor(name=SOURCE_STREAM, data_keys=keys)
    yield "descriptor", dict(made.descriptor_doc)
    listing = taken.listing
    for index, (one, attempt) in enumerate(zip(taken.frames, taken.attempts, strict=True)):
        file = listing.files[listing.file[index]]
        at = one.values.get("exposure_start_s", math.nan)
        at = at if math.isfinite(at) and at > 0 else began
        data = {
            "tile_index": index, "tile_roi": one.key[0], "tile_row": one.key[1], "tile_column": one.key[2],
            "tile_attempt": attempt, "source_path": str(file.path), "source_blake3": file.blake3,
            "source_keys": json.dumps(dict(one.keys), ensure_ascii=False),
            "source_page": int(listing.page[index]), "source_size": file.size,
        }  # fmt: skip
        yield (
            "event",
            dict(made.compose_event(data=data, timestamps=dict.fromkeys(data, at), time=at)),
        )


def _quoted(path: Path) -> str:
    """Return a path as an address has it."""
    return path.as_uri().removeprefix("file://")
