"""Catalogs for tests of operations: served in the test's own process, written run by run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import event_model
import h5py
import numpy as np
import pytest

from devices.tiles import IMAGE_DATASET
from tests.processing.documents import MontageRun
from tests.tiled_server.conftest import KEY
from tiled_server.configuration import CatalogServer
from tiled_server.databases import make_catalog, make_sqlite
from tiled_server.operations.stores import Stores

QUIETLY = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
    pytest.mark.filterwarnings("ignore:Using `httpx` with"),
]
"""What Tiled and Starlette warn of when a server is in the test's process."""
SHAPE = (32, 32)


@contextmanager
def opened(stores: Stores, data: Path) -> Iterator[Any]:
    """Serve a catalog in this process."""
    from tiled.client import from_context
    from tiled.client.context import Context
    from tiled.config import Config
    from tiled.server.app import build_app_from_config

    (stores.folder / "arrays").mkdir(parents=True, exist_ok=True)
    if stores.database is None and not (stores.folder / "catalog.db").exists():
        make_sqlite(stores.folder / "catalog.db")
    elif stores.database is not None:
        make_catalog(stores.database, where="test")
    server = CatalogServer(stores.state_dir, (data,), KEY, stores.database, stores.tables)
    app = build_app_from_config(Config.model_validate(server.tiled_config()))
    with Context.from_app(app, api_key=KEY) as context:
        yield from_context(context)


def acquire(
    emit: Callable[[str, dict[str, Any]], object], data: Path, tiles: int = 3, end: bool = True
) -> MontageRun:
    """Write a run of some tiles, each with a verdict and an event with an array, which Tiled keeps itself."""
    run = MontageRun(data, SHAPE, emit)
    shift = run.run.compose_descriptor(
        name="beam", data_keys={"image_shift": {"source": "x", "dtype": "array", "shape": [2]}}
    )
    for index in range(tiles):
        run.tiles([np.full(SHAPE, 10 + index, np.uint16)])
        run.verdict({"tile_index": index, "qc_state": "pass", "faults": "[]"})
        if not index:
            run.emit("descriptor", shift.descriptor_doc)
        values = {"image_shift": [float(index), 0.5]}
        run.emit("event", shift.compose_event(data=values, timestamps={"image_shift": 1.0}))
    if end:
        run.stop()
    else:
        run.close()
    return run


class SmallRun:
    """A run of three frames with an event ``qc`` each, and no numbers of tiles: it takes few requests.

    With ``shift`` it has events with an array, too, which Tiled keeps itself.
    """

    def __init__(
        self,
        emit: Callable[[str, dict[str, Any]], object],
        data: Path,
        *,
        shift: bool = False,
        end: bool = True,
    ) -> None:
        self.documents: list[tuple[str, dict[str, Any]]] = []
        self._sink = emit
        self.run = event_model.compose_run(metadata={"plan_name": "small", "montage_id": "m-1"})
        self.uid = str(self.run.start_doc["uid"])
        self.path = data / f"{self.uid}.h5"
        with h5py.File(self.path, "w", libver="latest") as file:
            frames = np.stack([np.full(SHAPE, 10 + index, np.uint16) for index in range(3)])
            file.create_dataset(IMAGE_DATASET, data=frames, maxshape=(None, *SHAPE), chunks=(1, *SHAPE))
        self._emit("start", dict(self.run.start_doc))
        self._write_frames()
        self._write_events("qc", "tile_index", [0, 1, 2], [])
        if shift:
            self._write_events("beam", "image_shift", [[float(index), 0.5] for index in range(3)], [2])
        if end:
            self.stop()

    def stop(self) -> None:
        """End it."""
        self._emit("stop", dict(self.run.compose_stop()))

    def _emit(self, name: str, doc: dict[str, Any]) -> None:
        self.documents.append((name, doc))
        self._sink(name, doc)

    def _write_frames(self) -> None:
        key = {"source": "x", "shape": [1, *SHAPE], "dtype": "array", "dtype_numpy": "<u2"}
        tiles = self.run.compose_descriptor(name="tiles", data_keys={"image": key | {"external": "STREAM:"}})
        self._emit("descriptor", dict(tiles.descriptor_doc))
        frames = self.run.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{self.path}",
            data_key="image",
            parameters={"dataset": IMAGE_DATASET, "chunk_shape": (1,)},
        )
        self._emit("stream_resource", dict(frames.stream_resource_doc))
        spans = {"indices": {"start": 0, "stop": 3}, "seq_nums": {"start": 1, "stop": 4}}
        self._emit(
            "stream_datum", dict(frames.compose_stream_datum(descriptor=tiles.descriptor_doc, **spans))
        )

    def _write_events(self, stream: str, key: str, values: Sequence[Any], shape: list[int]) -> None:
        kind = "array" if shape else "integer"
        made = self.run.compose_descriptor(
            name=stream, data_keys={key: {"source": "x", "dtype": kind, "shape": shape}}
        )
        self._emit("descriptor", dict(made.descriptor_doc))
        for value in values:
            self._emit("event", dict(made.compose_event(data={key: value}, timestamps={key: 1.0})))


def look(client: Any, run: MontageRun | SmallRun, tiles: int = 3) -> None:
    """See all of a run, in the catalog, its tables, its arrays and its file."""
    node = client[run.uid]
    assert node.metadata["stop"]["exit_status"] == "success"
    assert sorted(node["qc"].read()["tile_index"].values.tolist()) == list(range(tiles))
    assert node["tiles"]["image"].read()[:, 0, 0, 0].tolist() == [10 + index for index in range(tiles)]
    assert node["beam"]["image_shift"].read()[:, 0].tolist() == [float(index) for index in range(tiles)]
