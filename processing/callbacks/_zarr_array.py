"""Zarr arrays in the catalog: how Tiled's writer takes a stream resource that is one."""

from __future__ import annotations

from typing import Any, Literal

from bluesky_tiled_plugins.writing.consolidators import CONSOLIDATOR_REGISTRY, ConsolidatorBase
from tiled.structures.data_source import Asset

MIMETYPE = "application/x-zarr"


class ZarrArrayConsolidator(ConsolidatorBase):  # type: ignore[misc]  # the package is not typed
    """A whole array in a folder, of the shape of its datum: there is one datum."""

    supported_mimetypes = {MIMETYPE}  # noqa: RUF012  # as the base declares it
    join_method: Literal["stack", "concat"] = "concat"

    def __init__(self, stream_resource: Any, descriptor: Any) -> None:
        super().__init__(stream_resource, descriptor)
        self.assets = [Asset(data_uri=self.uri, is_directory=True, parameter="data_uris", num=0)]


def register() -> None:
    """Let Tiled's writer take zarr arrays."""
    CONSOLIDATOR_REGISTRY[MIMETYPE] = ZarrArrayConsolidator
