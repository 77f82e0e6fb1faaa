"""Run Tiled on a socket that is bound already. Importing this takes seconds."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import uvicorn
from sqlalchemy.ext.asyncio import create_async_engine
from tiled.alembic_utils import stamp_head
from tiled.catalog.alembic_constants import ALEMBIC_DIR, ALEMBIC_INI_TEMPLATE_PATH
from tiled.catalog.core import initialize_database
from tiled.config import Config
from tiled.server.app import build_app_from_config
from tiled.utils import ensure_specified_sql_driver

from tiled_server.configuration import CatalogServer

_SHUTDOWN_TIMEOUT_S = 3


def serve(server: CatalogServer, bound: socket.socket) -> None:
    """Serve until a signal ends the process.

    Parameters
    ----------
    server
        What to serve.
    bound
        A bound socket that does not listen yet: clients are refused, not kept waiting, until all is ready.
    """
    if server.sqlite_path is not None and not server.sqlite_path.exists():
        _make_database(server.sqlite_path)
    app = build_app_from_config(Config.model_validate(server.tiled_config()))
    settings = uvicorn.Config(
        app, access_log=False, log_level="warning", timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT_S, ws="none"
    )
    uvicorn.Server(settings).run(sockets=[bound])


def _make_database(path: Path) -> None:
    """Make the catalog's tables in a new SQLite file; a half-made file never gets the final name."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    uri = ensure_specified_sql_driver(f"sqlite:///{fresh}")

    async def make() -> None:
        engine = create_async_engine(uri)
        try:
            await initialize_database(engine)
        finally:
            await engine.dispose()

    asyncio.run(make())
    stamp_head(ALEMBIC_INI_TEMPLATE_PATH, ALEMBIC_DIR, uri)
    fresh.rename(path)
