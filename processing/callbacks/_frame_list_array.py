"""Listed frames in the catalog: how Tiled's writer takes a stream resource of `processing.frame_list`."""

from __future__ import annotations

from typing import Any, Literal

from bluesky_tiled_plugins.writing.consolidators import CONSOLIDATOR_REGISTRY, ConsolidatorBase
from tiled.structures.data_source import Asset

from processing.frame_list import MIMETYPE


class FrameListConsolidator(ConsolidatorBase):  # type: ignore[misc]  # the package is not typed
    """An array (frame, 1, y, x). Its assets are the list and, after it, every file that has frames.

    So the server checks each of them against the folders that it may read.
    """

    supported_mimetypes = {MIMETYPE}  # noqa: RUF012  # as the base declares it
    join_method: Literal["stack", "concat"] = "stack"

    def __init__(self, stream_resource: Any, descriptor: Any) -> None:
        super().__init__(stream_resource, descriptor)
        uris = [self.uri, *stream_resource["parameters"]["files"]]
        self.assets = [
            Asset(data_uri=uri, is_directory=False, parameter="data_uris", num=number)
            for number, uri in enumerate(uris)
        ]

    def adapter_parameters(self) -> dict[str, Any]:
        """Return whether frame n is all that file n has: then only the files that are read are looked up."""
        return {"one_each": bool(self._sres_parameters.get("one_each"))}


def register() -> None:
    """Let Tiled's writer take lists of frames."""
    CONSOLIDATOR_REGISTRY[MIMETYPE] = FrameListConsolidator
