"""A montage's run as the camera server and the RunEngine make it: a growing file, a ring, documents."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

import event_model
import numpy as np
import numpy.typing as npt

from devices.camera.writer import FrameFile
from devices.frames import FrameRing
from devices.tiles import IMAGE_DATASET, IMAGE_KEY, TILE_COLUMNS, TILE_GROUP

Emit = Callable[[str, dict[str, Any]], object]
PIXEL_UM: Final = 0.004
ROTATION_DEG: Final = 20.0
"""Of the image against the stage."""
_SLOTS: Final = 4
_EPOCH: Final = 1


def view() -> npt.NDArray[np.float64]:
    """Return what takes pixels to stage coordinates, (2, 2) um."""
    cosine, sine = np.cos(np.deg2rad(ROTATION_DEG)), np.sin(np.deg2rad(ROTATION_DEG))
    return PIXEL_UM * np.array([[cosine, -sine], [sine, cosine]])


class CameraRun:
    """One run of uint16 frames.

    Parameters
    ----------
    folder
        Where file and ring are made.
    shape
        Of a frame, (y, x) px.
    emit
        Gets the documents.
    tiles
        How many will come.
    metadata
        More for the start document.
    """

    def __init__(
        self, folder: Path, shape: tuple[int, int], emit: Emit, *, tiles: int, **metadata: Any
    ) -> None:
        self._emit = emit
        self._shape = shape
        self.count = 0
        about = {"width_px": shape[1], "height_px": shape[0], "stage_per_px_um": view().tolist()}
        start: dict[str, Any] = {
            "plan_name": "montage",
            "purpose": "montage",
            "montage_id": "bench",
            "montage_view": about,
            "num_points": tiles,
        }
        self._run = event_model.compose_run(metadata=start | metadata)
        self.uid = str(self._run.start_doc["uid"])
        self.path = folder / f"{self.uid}.h5"
        self._file = FrameFile(self.path, shape)
        self._ring = FrameRing.create(folder / f"{self.uid}.ring", _SLOTS, shape)
        emit("start", dict(self._run.start_doc))
        self._declare()

    def acquire(
        self,
        frame: npt.NDArray[np.uint16],
        centre_px: npt.NDArray[np.float64],
        place: tuple[int, int, int],
        attempt: int = 0,
    ) -> int:
        """Write and announce a frame, and return its index.

        Parameters
        ----------
        frame
            (y, x) counts.
        centre_px
            Where the stage says that its centre lies, (x, y).
        place
            Region, row and column.
        attempt
            Which acquisition of the tile.
        """
        x_um, y_um = (view() @ centre_px).tolist()
        values = dict.fromkeys((column.name for column in TILE_COLUMNS), 0.0)
        values |= dict(zip(("roi", "row", "column"), map(float, place), strict=True))
        values |= {"x_um": x_um, "y_um": y_um, "centre_x_um": x_um, "centre_y_um": y_um}
        values |= {"raster_index": float(self.count), "attempt": float(attempt)}
        self._ring.put(frame, _EPOCH, self.count)
        self._file.append([(frame, values)])
        return self.count

    def announce(self) -> None:
        """Emit the documents of the frame that was acquired last."""
        first, self.count = self.count, self.count + 1
        for bundle in self._bundles:
            datum = bundle.compose_stream_datum(
                indices={"start": first, "stop": self.count},
                seq_nums={"start": first + 1, "stop": self.count + 1},
                descriptor=self._stream.descriptor_doc,
            )
            self._emit("stream_datum", dict(datum))

    def stop(self) -> None:
        """Emit the stop document."""
        self._emit("stop", dict(self._run.compose_stop()))

    def __enter__(self) -> Self:
        """Return the run; its file and ring are closed at the end."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close file and ring."""
        self._file.close()
        self._ring.unlink()

    def _declare(self) -> None:
        uri = f"file://localhost{self.path}"
        keys: dict[str, Any] = {IMAGE_KEY: _key(uri, [1, *self._shape], "array", "<u2")}
        keys |= {column.name: _key(uri, [1], "number", "<f8") for column in TILE_COLUMNS}
        settings = {"camera-ring_path": str(self._ring.path), "camera-ring_epoch": _EPOCH}
        kinds: Mapping[str, Any] = {
            "camera-ring_path": {"source": "bench", "dtype": "string", "shape": []},
            "camera-ring_epoch": {"source": "bench", "dtype": "integer", "shape": []},
        }
        stamps = dict.fromkeys(settings, time.time())
        self._stream = self._run.compose_descriptor(
            name="tiles",
            data_keys=keys,
            configuration={"camera": {"data": settings, "timestamps": stamps, "data_keys": kinds}},
            object_keys={"camera": list(keys)},
        )
        self._emit("descriptor", dict(self._stream.descriptor_doc))
        self._bundles = []
        for name in keys:
            image = name == IMAGE_KEY
            bundle = self._run.compose_stream_resource(
                mimetype="application/x-hdf5",
                uri=uri,
                data_key=name,
                parameters={
                    "dataset": IMAGE_DATASET if image else f"{TILE_GROUP}/{name}",
                    "swmr": True,
                    "chunk_shape": (1,) if image else (512,),
                },
            )
            self._bundles.append(bundle)
            self._emit("stream_resource", dict(bundle.stream_resource_doc))


def _key(uri: str, shape: list[int], dtype: str, dtype_numpy: str) -> dict[str, Any]:
    return {
        "source": uri,
        "shape": shape,
        "dtype": dtype,
        "dtype_numpy": dtype_numpy,
        "external": "STREAM:",
    }
