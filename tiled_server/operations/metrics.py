"""Figures of the catalog's server for a monitoring system: ``GET /custom/metrics``, Prometheus text.

Labels are of bounded number: routes as they are declared, methods and codes of HTTP, folders and files of
the configuration. What Tiled itself counts (requests by kind, pools of databases) and the process's own
figures are in the same answer.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, Security
from fastapi.responses import Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from tiled.server.authentication import check_scopes

from tiled_server.index.indexer import Indexer
from tiled_server.index.schema import montages, runs, tiles
from tiled_server.index.watch import Application, Message, Receive, Scope, Send

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_UNKNOWN: Final = "none"
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_COUNTED_FOR_S: Final = 30.0


class Measured:
    """An application whose requests are counted and timed, by route.

    Parameters
    ----------
    application
        The ASGI application.
    registry
        Where the figures are kept.
    """

    def __init__(self, application: Application, registry: CollectorRegistry) -> None:
        self._application = application
        labels = ("method", "route", "code")
        self._seconds = Histogram(
            "montango_request_seconds",
            "time from a request to the end of its answer",
            labels,
            buckets=_BUCKETS,
            registry=registry,
        )
        self._bytes = Counter(
            "montango_response_bytes", "bytes of the bodies of answers", labels, registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or the life of the application."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        began, code, sent_bytes = time.perf_counter(), "500", 0

        async def sent(message: Message) -> None:
            nonlocal code, sent_bytes
            if message["type"] == "http.response.start":
                code = str(message["status"])
            elif message["type"] == "http.response.body":
                sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._application(scope, receive, sent)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else _UNKNOWN
            labels = (method, route_of(scope), code)
            self._seconds.labels(*labels).observe(time.perf_counter() - began)
            self._bytes.labels(*labels).inc(sent_bytes)


def route_of(scope: Mapping[str, Any]) -> str:
    """Return the route that a request took, as it is declared; never its address."""
    route = scope.get("route")
    path = getattr(route, "path_format", None) or getattr(route, "path", None)
    return str(path) if path else _UNKNOWN


class CatalogFigures(Collector):
    """What the index, the disks and the databases' files are like at the moment.

    Parameters
    ----------
    indexer
        Keeps the index.
    folders
        Folders whose disks are looked at, by their names.
    files
        Gives the SQLite files of the catalog.
    """

    def __init__(
        self, indexer: Indexer, folders: Mapping[str, Path], files: Callable[[], Sequence[Path]]
    ) -> None:
        self._indexer, self._folders, self._files = indexer, folders, files
        self._counts: dict[str, int] = {}
        self._counted_at = float("-inf")

    async def count(self) -> None:
        """Count the rows of the index, at most every half minute."""
        store = self._indexer.store
        if time.monotonic() - self._counted_at < _COUNTED_FOR_S or not store.ready:
            return
        self._counted_at = time.monotonic()
        async with store.reading() as connection:
            for table in (runs, montages, tiles):
                self._counts[table.name] = int(
                    await connection.scalar(select(func.count()).select_from(table)) or 0
                )

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the figures."""
        state = self._indexer.state()
        for name, text, value in (
            ("ready", "1: the index answers", state["ready"]),
            ("complete", "1: it has all that the catalog had when it was compared last", state["complete"]),
            ("runs_waiting", "runs that changed and are to be read", state["waiting"]),
            ("runs_failed", "runs that cannot be read", len(state["failed"])),
            ("lag_seconds", "how long the run that waits longest is due", self._indexer.overdue_s),
        ):
            yield GaugeMetricFamily(f"montango_index_{name}", text, value=float(value))
        rows = GaugeMetricFamily("montango_index_rows", "rows of the index, by table", labels=["table"])
        for table, count in self._counts.items():
            rows.add_metric([table], float(count))
        yield rows
        yield from self._disks()

    def _disks(self) -> Iterator[GaugeMetricFamily]:
        free = GaugeMetricFamily(
            "montango_disk_free_bytes", "free on the disk of a folder", labels=["folder"]
        )
        size = GaugeMetricFamily(
            "montango_disk_size_bytes", "size of the disk of a folder", labels=["folder"]
        )
        for name, folder in self._folders.items():
            try:
                usage = shutil.disk_usage(folder)
            except OSError:
                continue  # a folder that is away has no figure
            free.add_metric([name], float(usage.free))
            size.add_metric([name], float(usage.total))
        yield free
        yield size
        stored = GaugeMetricFamily("montango_database_bytes", "size of an SQLite file", labels=["file"])
        for path in self._files():
            try:
                stored.add_metric([path.name], float(path.stat().st_size))
            except OSError:
                continue
        yield stored


def make_router(figures: CatalogFigures, registry: CollectorRegistry) -> APIRouter:
    """Return the route of all figures: these, those of Tiled, and those of the process."""
    router = APIRouter(tags=["metrics"])

    @router.get("/metrics", dependencies=[Security(check_scopes, scopes=["metrics"])])
    async def metrics() -> Response:
        await figures.count()
        text = generate_latest(registry) + generate_latest(REGISTRY)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return router
