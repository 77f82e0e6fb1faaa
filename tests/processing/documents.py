"""Documents of a montage as the RunEngine emits them, over a real frame file and ring, for tests."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import event_model
import numpy as np
import numpy.typing as npt

from devices.camera.writer import FrameFile
from devices.frames import FrameRing
from devices.tiles import IMAGE_DATASET, IMAGE_KEY, TILE_COLUMNS, TILE_GROUP

Document = tuple[str, dict[str, Any]]
Emit = Callable[[str, dict[str, Any]], object]


class MontageRun:
    """One run, driven by a test: `tiles` acquires (file, ring and documents), `verdict` adds a qc event.

    Every document goes to ``emit`` and to ``documents``.
    """

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, int] = (64, 64),
        emit: Emit | None = None,
        *,
        pixel_size_nm: float = 10.0,
        image_rotation_deg: float = 0.0,
        ring_slots: int = 4,
        cycle_s: float = 0.3,
        **metadata: Any,
    ) -> None:
        self.documents: list[Document] = []
        self._emit = emit
        self.uid = str(uuid.uuid4())
        self.shape = shape
        self.path = folder / f"{self.uid}.h5"
        self.cycle_s = cycle_s
        self.file = FrameFile(self.path, shape)
        self.ring = FrameRing.create(folder / f"{self.uid}.ring", ring_slots, shape)
        self.count = 0
        calibration = {"pixel_size_nm": pixel_size_nm, "image_rotation_deg": image_rotation_deg}
        start: dict[str, Any] = {
            "plan_name": "montage",
            "montage_id": "m-1",
            "purpose": "montage",
            "sample": "s-1",
        }
        start |= {"operator": "ada", "calibration": calibration, "montage_spec": {"rows": 1, "columns": 1}}
        self.run = event_model.compose_run(uid=self.uid, metadata=start | metadata)
        self.emit("start", self.run.start_doc)
        self._qc: Any = None

    def emit(self, name: str, doc: Mapping[str, Any]) -> None:
        """Send a document on."""
        self.documents.append((name, dict(doc)))
        if self._emit is not None:
            self._emit(name, dict(doc))

    def declare(self) -> None:
        """Emit the descriptor and the stream resources of the tiles, as ophyd-async composes them."""
        uri = f"file://localhost{self.path}"
        keys: dict[str, Any] = {
            IMAGE_KEY: {
                "source": uri,
                "shape": [1, *self.shape],
                "dtype": "array",
                "dtype_numpy": "<u2",
                "external": "STREAM:",
            }
        }
        for column in TILE_COLUMNS:
            keys[column.name] = {
                "source": uri,
                "shape": [1],
                "dtype": "number",
                "dtype_numpy": "<f8",
                "external": "STREAM:",
            }
        ring = {
            "camera-ring_path": str(self.ring.path),
            "camera-ring_epoch": 1,
            "camera-exposure_time_s": 0.1,
        }
        configuration_keys = {
            "camera-ring_path": {"source": "x", "dtype": "string", "shape": []},
            "camera-ring_epoch": {"source": "x", "dtype": "integer", "shape": []},
            "camera-exposure_time_s": {"source": "x", "dtype": "number", "shape": []},
        }
        stamps = dict.fromkeys(ring, time.time())
        self._tiles = self.run.compose_descriptor(
            name="tiles",
            data_keys=keys,
            configuration={"camera": {"data": ring, "timestamps": stamps, "data_keys": configuration_keys}},
            object_keys={"camera": list(keys)},
        )
        self.emit("descriptor", self._tiles.descriptor_doc)
        self._bundles = []
        for name in keys:
            dataset = IMAGE_DATASET if name == IMAGE_KEY else f"{TILE_GROUP}/{name}"
            chunk = (1,) if name == IMAGE_KEY else (512,)
            bundle = self.run.compose_stream_resource(
                mimetype="application/x-hdf5",
                uri=uri,
                data_key=name,
                parameters={"dataset": dataset, "swmr": True, "chunk_shape": chunk},
            )
            self._bundles.append(bundle)
            self.emit("stream_resource", bundle.stream_resource_doc)

    def tiles(
        self,
        frames: Iterable[npt.NDArray[np.uint16]],
        positions_um: Iterable[tuple[float, float]] | None = None,
        **columns: float,
    ) -> None:
        """Acquire one block: write and flush the frames, put them in the ring, emit the stream datums."""
        frames = list(frames)
        if not self.count:
            self.declare()
        where = list(positions_um) if positions_um is not None else [(0.0, 0.0)] * len(frames)
        batch = []
        for offset, (frame, (x_um, y_um)) in enumerate(zip(frames, where, strict=True)):
            index = self.count + offset
            values = {column.name: 0.0 for column in TILE_COLUMNS}
            values |= {"raster_index": float(index), "column": float(index), "x_um": x_um, "y_um": y_um}
            values |= {"centre_x_um": x_um, "centre_y_um": y_um}
            values |= {"exposure_start_s": 1e9 + index * self.cycle_s, "exposure_time_s": 0.1}
            values |= {"move_time_s": 0.1, "settle_time_s": 0.05, "readout_time_s": 0.05}
            batch.append((frame, values | columns))
            self.ring.put(frame, 1, index)
        self.file.append(batch)
        start, self.count = self.count, self.count + len(frames)
        for bundle in self._bundles:
            datum = bundle.compose_stream_datum(
                indices={"start": start, "stop": self.count},
                seq_nums={"start": start + 1, "stop": self.count + 1},
                descriptor=self._tiles.descriptor_doc,
            )
            self.emit("stream_datum", datum)

    def verdict(self, data: Mapping[str, Any]) -> None:
        """Emit one event of the qc stream."""
        if self._qc is None:
            kinds = {str: ("string", "<U1024"), int: ("integer", "<i8"), float: ("number", "<f8")}
            keys = {}
            for key, value in data.items():
                dtype, _ = kinds[type(value)]
                keys[key] = {"source": "processing", "dtype": dtype, "shape": []}
            self._qc = self.run.compose_descriptor(name="qc", data_keys=keys)
            self.emit("descriptor", self._qc.descriptor_doc)
        stamps = dict.fromkeys(data, time.time())
        self.emit("event", self._qc.compose_event(data=dict(data), timestamps=stamps))

    def stop(self, exit_status: str = "success") -> None:
        """Emit the stop document, and close file and ring."""
        self.emit("stop", self.run.compose_stop(exit_status=exit_status))
        self.close()

    def close(self) -> None:
        """Close the file and remove the ring."""
        self.file.close()
        self.ring.unlink()
