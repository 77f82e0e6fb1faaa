"""Routes of the raw files: ``GET /custom/montages/{montage_id}/files``, ``GET /custom/files/{file_id}``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import anyio
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from tiled_server.access.file_ids import FileIds
from tiled_server.access.file_lookup import Asset, Assets, Readable
from tiled_server.access.ranges import file_response
from tiled_server.access.roles import FILES
from tiled_server.access.visible import Reached, montage_row
from tiled_server.index.store import IndexStore

_GONE: Final = "no such file"


def make_router(assets: Assets, readable: Readable, ids: FileIds, store: IndexStore) -> APIRouter:
    """Return the routes over the files of a catalog."""
    router = APIRouter(tags=["files"])

    def described(found: Iterable[Asset]) -> list[dict[str, Any]]:
        rows = []
        for one in found:
            size = None if one.folder else readable.size(one.path)
            row = {"name": one.path.name, "run": one.run, "mimetype": one.mimetype, "folder": one.folder}
            file_id = None if size is None else ids.of(one.number, one.uri)
            rows.append({"id": file_id, **row, "bytes": size})
        return rows

    @router.get("/montages/{montage_id}/files")
    async def listed(montage_id: str, reach: Reached) -> dict[str, Any]:
        reach.caller.check("read:metadata")
        row = await montage_row(store, montage_id, reach.tags())
        reach.caller.check("read:data")
        reach.caller.check(FILES)
        runs = [*row["runs"], *(uid for uids in (row["results"] or {}).values() for uid in uids)]
        found = await assets.of_runs(runs, reach.tags())
        return {"files": await anyio.to_thread.run_sync(described, found)}

    @router.api_route("/files/{file_id}", methods=["GET", "HEAD"])
    async def file(request: Request, file_id: str, reach: Reached) -> Response:
        reach.caller.check("read:metadata")
        reach.caller.check("read:data")
        reach.caller.check(FILES)
        number = ids.number(file_id)
        asset = None if number is None else await assets.numbered(number, reach.tags())
        if asset is None or asset.folder or not ids.matches(file_id, asset.number, asset.uri):
            raise HTTPException(404, _GONE)
        try:
            opened = await anyio.to_thread.run_sync(readable.open, asset.path)
        except OSError:
            raise HTTPException(404, _GONE) from None
        return file_response(request, opened, asset.path.name)

    return router
