"""Run Tiled on a socket that is bound already. Importing this takes seconds."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn
from tiled.config import Config
from tiled.server.app import build_app_from_config
from tiled.server.authentication import get_current_scopes

from tiled_server.access.accounts import Accounts, lab_secret, prepare
from tiled_server.access.file_ids import FileIds
from tiled_server.access.file_lookup import Assets, Readable
from tiled_server.access.files import make_router as file_router
from tiled_server.access.guard import Guarded
from tiled_server.access.keys import Keys, overrides
from tiled_server.access.notes import Notes
from tiled_server.access.notes_router import make_router as note_router
from tiled_server.access.people import People
from tiled_server.access.scopes import scopes_by
from tiled_server.access.source import AccessSource
from tiled_server.access.tags import TagTable
from tiled_server.configuration import CatalogServer
from tiled_server.databases import make_catalog, make_sqlite, shown, write_ahead
from tiled_server.exports.jobs import Jobs
from tiled_server.exports.router import make_router as export_router
from tiled_server.index.indexer import Indexer
from tiled_server.index.reading import CatalogReader
from tiled_server.index.router import make_router
from tiled_server.index.store import IndexStore
from tiled_server.index.watch import Watched
from tiled_server.operations.hook import Operations

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
    elif server.sqlite_path is not None:
        write_ahead(server.sqlite_path)  # one that was made before it was
    if server.access is not None and server.accounts_uri is not None:
        secret = lab_secret(server.api_key)
        private = [server.accounts_path] if server.access.authentication.database is None else []
        prepare(server.accounts_uri, server.access.rules.file, secret, private=private)
    settings = uvicorn.Config(
        make_application(server),
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT_S,
        ws="none",
    )
    uvicorn.Server(settings).run(sockets=[bound])


def make_application(server: CatalogServer) -> Any:
    """Return the ASGI application: Tiled with the routes of index, exports, notes and files."""
    config = Config.model_validate(server.tiled_config())
    # Tiled 0.2.20 has the routes of webhooks without being asked to
    config.webhooks = None
    catalog = config.merged_trees
    store = IndexStore(server.database_uri or server.folder / "index.db")
    indexer = Indexer(CatalogReader(catalog), store)
    notes = Notes(server.database_uri or server.folder / "notes.db")
    operations = Operations(server, indexer)
    own = [
        *operations.routers,
        make_router(indexer, notes.montages_with),
        export_router(lambda: Jobs(server.state_dir / "exports", server.readable)),
        note_router(notes, store),
        file_router(Assets(catalog), Readable(server.readable), FileIds(server.secret), store),
    ]
    if server.mongo_uri is not None:
        from tiled_server.mongo.tree import mount  # an extra: it need not be installed

        own.append(mount(catalog, server.mongo_uri, server.readable))
    catalog.include_routers = [*getattr(catalog, "include_routers", []), *own]
    application = build_app_from_config(config)
    watched = operations.measured(Watched(application, indexer))

    async def close() -> None:
        await notes.close()
        await operations.close()

    if server.access is None or server.accounts_uri is None:
        return Guarded(watched, stop=close)
    keys = Keys()
    application.dependency_overrides |= overrides(keys)
    application.dependency_overrides[get_current_scopes] = scopes_by(server.access, keys)
    people = _KeptUp(server.access, server.accounts_uri, TagTable(catalog.context.engine))

    async def stop() -> None:
        await people.stop()
        await close()

    return Guarded(watched, start=people.start, stop=stop)


class _KeptUp:
    """Accounts and tags, as the file of people is."""

    def __init__(self, source: AccessSource, accounts_uri: str, tags: TagTable) -> None:
        self._source, self._tags = source, tags
        self._accounts = Accounts(accounts_uri)

    async def start(self) -> None:
        await self._tags.ensure(self._source.rules.all_tags())
        await self._source.start(self._take)

    async def stop(self) -> None:
        await self._source.stop()
        await self._accounts.close()

    async def _take(self, people: People) -> None:
        await self._tags.ensure(self._source.rules.all_tags())
        await self._accounts.take(people)
