"""The runs of a MongoDB in the tree of the catalog: ``client["mongo"]``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import anyio
import cachetools
from databroker.mongo_normalized import MongoAdapter  # type: ignore[import-untyped]
from databroker.server import get_documents  # type: ignore[import-untyped]
from fastapi import APIRouter, HTTPException
from pymongo.errors import PyMongoError
from starlette.status import HTTP_503_SERVICE_UNAVAILABLE

from tiled_server.access.tags import tags_of
from tiled_server.mongo.addresses import ANSWER_TIMEOUT_S, connected
from tiled_server.mongo.handler import handlers
from tiled_server.mongo.queries import with_tags

if TYPE_CHECKING:
    from pymongo.database import Database

NAME: Final = "mongo"
"""Key of the tree."""
_RUNS_KEPT: Final = 100
_KEPT_S: Final = {True: 60.0, False: 2.0}
"""How long a run is kept in memory, s: one that has ended, one that goes on."""
_CHECK_S: Final = 5.0
"""How long an answer of the database is trusted, s."""


class RunTags:
    """Access tags of the runs, as the catalog gives them to its own: what databroker asks for."""

    catalog_access_tags: Final[frozenset[str]] = frozenset()

    @staticmethod
    def bluesky_run_access_tags_from_metadata(metadata: Mapping[str, Any]) -> frozenset[str]:
        """Return the tags of a run."""
        return tags_of(metadata)

    @staticmethod
    def query_impl(query: Any, runs: Any) -> Any:
        """Return only the runs that have one of some tags."""
        return runs.apply_mongo_query(with_tags(query.tags))


class MongoRuns(MongoAdapter):  # type: ignore[misc]  # the package is not typed
    """All runs of a database, as databroker serves them."""

    node = SimpleNamespace(parent=None, key=NAME)
    """A root, for the access policy: what is in it is shown by its tags."""

    @classmethod
    def of(cls, database: Database[dict[str, Any]], readable: Iterable[Path] | None) -> MongoRuns:
        """Return the runs of a database.

        Parameters
        ----------
        database
            The database.
        readable
            Folders whose files may be read; None for any.
        """
        kept: dict[bool, Any] = {
            ended: cachetools.TTLCache(_RUNS_KEPT, ttl_s) for ended, ttl_s in _KEPT_S.items()
        }
        return cls(
            metadatastore_db=database,
            asset_registry_db=database,
            handler_registry=handlers(readable),
            root_map={},
            transforms=None,
            cache_of_complete_bluesky_runs=kept[True],
            cache_of_partial_bluesky_runs=kept[False],
            authz_shim=RunTags,
        )


class _Mounted:
    """The runs, as long as their database answers: databroker asks it in the server's only thread."""

    def __init__(self, uri: str, readable: Iterable[Path]) -> None:
        self._database = connected(uri)
        self._runs = MongoRuns.of(self._database, tuple(readable))
        self._trusted_until_s = float("-inf")
        self._checking = anyio.Lock()

    async def look_up(self, segments: list[str]) -> Any:
        """Return what is at a path below.

        Raises
        ------
        fastapi.HTTPException
            503: the database does not answer.
        """
        async with self._checking:
            if time.monotonic() >= self._trusted_until_s:
                await self._check()
                self._trusted_until_s = time.monotonic() + _CHECK_S
        found: Any = self._runs
        for segment in segments:
            found = found[segment]
        return found

    async def _check(self) -> None:
        try:
            with anyio.fail_after(2 * ANSWER_TIMEOUT_S):
                await anyio.to_thread.run_sync(
                    lambda: self._database.client.admin.command("ping"), abandon_on_cancel=True
                )
        except (PyMongoError, TimeoutError):
            raise HTTPException(
                HTTP_503_SERVICE_UNAVAILABLE, "The MongoDB of this catalog does not answer; try again later."
            ) from None


def mount(catalog: Any, uri: str, readable: Iterable[Path]) -> APIRouter:
    """Serve the runs of a MongoDB in a catalog, by `NAME`; return the route of their documents.

    They are found by that name, and are not among the catalog's own runs when these are listed or searched.

    Parameters
    ----------
    catalog
        The adapter of the catalog's root; its class becomes one that knows the runs.
    uri
        Address of the database.
    readable
        Folders whose files may be served.
    """
    mounted = _Mounted(uri, readable)
    plain = type(catalog)

    class CatalogWithMongo(plain):  # type: ignore[misc, valid-type]  # Tiled is untyped
        """The catalog, and the runs of a MongoDB."""

        async def lookup_adapter(self, segments: list[str]) -> Any:
            """Return the node at a path below."""
            if segments and segments[0] == NAME and self.node.parent is None:
                return await mounted.look_up(segments[1:])
            return await super().lookup_adapter(segments)

    catalog.__class__ = CatalogWithMongo
    router = APIRouter()
    # databroker's own would let documents be written, too
    router.add_api_route("/documents/{path:path}", get_documents, methods=["GET"], response_model=None)
    return router
