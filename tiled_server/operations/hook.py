"""What operations add to the server's application: routes of marks and figures, and what counts requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry
from tiled.server.metrics import monitor_db_pool

from tiled_server.configuration import CatalogServer
from tiled_server.index.indexer import Indexer
from tiled_server.index.watch import Application
from tiled_server.operations import marks_router, metrics
from tiled_server.operations.marks import Marks
from tiled_server.operations.stores import Stores

MARKS_FILE: Final = "marks.db"


class Operations:
    """Marks and figures of one server.

    Parameters
    ----------
    server
        What is served.
    indexer
        Keeps its index.
    """

    def __init__(self, server: CatalogServer, indexer: Indexer) -> None:
        self._marks = Marks(server.database_uri or server.folder / MARKS_FILE)
        self._registry = CollectorRegistry()
        stores = Stores(server.state_dir, server.database_uri, server.table_uri)
        figures = metrics.CatalogFigures(indexer, _folders(server), stores.sqlite_files)
        self._registry.register(figures)
        monitor_db_pool(indexer.store.pool, "index")
        self.routers = [
            marks_router.make_router(self._marks, indexer.store),
            metrics.make_router(figures, self._registry),
        ]

    def measured(self, application: Application) -> Application:
        """Return the application, its requests counted."""
        return metrics.Measured(application, self._registry)

    async def close(self) -> None:
        """Close the connections of the marks."""
        await self._marks.close()


def _folders(server: CatalogServer) -> dict[str, Path]:
    found: dict[str, Any] = {"state": server.state_dir}
    return found | {f"data {number}": folder for number, folder in enumerate(server.readable)}
