"""Run Tiled on a socket that is bound already. Importing this takes seconds."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn
from tiled.config import Config
from tiled.server.app import build_app_from_config

from tiled_server.configuration import CatalogServer
from tiled_server.databases import make_catalog, make_sqlite, shown
from tiled_server.exports.jobs import Jobs
from tiled_server.exports.router import make_router as export_router
from tiled_server.index.indexer import Indexer
from tiled_server.index.reading import CatalogReader
from tiled_server.index.router import make_router
from tiled_server.index.store import IndexStore
from tiled_server.index.watch import Watched

_SHUTDOWN_TIMEOUT_S = 3


def serve(server: CatalogServer, bound: socket.socket) -> None:
    """Serve until a signal ends the process.

    Parameters
    ----------
    server
        What to serve.
    bound
        A bound socket that does not listen yet: clients are refused, not kept waiting, until all is ready.

    Raises
    ------
    ConfigurationError
        The catalog's tables cannot be made, or are of another version.
    """
    if server.database_uri is not None:
        make_catalog(server.database_uri, where=shown(server.database_uri))
    elif server.sqlite_path is not None and not server.sqlite_path.exists():
        make_sqlite(server.sqlite_path)
    settings = uvicorn.Config(
        make_application(server),
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT_S,
        ws="none",
    )
    uvicorn.Server(settings).run(sockets=[bound])


def make_application(server: CatalogServer) -> Any:
    """Return the ASGI application: Tiled with the routes of the index, watched by the index."""
    config = Config.model_validate(server.tiled_config())
    catalog = config.merged_trees
    store = IndexStore(server.database_uri or server.folder / "index.db")
    indexer = Indexer(CatalogReader(catalog), store)
    exports = export_router(lambda: Jobs(server.state_dir / "exports", server.readable))
    catalog.include_routers = [*getattr(catalog, "include_routers", []), make_router(indexer), exports]
    return Watched(build_app_from_config(config), indexer)
