"""Montages made from a seed: documents as the engine emits them, numbers of tiles, verdicts."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import event_model
import numpy as np
import numpy.typing as npt

from devices.camera.writer import FrameFile
from devices.tiles import IMAGE_DATASET, IMAGE_KEY, TILE_COLUMNS, TILE_GROUP
from processing.callbacks._documents import Document
from tiled_server.index.rows import RECORDED
from tiled_server.index.schema import SCORES

FRAME_PX: Final = 8
EVERY_S: Final = 600.0
FIRST_S: Final = 1.7e9
SAMPLES, OPERATORS, PROPOSALS, A_SESSION = 300, 20, 100, 20
"""How many samples, operators and proposals there are; montages of a session."""
_BAD: Final = 0.03
_FAULTS: Final = ("blurred", "dirt", "fold", "charging")
_PIXEL_UM: Final = 0.004
PITCH_UM: Final = 7.3

Column = npt.NDArray[Any]


@dataclass(frozen=True)
class Made:
    """A montage of one run.

    Attributes
    ----------
    seed, number
        All of it follows from them.
    tiles
        How many it has.
    """

    seed: int
    number: int
    tiles: int

    @property
    def montage_id(self) -> str:
        """Its id."""
        return f"m-{self.number:06d}"

    @property
    def uid(self) -> str:
        """Uid of its run."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"montango bench {self.seed} {self.number}"))

    @property
    def started(self) -> float:
        """When it began, Unix s."""
        return FIRST_S + EVERY_S * self.number

    def start(self) -> dict[str, Any]:
        """Return its start document."""
        number = self.number
        return {
            "uid": self.uid,
            "time": self.started,
            "plan_name": "montage",
            "purpose": "montage",
            "technique": "TEM montage",
            "montage_id": self.montage_id,
            "num_points": self.tiles,
            "sample": f"mouse {number % SAMPLES}",
            "operator": f"operator {number % OPERATORS}",
            "proposal": f"p-{number % PROPOSALS}",
            "data_session": f"s-{number // A_SESSION}",
            "instrument": "em-1",
            "title": f"section {number}",
            "notes": f"block {number % 17}, {('cortex', 'vessel', 'nerve')[number % 3]}",
            "calibration": {"pixel_size_nm": 1e3 * _PIXEL_UM, "image_rotation_deg": 0.0},
        }

    def stop(self) -> dict[str, Any]:
        """Return its stop document."""
        uid = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.uid} stop"))
        time = self.started + 0.3 * self.tiles
        return {"uid": uid, "run_start": self.uid, "time": time, "exit_status": "success", "reason": ""}

    def verdicts(self) -> dict[str, Column]:
        """Return the columns of its verdicts, (tile,) each."""
        rng = np.random.default_rng([self.seed, self.number])
        columns = tile_numbers(self.tiles)
        bad = rng.random(self.tiles) < _BAD
        kinds, severities = rng.integers(len(_FAULTS), size=self.tiles), rng.uniform(0.1, 1, self.tiles)
        faults = [
            json.dumps(
                [{"kind": _FAULTS[kind], "severity": round(float(s), 4), "confidence": 0.9,
                  "scope": "transient", "metrics": {}}]
            ) if one else "[]"
            for one, kind, s in zip(bad, kinds, severities, strict=True)
        ]  # fmt: skip
        found: dict[str, Column] = {
            "tile_index": np.arange(self.tiles),
            **{
                f"tile_{name}": columns[name].astype(np.int64) for name in ("roi", "row", "column", "attempt")
            },
            "tile_x_um": columns["centre_x_um"],
            "tile_y_um": columns["centre_y_um"],
            "qc_state": np.where(bad, "fail", "pass").astype(object),
            "qc_decision": np.where(bad, "again: reimage", "keep").astype(object),
            "faults": np.array(faults, object),
        }
        scores = rng.normal(size=(len(SCORES), self.tiles))
        found |= {one.name: scores[k] for k, one in enumerate(SCORES)}
        found["focus_score"] = rng.normal(-15, 3, self.tiles)
        return found


def tile_numbers(count: int) -> dict[str, npt.NDArray[np.float64]]:
    """Return what is recorded of the tiles of a montage, the same for all with as many, (tile,) each."""
    side = math.ceil(math.sqrt(count))
    rows, columns = np.divmod(np.arange(count, dtype=np.float64), side)
    jitter = np.random.default_rng(count).normal(0, 0.02, (2, count))
    found: dict[str, npt.NDArray[np.float64]] = {column.name: np.zeros(count) for column in TILE_COLUMNS}
    found |= {"raster_index": np.arange(count, dtype=np.float64), "row": rows, "column": columns}
    for axis, at, off in (("x", columns, jitter[0]), ("y", rows, jitter[1])):
        found[f"{axis}_requested_um"] = at * PITCH_UM
        found[f"{axis}_um"] = found[f"centre_{axis}_um"] = np.asarray(at * PITCH_UM + off, np.float64)
    found["defocus_um"] = np.full(count, -1.0)
    found["dose_e_per_a2"] = np.full(count, 0.5)
    found["exposure_start_s"] = np.asarray(FIRST_S + 0.3 * np.arange(count), np.float64)
    return found


def write_frames(path: Path, count: int, frame: npt.NDArray[np.uint16]) -> None:
    """Write the file of frames of a montage."""
    numbers = tile_numbers(count)
    file = FrameFile(path, (frame.shape[0], frame.shape[1]))
    for first in range(0, count, 500):
        rows = range(first, min(first + 500, count))
        file.append([(frame, {name: float(values[k]) for name, values in numbers.items()}) for k in rows])
    file.close()


def documents(made: Made, path: Path, frame_px: int = FRAME_PX) -> Iterator[Document]:
    """Yield the documents of a montage whose frames are in a file."""
    start = made.start()
    run = event_model.compose_run(
        uid=start["uid"],
        time=start["time"],
        metadata={k: v for k, v in start.items() if k not in ("uid", "time")},
    )
    yield "start", dict(run.start_doc)
    yield from _frames(run, path, made.tiles, frame_px)
    verdicts = made.verdicts()
    made_of = run.compose_descriptor(
        name="qc", data_keys={key: _key(values) for key, values in verdicts.items()}
    )
    yield "descriptor", dict(made_of.descriptor_doc)
    for index in range(made.tiles):
        data = {key: _plain(values[index]) for key, values in verdicts.items()}
        stamps = dict.fromkeys(data, start["time"])
        yield "event", dict(made_of.compose_event(data=data, timestamps=stamps, time=start["time"]))
    yield "stop", made.stop()


def _frames(run: Any, path: Path, count: int, frame_px: int) -> Iterator[Document]:
    uri = f"file://localhost{path}"
    names = [IMAGE_KEY, *RECORDED]
    shapes = {name: [1, frame_px, frame_px] if name == IMAGE_KEY else [1] for name in names}
    keys: Mapping[str, Any] = {
        name: {
            "source": uri,
            "shape": shape,
            "dtype": "array" if name == IMAGE_KEY else "number",
            "dtype_numpy": "<u2" if name == IMAGE_KEY else "<f8",
            "external": "STREAM:",
        }
        for name, shape in shapes.items()
    }
    made = run.compose_descriptor(name="tiles", data_keys=keys)
    yield "descriptor", dict(made.descriptor_doc)
    for name in names:
        dataset = IMAGE_DATASET if name == IMAGE_KEY else f"{TILE_GROUP}/{name}"
        chunk = [1] if name == IMAGE_KEY else [512]
        bundle = run.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=uri,
            data_key=name,
            parameters={"dataset": dataset, "swmr": True, "chunk_shape": chunk},
        )
        yield "stream_resource", dict(bundle.stream_resource_doc)
        span = {"indices": {"start": 0, "stop": count}, "seq_nums": {"start": 1, "stop": count + 1}}
        yield "stream_datum", dict(bundle.compose_stream_datum(descriptor=made.descriptor_doc, **span))


def _key(values: Column) -> dict[str, Any]:
    kinds = {"i": "integer", "f": "number", "O": "string"}
    return {"source": "bench", "dtype": kinds[values.dtype.kind], "shape": []}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
