"""Routes of the index, under ``/custom`` of the catalog's server."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Annotated, Any, Final

import orjson
import pyarrow as pa
from fastapi import APIRouter, Depends, HTTPException, Request, Security
from fastapi.responses import Response, StreamingResponse
from sqlalchemy import Boolean, Integer, String, Table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from tiled.server.authentication import check_scopes

from tiled_server.index import maps, queries
from tiled_server.index.access import Tags, readable_tags
from tiled_server.index.indexer import Indexer
from tiled_server.index.parameters import Parameters
from tiled_server.index.schema import METRICS, TILE_COLUMNS, tiles
from tiled_server.index.store import IndexStore

_log = logging.getLogger(__name__)

ARROW: Final = "application/vnd.apache.arrow.stream"
_MOST_MONTAGES: Final = 1000
_MOST_WORST: Final = 1000
_LARGEST: Final = 2**31 - 1
_BATCH: Final = 5000
_READ_OFFSET: Final = 10**9

_OF_MONTAGES: Final = ("session", "sample")
_SCOPE: Final = ("montage", *_OF_MONTAGES)
"""Parameters that say whose tiles are meant."""
_AGAIN: Final = {"Retry-After": "2"}

Caller = Annotated[Tags, Depends(readable_tags)]


Noted = Callable[[str], Awaitable[Collection[str]]]
"""Returns the ids of the montages that have a word in a note."""


def make_router(indexer: Indexer, noted: Noted | None = None) -> APIRouter:
    """Return the routes over an index; ``noted`` says where else text is looked for."""
    router = APIRouter(tags=["index"])
    store = indexer.store

    def check_ready() -> None:
        if not store.ready:
            raise HTTPException(503, "the index is not open yet; try again in a moment", headers=_AGAIN)

    async def known_montage(montage_id: str, caller: Tags) -> dict[str, Any]:
        async with _asking(store) as connection:
            row = await queries.montage(connection, montage_id, caller)
        if row is None:
            raise HTTPException(404, f"no montage {montage_id!r}")
        return row

    ready = [Depends(check_ready)]

    @router.get("/montages", dependencies=ready)
    async def montages(request: Request, caller: Caller) -> Response:
        names = (*queries.MATCHED, "since", "until", "qc", "text", "sort", "offset", "limit")
        given = Parameters(request.query_params, names)
        search = queries.Search(
            given.texts(queries.MATCHED),
            given.time("since"),
            given.time("until"),
            given.choice("qc", queries.QC_FILTERS),
            given.text("text"),
            given.choice("sort", _both_ways(), "-started") or "",
        )
        if noted is not None:
            search = replace(search, noted={word: await noted(word) for word in search.all_words()})
        offset = given.whole("offset", 0, 0, _READ_OFFSET)
        limit = given.whole("limit", 100, 0, _MOST_MONTAGES)
        async with _asking(store) as connection:
            count, rows = await queries.find_montages(connection, search, caller, offset, limit)
        return _json({"count": count, "montages": rows, "complete": indexer.complete})

    @router.get("/montages/{montage_id}", dependencies=ready)
    async def montage(request: Request, montage_id: str, caller: Caller) -> Response:
        Parameters(request.query_params, ())
        return _json(await known_montage(montage_id, caller))

    @router.get("/montages/{montage_id}/tiles", dependencies=ready)
    async def tile_table(request: Request, montage_id: str, caller: Caller) -> Response:
        given = Parameters(request.query_params, ("format", "best"))
        form = given.choice("format", ("arrow", "json"), "json")
        best = given.flag("best", default=False)
        await known_montage(montage_id, caller)
        if form == "arrow":
            return StreamingResponse(_arrow(indexer, montage_id, best), media_type=ARROW)
        async with _asking(store) as connection:
            found = await connection.execute(queries.tile_rows(montage_id, best=best))
            return _json([dict(zip(TILE_COLUMNS, row, strict=True)) for row in found])

    @router.get("/montages/{montage_id}/heatmap", dependencies=ready)
    async def heatmap(request: Request, montage_id: str, caller: Caller) -> Response:
        given = Parameters(request.query_params, ("metric", "roi"))
        metric = given.choice("metric", METRICS, "focus_score") or ""
        roi = given.optional_whole("roi", 0, _LARGEST)
        await known_montage(montage_id, caller)
        async with _asking(store) as connection:
            regions = await maps.heatmap(connection, montage_id, metric, roi)
        return _json({"metric": metric, "unit": METRICS[metric].unit, "regions": regions})

    @router.get("/heatmap", dependencies=ready)
    async def stage_map(request: Request, caller: Caller) -> Response:
        given = Parameters(request.query_params, (*_SCOPE, "metric", "bins"))
        metric = given.choice("metric", METRICS, "focus_score") or ""
        bins = given.optional_whole("bins", 1, maps.MOST_BINS)
        async with _asking(store) as connection:
            found = await maps.stage_map(connection, _scope(given), metric, bins, caller)
        return _json({"metric": metric, "unit": METRICS[metric].unit, **found})

    @router.get("/worst", dependencies=ready)
    async def worst(request: Request, caller: Caller) -> Response:
        given = Parameters(request.query_params, (*_SCOPE, "by", "n"))
        directed = [name for name, one in METRICS.items() if one.better]
        by = given.choice("by", directed, "severity") or ""
        count = given.whole("n", 20, 1, _MOST_WORST)
        async with _asking(store) as connection:
            found = await queries.worst(connection, _scope(given), by, count, caller)
        return _json({"by": by, "unit": METRICS[by].unit, "tiles": found})

    @router.get("/statistics", dependencies=ready)
    async def statistics(request: Request, caller: Caller) -> Response:
        given = Parameters(request.query_params, (*_SCOPE, "metric"))
        metric = given.choice("metric", METRICS, "focus_score") or ""
        async with _asking(store) as connection:
            return _json(await queries.statistics(connection, _scope(given), metric, caller))

    @router.get("/index", dependencies=[Security(check_scopes, scopes=["metrics"]), *ready])
    async def state() -> dict[str, Any]:
        async with _asking(store) as connection:
            return {**indexer.state(), "runs": await queries.count_runs(connection)}

    @router.post(
        "/index", dependencies=[Security(check_scopes, scopes=["metrics", "write:metadata"]), *ready]
    )
    async def reindex() -> dict[str, Any]:
        indexer.reindex()
        return await state()

    return router


@asynccontextmanager
async def _asking(store: IndexStore) -> AsyncIterator[AsyncConnection]:
    """Open a connection; a database that is away is told as such."""
    try:
        async with store.reading() as connection:
            yield connection
    except (DBAPIError, OSError) as error:
        _log.warning(
            "a query was not answered: %s", str(getattr(error, "orig", None) or error).split("\n")[0]
        )
        raise HTTPException(
            503, "the index's database does not answer; try again in a moment", headers=_AGAIN
        ) from error


def _json(content: Any) -> Response:
    """Return an answer as JSON, without the checks of each value that FastAPI would make."""
    return Response(orjson.dumps(content), media_type="application/json")


def _both_ways() -> list[str]:
    return [sign + name for name in queries.SORTED for sign in ("", "-")]


def _scope(given: Parameters) -> queries.Scope:
    for name in _OF_MONTAGES:
        given.only_one("montage", name)
    return queries.Scope(given.text("montage"), given.texts(_OF_MONTAGES))


async def _arrow(indexer: Indexer, montage_id: str, best: bool) -> AsyncIterator[bytes]:
    """Yield the tiles of a montage as an Arrow IPC stream, some at a time."""
    schema = arrow_schema(tiles)
    sink = _Sink()
    writer = pa.ipc.new_stream(sink, schema)
    async with _asking(indexer.store) as connection:
        found = await connection.stream(queries.tile_rows(montage_id, best=best))
        async for rows in found.partitions(_BATCH):
            columns = zip(zip(*rows, strict=True), schema, strict=True)
            arrays = [pa.array(values, field.type) for values, field in columns]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
            yield sink.take()
    writer.close()
    yield sink.take()


def arrow_schema(table: Table) -> pa.Schema:
    """Return the columns of a table of the index as Arrow has them."""
    kinds = ((Boolean, pa.bool_()), (Integer, pa.int32()), (String, pa.string()))
    return pa.schema(
        [
            (column.name, next((made for kind, made in kinds if isinstance(column.type, kind)), pa.float64()))
            for column in table.c
        ]
    )


class _Sink:
    """A file whose content is taken out as it comes."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(self._parts[-1])

    def flush(self) -> None:
        """Do nothing: `take` empties it."""

    def take(self) -> bytes:
        taken, self._parts = b"".join(self._parts), []
        return taken
