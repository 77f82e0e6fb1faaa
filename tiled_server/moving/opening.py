"""A catalog opened by this process alone, for commands that move or check it."""

from __future__ import annotations

import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import uvicorn

from devices.errors import DeviceLost
from processing.callbacks._catalog_run import connect, disconnect
from tiled_server.configuration import CatalogServer
from tiled_server.databases import make_catalog, make_sqlite, shown
from tiled_server.sockets import HOST

_START_TIMEOUT_S: Final = 120.0
_POLL_S: Final = 0.02


@contextmanager
def opened(server: CatalogServer, application: Any = None) -> Iterator[Any]:
    """Yield a Tiled client of a catalog, served by a thread on a loopback port of its own while it is used.

    No server may run on the same SQLite files: see `tiled_server.sockets.lock_state`.

    Parameters
    ----------
    server
        Where its databases are, and which folders of files may be read.
    application
        What answers; default: Tiled alone, without index, exports and people.

    Raises
    ------
    ConfigurationError
        The tables cannot be made, or are of another version of Tiled.
    DeviceLost
        It does not start.
    """
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        settings = uvicorn.Config(
            application or _application(server),
            access_log=False,
            log_level="warning",
            ws="none",
            timeout_graceful_shutdown=3,
        )
        running = uvicorn.Server(settings)
        thread = threading.Thread(target=running.run, args=([bound],), name="catalog", daemon=True)
        thread.start()
        try:
            deadline = time.monotonic() + _START_TIMEOUT_S
            while not running.started:
                if not thread.is_alive() or time.monotonic() > deadline:
                    raise DeviceLost(f"the catalog of {server.state_dir} does not open; see the log above")
                time.sleep(_POLL_S)
            client = connect(f"http://{HOST}:{bound.getsockname()[1]}", server.api_key)
            try:
                yield client
            finally:
                disconnect(client)
        finally:
            running.should_exit = True
            thread.join()


def _application(server: CatalogServer) -> Any:
    from tiled.config import Config
    from tiled.server.app import build_app_from_config

    (server.folder / "arrays").mkdir(parents=True, exist_ok=True)
    if server.database_uri is not None:
        make_catalog(server.database_uri, where=shown(server.database_uri))
    elif server.sqlite_path is not None and not server.sqlite_path.exists():
        make_sqlite(server.sqlite_path)
    with warnings.catch_warnings():
        # Tiled 0.2.20 copies its settings, and warns of adapters that it has loaded itself
        warnings.filterwarnings("ignore", "Pydantic serializer warnings", UserWarning)
        return build_app_from_config(Config.model_validate(server.tiled_config()))
