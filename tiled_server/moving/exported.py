"""Documents and arrays of a run, as a Tiled server gives them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from processing.callbacks._documents import Document
from processing.frame_list import MIMETYPE as FRAME_LIST
from tiled_server.moving.content import Frame

_WHOLE_BYTES: Final = 4_000_000
"""An array up to this size is read in one request."""
_ORDER: Final = {"start": 0, "descriptor": 1, "stream_resource": 3, "stream_datum": 4, "stop": 5}
_EVENTS: Final = 2
_RECORD: Final = "\x1e"


def as_container(node: Any) -> Any:
    """Return the client of a node as that of a plain container, whatever its specs make of it.

    What bluesky-tiled-plugins gives for runs and streams depends on what was asked before in the process.
    """
    from tiled.client.container import Container

    return Container(node.context, item=node.item, structure_clients=node.structure_clients)


def exported_documents(node: Any) -> list[Document]:
    """Return the documents of a run as the server gives them back: frames of a stream in one stream datum."""
    with io.BytesIO() as buffer:
        node.export(buffer, format="application/json-seq")
        lines = buffer.getvalue().decode().splitlines()
    found = [json.loads(line.lstrip(_RECORD)) for line in lines if line.strip()]
    # the server orders them by time, and what is said of a stream may be younger than its events
    return sorted(((one["name"], one["doc"]) for one in found), key=lambda one: _ORDER.get(one[0], _EVENTS))


def stream_parameters(resource: Mapping[str, Any], array: Any) -> dict[str, Any]:
    """Return the parameters of a stream resource with what a server leaves out, and without what it adds.

    Its chunks are in the structure of the array. How frames are joined follows from the kind of the file. Of
    a list of frames the files are its other assets.
    """
    chunks = [max(sizes) for sizes in array.chunks]
    given = {key: value for key, value in resource["parameters"].items() if value is not None}
    if resource["mimetype"] == FRAME_LIST:
        one_each = bool(given.get("one_each"))
        return {"files": asset_addresses(array)[1:], "one_each": one_each, "chunk_shape": chunks}
    given.pop("join_method", None)
    return {"chunk_shape": chunks, **given}


def asset_addresses(array: Any) -> list[str]:
    """Return the addresses of the files of an array, in their order."""
    (source,) = array.include_data_sources().data_sources()
    return [one.data_uri for one in sorted(source.assets, key=lambda one: one.num or 0)]


def frame_reader(array: Any, shape: Sequence[int]) -> Callable[[int], Frame]:
    """Return what reads one frame of an array.

    Parameters
    ----------
    array
        Its client: frames stacked, or one after the other along the first axis.
    shape
        Of one frame, as its data key says.
    """
    rows = 1 if array.ndim == len(shape) + 1 or list(shape) == [1] else int(shape[0])
    whole: list[Frame] = []

    def read(index: int) -> Frame:
        if array.nbytes > _WHOLE_BYTES:
            return np.asarray(array[rows * index : rows * (index + 1)])
        if not whole:
            whole.append(np.asarray(array.read()))
        return whole[0][rows * index : rows * (index + 1)]

    return read
