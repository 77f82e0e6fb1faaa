"""MongoDB as a place that runs are written to, beside the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from devices.errors import ConfigurationError
from processing.callbacks._catalog_run import Outcome
from processing.callbacks.catalog import CatalogWriter
from tiled_server.mongo.addresses import INSTALL, checked_mongo, connected, shown_mongo

if TYPE_CHECKING:
    from pymongo.database import Database

    from tiled_server.mongo.writing import MongoRunWriter

LOCK: Final = "replay-mongo.lock"


class MongoStore:
    """Where a `CatalogWriter` finds a MongoDB.

    Parameters
    ----------
    uri
        Address of the database.

    Raises
    ------
    ConfigurationError
        It is none, or what it takes is not installed.
    """

    lock = LOCK

    def __init__(self, uri: str) -> None:
        self._uri = checked_mongo("mongo", uri)
        try:
            # takes long: now, and not in the thread that writes
            import tiled_server.mongo.writing  # noqa: F401
        except ModuleNotFoundError:
            raise ConfigurationError(INSTALL) from None

    def __str__(self) -> str:
        return shown_mongo(self._uri)

    def is_up(self) -> bool:
        """Return whether it answers."""
        from pymongo.errors import PyMongoError

        client = connected(self._uri).client
        try:
            client.admin.command("ping")
        except PyMongoError:
            return False
        finally:
            client.close()
        return True

    def connect(self) -> Database[dict[str, Any]]:
        """Return the database, with the indexes that searching takes."""
        from tiled_server.mongo.writing import make_indexes

        database = connected(self._uri)
        make_indexes(database)
        return database

    def disconnect(self, client: Database[dict[str, Any]]) -> None:
        """Close the connections."""
        client.client.close()

    def writer(self, client: Database[dict[str, Any]], batch_size: int) -> MongoRunWriter:
        """Return what writes the documents of one run."""
        from tiled_server.mongo.writing import MongoRunWriter

        return MongoRunWriter(client)

    def replay(self, client: Database[dict[str, Any]], path: Path) -> Outcome:
        """Write a journalled run that has its stop document."""
        from tiled_server.mongo.writing import replay_run

        return replay_run(client, path)

    def half_there(self, client: Database[dict[str, Any]], uid: str) -> bool:
        """Return whether a run is there, and has not ended there."""
        there = client["run_start"].find_one({"uid": uid}) is not None
        return there and client["run_stop"].find_one({"run_start": uid}) is None


def mongo_writer(uri: str, journal_dir: str | Path, **options: Any) -> CatalogWriter:
    """Return a writer of runs to MongoDB, in a thread of its own; options as of `CatalogWriter`.

    What it misses (no database, too much at once) it completes from the journal.
    """
    return CatalogWriter("", "", journal_dir, store=MongoStore(uri), **options)
