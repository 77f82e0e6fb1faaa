"""Pixels over HTTP: frames of 2048 x 2048 and regions of a mosaic, in part and whole."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import event_model
import numpy as np
import numpy.typing as npt

from montango.bench._catalog_made import Made, documents, write_frames
from montango.bench._catalog_questions import Times
from montango.bench._catalog_server import Place, Running
from processing.callbacks._catalog_run import connect, disconnect, write_run
from processing.callbacks._documents import Document
from processing.callbacks._zarr_array import MIMETYPE
from processing.mosaic.pyramid import PyramidStore

FRAME_PX: Final = 2048
MOSAIC_PX: Final = 8192
_FRAMES: Final = 9
_REGION_PX: Final = 512
_CHUNK_PX: Final = 512
_REPEATS: Final = 30
LIMITS: Final = (
    ("region of a mosaic, 512 x 512, any place", 80.0),
    ("region of a mosaic, 512 x 512, one chunk", 80.0),
    ("frame, 2048 x 2048", 250.0),
    ("region of a frame, 512 x 512", None),
    ("every 8th pixel of a frame", None),
)
"""What is read, and what half of the times may take, ms; None: it is only told."""


def write_pixels(place: Place, running: Running, seed: int) -> tuple[str, str]:
    """Write a montage and its mosaic, pixels like those of tissue; return the uids of both runs."""
    rng = np.random.default_rng(seed)
    frame = _picture(rng, FRAME_PX)
    made = Made(seed, 0, _FRAMES)
    path = place.data / "frames.h5"
    write_frames(path, _FRAMES, frame)
    mosaic, zarr = str(uuid.uuid4()), place.data / "mosaic.ome.zarr"
    image = np.tile(frame, (MOSAIC_PX // FRAME_PX, MOSAIC_PX // FRAME_PX))
    with PyramidStore.create(zarr, dtype="uint16", pixel_size_nm=4.0, shape=image.shape) as store:
        store.write_image(image)
    client = connect(running.uri, running.key)
    try:
        write_run(client, list(documents(made, path, FRAME_PX)))
        write_run(client, list(_mosaic(mosaic, made, zarr)))
    finally:
        disconnect(client)
    return made.uid, mosaic


def _picture(rng: np.random.Generator, side: int) -> npt.NDArray[np.uint16]:
    """Return counts that do not compress better than a real frame: smooth structure and shot noise."""
    import cv2

    smooth = cv2.GaussianBlur(rng.normal(size=(side, side)).astype(np.float32), (0, 0), 3)
    return np.asarray(rng.poisson((smooth * 8000 + 3000).clip(0, 60_000)), np.uint16)


def _mosaic(uid: str, made: Made, path: Path) -> Iterator[Document]:
    start = {"plan_name": "live_mosaic", "recipe": "live_mosaic", "purpose": "processing", "roi": 0}
    run = event_model.compose_run(
        uid=uid, metadata=start | {"montage_id": made.montage_id, "input_uids": [made.uid]}
    )
    yield "start", dict(run.start_doc)
    key = {
        "source": f"file://localhost{path}",
        "shape": [MOSAIC_PX, MOSAIC_PX],
        "dtype": "array",
        "dtype_numpy": "<u2",
        "external": "STREAM:",
    }
    descriptor = run.compose_descriptor(name="mosaic", data_keys={"level_0": key})
    yield "descriptor", dict(descriptor.descriptor_doc)
    bundle = run.compose_stream_resource(
        mimetype=MIMETYPE,
        uri=f"file://localhost{path}/0",
        data_key="level_0",
        parameters={"chunk_shape": [_CHUNK_PX, _CHUNK_PX]},
    )
    yield "stream_resource", dict(bundle.stream_resource_doc)
    span = {"indices": {"start": 0, "stop": 1}, "seq_nums": {"start": 1, "stop": 2}}
    yield "stream_datum", dict(bundle.compose_stream_datum(descriptor=descriptor.descriptor_doc, **span))
    yield "stop", dict(run.compose_stop())


def pixel_times(
    running: Running, montage: str, mosaic: str, seed: int
) -> Iterator[tuple[str, float | None, Times]]:
    """Read pixels as an analyst does; yield what, its limit, and how long it took."""
    rng = np.random.default_rng(seed)
    client = connect(running.uri, running.key)
    try:
        image, level = client[montage]["tiles"]["image"], client[mosaic]["mosaic"]["level_0"]
        for (name, most), read in zip(LIMITS, _reads(image, level, rng), strict=True):
            read()
            seconds, before = [], running.cpu_s()
            for _ in range(_REPEATS):
                began = time.perf_counter()
                np.asarray(read())
                seconds.append(time.perf_counter() - began)
            yield name, most, Times.of(seconds, running.cpu_s() - before)
    finally:
        disconnect(client)


def _reads(image: Any, level: Any, rng: np.random.Generator) -> list[Callable[[], Any]]:
    def at(step: int, side: int) -> tuple[slice, slice]:
        y, x = rng.integers(0, (side - _REGION_PX) // step + 1, 2) * step
        return slice(int(y), int(y) + _REGION_PX), slice(int(x), int(x) + _REGION_PX)

    def frame() -> int:
        return int(rng.integers(_FRAMES))

    return [
        lambda: level[at(1, MOSAIC_PX)],
        lambda: level[at(_CHUNK_PX, MOSAIC_PX)],
        lambda: image[frame(), 0],
        lambda: image[(frame(), 0, *at(1, FRAME_PX))],
        lambda: image[frame(), 0, ::8, ::8],
    ]
