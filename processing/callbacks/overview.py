"""The overview: the whole montage as one small picture, as soon as its run ends."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import cv2
import event_model
import h5py

from devices.errors import ConfigurationError, MontangoError
from processing.callbacks._documents import KEPT, Callback
from processing.callbacks._mosaic import Mosaic, Picture, eight_bit
from processing.callbacks._tiles import Tile, TileSource
from processing.callbacks._worker import QueuedCallback

_log = logging.getLogger(__name__)
_DATASET: Final = "/entry/overview"
_KEY: Final = "overview"
_SOFTWARE: Final = ("montango", "numpy", "opencv-python-headless")


class Overview:
    """Place every tile at reduced scale by its read-back position, and write the picture at the run's stop.

    The picture lies in the camera's axes, so tiles stand upright in it. Of a tile that was acquired again the
    newest is shown, unless it failed and an older one passed. At the stop of the run, ``directory`` gets
    ``<montage id>_<run>_overview.png`` (8 bit, to look at) and ``.h5`` (``/entry/overview``, uint16 counts,
    with attributes ``pixel_size_nm``; ``origin_um``, the stage position of the centre of pixel (0, 0); and
    ``image_rotation_deg``), and a run of its own is emitted that names its input.

    Parameters
    ----------
    directory
        Where the files go; made where absent. Tiled must be allowed to read it.
    emit
        Gets the documents of the overview's run, in the thread of this callback.
    reduction
        Camera pixels a pixel of the picture to begin with; None for tiles of at most 512 px.
    max_px
        Longest side of the picture, px; it is reduced by another factor of two where it grows over this.
    calibrations
        Folder of the calibrations; frames of a run that names a dark and a bright reference are shown with
        them taken out. None: as they are.

    Attributes
    ----------
    last_png
        The newest picture, None before there is one.
    """

    def __init__(
        self,
        directory: str | Path,
        emit: Callback,
        *,
        reduction: int | None = None,
        max_px: int = 4096,
        calibrations: Path | str | None = None,
    ) -> None:
        if max_px < 16 or (reduction is not None and reduction < 1):
            raise ConfigurationError(
                f"overview: max_px = {max_px} must be at least 16 and reduction = {reduction} at least 1"
            )
        self.directory = Path(directory)
        self.last_png: Path | None = None
        self._emit = emit
        self._calibrations = calibrations
        self._reduction = reduction
        self._max_px = max_px
        self._source = TileSource()
        self._mosaic: Mosaic | None = None
        self._start: Mapping[str, Any] = {}
        self._qc = ""
        self._ignored = False

    def queued(self, max_documents: int = 100_000) -> QueuedCallback:
        """Return this callback behind a queue and a thread of its own."""
        return QueuedCallback(self, name="overview", max_documents=max_documents)

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document.

        Raises
        ------
        ConfigurationError
            A run with tiles says nothing of their pixel size and rotation.
        """
        if name == "start":
            self._source.close()
            self._source = TileSource(doc, self._calibrations)
            self._mosaic, self._start, self._qc, self._ignored = None, doc, "", False
        elif self._ignored:
            return
        elif name == "descriptor" and doc.get("name") == "qc":
            self._qc = doc["uid"]
        elif name == "event" and doc["descriptor"] == self._qc and self._mosaic is not None:
            self._mosaic.judge(int(doc["data"]["tile_index"]), str(doc["data"]["qc_state"]))
        elif name == "stop":
            try:
                self._finish()
            finally:
                self._source.close()
        else:
            indices = self._source(name, doc)
            for tile in self._source.tiles(indices) if indices else ():
                self._add(tile)

    def picture(self) -> Picture | None:
        """Return the picture so far, None before the first tile."""
        return self._mosaic.picture() if self._mosaic else None

    def _add(self, tile: Tile) -> None:
        if not math.isfinite(tile.x_um + tile.y_um):
            _log.error("tile %d has no position and is left out of the overview", tile.index)
            return
        try:
            frame = self._source.frame(tile.index)
        except MontangoError:
            _log.exception("tile %d is left out of the overview", tile.index)
            return
        if self._mosaic is None:
            longest = max(frame.shape)
            self._mosaic = Mosaic(self._reduction or max(1, math.ceil(longest / 512)), self._max_px)
        pixel_um, cosine, sine = self._calibration()
        centre = (
            (cosine * tile.x_um + sine * tile.y_um) / pixel_um,
            (-sine * tile.x_um + cosine * tile.y_um) / pixel_um,
        )
        self._mosaic.add(tile.place, tile.index, frame, centre)

    def _calibration(self) -> tuple[float, float, float]:
        """Return the pixel size in um, and cosine and sine of the rotation from camera to stage axes."""
        try:
            calibration = self._start["calibration"]
            angle = math.radians(calibration["image_rotation_deg"])
            return calibration["pixel_size_nm"] * 1e-3, math.cos(angle), math.sin(angle)
        except KeyError as error:
            self._ignored = True  # said once a run, not at every tile
            raise ConfigurationError(
                f"run {self._start.get('uid')} has no {error} in its start document: no overview can be "
                f"placed; calibrate the magnification and give pixel_size_nm and image_rotation_deg"
            ) from error

    def _finish(self) -> None:
        if not self._mosaic:
            return
        picture = self._mosaic.picture()
        self.directory.mkdir(parents=True, exist_ok=True)
        label = re.sub(r"[^\w.-]", "_", str(self._start.get("montage_id", "montage")))
        base = self.directory / f"{label}_{str(self._start['uid'])[:8]}_overview"
        png, data = base.with_name(f"{base.name}.png"), base.with_name(f"{base.name}.h5")
        metadata = self._describe(picture, png)
        _write_hdf5(data, picture, metadata["calibration"] | {"origin_um": metadata["origin_um"]})
        if not cv2.imwrite(str(png), eight_bit(picture)):
            raise MontangoError(
                f"{png} cannot be written; check that its folder can be and the disk is not full"
            )
        self.last_png = png
        _emit_run(self._emit, metadata, data, picture.pixels.shape)

    def _describe(self, picture: Picture, png: Path) -> dict[str, Any]:
        pixel_um, cosine, sine = self._calibration()
        u, v = picture.origin_px
        origin_um = [pixel_um * (cosine * u - sine * v), pixel_um * (sine * u + cosine * v)]
        return {
            **{key: self._start[key] for key in KEPT if key in self._start},
            "plan_name": "overview",
            "purpose": "processing",
            "recipe": "overview",
            "input_uids": [self._start["uid"]],
            "parameters": {
                "reduction": picture.reduction,
                "max_px": self._max_px,
                "corrected": self._source.corrected,
            },
            "tiles": len(self._mosaic or ()),
            "calibration": {
                "pixel_size_nm": pixel_um * 1e3 * picture.reduction,
                "image_rotation_deg": self._start["calibration"]["image_rotation_deg"],
            },
            "origin_um": origin_um,
            "png": str(png),
            "software": {name: version(name) for name in _SOFTWARE},
        }


def _write_hdf5(path: Path, picture: Picture, attributes: Mapping[str, Any]) -> None:
    rows, columns = picture.pixels.shape
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(
            _DATASET, data=picture.pixels, chunks=(min(512, rows), min(512, columns)), compression="lzf"
        )
        dataset.attrs["units"] = "counts"
        dataset.attrs.update(attributes)


def _emit_run(emit: Callback, metadata: Mapping[str, Any], path: Path, shape: tuple[int, ...]) -> None:
    """Emit a run with one image in one stream."""
    run = event_model.compose_run(metadata=dict(metadata))
    emit("start", run.start_doc)
    uri = f"file://localhost{path.absolute()}"
    key = {"source": uri, "shape": [*shape], "dtype": "array", "dtype_numpy": "<u2", "external": "STREAM:"}
    stream = run.compose_descriptor(name=_KEY, data_keys={_KEY: key})
    emit("descriptor", stream.descriptor_doc)
    resource = run.compose_stream_resource(
        mimetype="application/x-hdf5",
        uri=uri,
        data_key=_KEY,
        parameters={"dataset": _DATASET, "swmr": False, "chunk_shape": [1]},
    )
    emit("stream_resource", resource.stream_resource_doc)
    datum = resource.compose_stream_datum(
        indices={"start": 0, "stop": 1}, seq_nums={"start": 1, "stop": 2}, descriptor=stream.descriptor_doc
    )
    emit("stream_datum", datum)
    emit("stop", run.compose_stop())
