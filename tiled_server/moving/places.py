"""Where runs are copied from and to: a Tiled catalog behind its server, in its databases, or a MongoDB."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from devices.errors import ConfigurationError, DeviceLost
from processing.callbacks._catalog_run import Outcome, connect, disconnect, is_up
from processing.callbacks._catalog_run import write_run as write_tiled
from processing.callbacks._documents import Document
from processing.frame_list import MIMETYPE as FRAME_LIST
from tiled_server.access.tags import tags_of
from tiled_server.configuration import CatalogServer
from tiled_server.databases import check_reachable, checked_uri, has_catalog, shown
from tiled_server.mongo.addresses import check_mongo, checked_mongo, connected, is_mongo, shown_mongo
from tiled_server.moving.content import Frame, RunContent, content_of, path_of
from tiled_server.moving.exported import (
    as_container,
    asset_addresses,
    exported_documents,
    frame_reader,
    stream_parameters,
)
from tiled_server.moving.opening import opened
from tiled_server.sockets import lock_state

if TYPE_CHECKING:
    from pymongo.database import Database

_EVERYWHERE: Final = (Path("/"),)
"""A catalog that this process opens for itself may read what the user may."""
_KEY: Final = secrets.token_hex(32)
"""Of the catalogs that this process opens: Tiled 0.2.20 has one key for all of a process."""
_OWN_SPECS: Final = ("BlueskyRun",)


class Place(Protocol):
    """A place that has runs."""

    name: str

    def uids(self) -> list[str]:
        """Return the runs that have ended, oldest first."""

    def unended(self) -> int:
        """Return how many runs have not ended."""

    def begun(self, uid: str) -> bool:
        """Return whether a run is there, ended or not."""

    def documents(self, uid: str) -> list[Document]:
        """Return the documents of a run."""

    def content(self, uid: str) -> RunContent:
        """Return what a run has, to be compared; frames are read when they are asked for."""

    def write(self, documents: list[Document]) -> Outcome:
        """Write a run that is not there, or in part."""


class TiledPlace:
    """A Tiled catalog.

    Parameters
    ----------
    client
        Its client.
    name
        What messages call it.
    """

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._last: tuple[str, Any] = ("", None)
        self.name = name

    def uids(self) -> list[str]:
        """Return the runs that have ended, oldest first."""
        return [uid for uid, ended in self._runs() if ended]

    def unended(self) -> int:
        """Return how many runs have not ended."""
        return sum(not ended for _, ended in self._runs())

    def begun(self, uid: str) -> bool:
        """Return whether a run is there, ended or not."""
        return uid in as_container(self._client)

    def _runs(self) -> Iterator[tuple[str, bool]]:
        for key, node in as_container(self._client).items():
            if "start" in node.metadata:
                yield key, bool(node.metadata.get("stop"))

    def documents(self, uid: str) -> list[Document]:
        """Return the documents of a run, as the server gives them back."""
        self._last = uid, self._read(uid)
        return self._last[1][0]  # type: ignore[no-any-return]

    def content(self, uid: str) -> RunContent:
        """Return what a run has."""
        last, self._last = self._last, ("", None)  # what was copied just now is not asked for again
        documents, arrays = last[1] if last[0] == uid else self._read(uid)
        return content_of(
            documents, lambda resource, data_key: frame_reader(arrays[resource["uid"]], data_key["shape"])
        )

    def _read(self, uid: str) -> tuple[list[Document], dict[str, Any]]:
        """Return the documents of a run, and the arrays of its stream resources."""
        node = as_container(as_container(self._client)[uid])
        streams = {name: dict(as_container(one).items()) for name, one in node.items()}
        found = exported_documents(node)
        found[0] = ("start", {**found[0][1], **_said_of_node(node, found[0][1])})
        names: dict[str, str] = {}
        arrays: dict[str, Any] = {}
        for name, doc in found:
            if name == "descriptor":
                names[doc["uid"]] = doc["name"]
            elif name == "stream_datum":
                resource = next(
                    one
                    for kind, one in found
                    if kind == "stream_resource" and one["uid"] == doc["stream_resource"]
                )
                array = streams[names[doc["descriptor"]]][resource["data_key"]]
                resource["parameters"] = stream_parameters(resource, array)
                if resource["mimetype"] == FRAME_LIST:
                    resource["uri"] = asset_addresses(array)[0]
                arrays[resource["uid"]] = array
        return found, arrays

    def write(self, documents: list[Document]) -> Outcome:
        """Write a run that is not there, or in part."""
        return write_tiled(self._client, documents)


class MongoPlace:
    """A MongoDB.

    Parameters
    ----------
    database
        The database.
    name
        What messages call it.
    """

    def __init__(self, database: Database[dict[str, Any]], name: str) -> None:
        self._database = database
        self.name = name

    def uids(self) -> list[str]:
        """Return the runs that have ended, oldest first."""
        from tiled_server.mongo.reading import run_uids

        return run_uids(self._database)

    def unended(self) -> int:
        """Return how many runs have not ended."""
        return self._database["run_start"].count_documents({}) - len(self.uids())

    def begun(self, uid: str) -> bool:
        """Return whether a run is there, ended or not."""
        return self._database["run_start"].find_one({"uid": uid}) is not None

    def documents(self, uid: str) -> list[Document]:
        """Return the documents of a run."""
        from tiled_server.mongo.reading import run_documents

        return list(run_documents(self._database, uid))

    def content(self, uid: str) -> RunContent:
        """Return what a run has; frames are read from their files."""
        from tiled_server.mongo.files import read_rows

        def reader(resource: Mapping[str, Any], data_key: Mapping[str, Any]) -> Callable[[int], Frame]:
            about = {**resource, "shape": data_key["shape"]}
            return lambda index: read_rows(about, path_of(resource), index, index + 1)

        return content_of(self.documents(uid), reader)

    def write(self, documents: list[Document]) -> Outcome:
        """Write a run that is not there, or in part."""
        from tiled_server.mongo.writing import write_run

        return write_run(self._database, documents)


@contextmanager
def place(option: str, address: str, state_dir: Path, *, new: bool, api_key: str = "") -> Iterator[Place]:
    """Yield a place by its address.

    Parameters
    ----------
    option
        What the address was given as, for messages.
    address
        ``http://HOST:PORT``: a server; ``mongodb://...``; ``postgresql://...``: the databases of a catalog
        without its server; anything else: a state directory with a catalog in SQLite, whose server is down.
    state_dir
        State directory that a catalog in PostgreSQL keeps its internal arrays in.
    new
        Whether a catalog may be made where there is none.
    api_key
        What opens a server; empty: that of the variable TILED_API_KEY.

    Raises
    ------
    ConfigurationError
        There is no such place, or a server runs on it.
    DeviceLost
        It does not answer.
    """
    if is_mongo(address):
        with _mongo(option, address, new) as found:
            yield found
    elif address.startswith(("http://", "https://")):
        client = _client(option, address, api_key)
        try:
            yield TiledPlace(client, address.partition("?")[0])
        finally:
            disconnect(client)
    else:
        server = _server(option, address, state_dir, new)
        with lock_state(server.run_folder), opened(server) as client:
            where = server.state_dir if server.database_uri is None else shown(server.database_uri)
            yield TiledPlace(client, str(where))


@contextmanager
def _mongo(option: str, address: str, new: bool) -> Iterator[MongoPlace]:
    address = checked_mongo(option, address)
    check_mongo(option, address)
    database = connected(address)
    try:
        if new:
            from tiled_server.mongo.writing import make_indexes

            make_indexes(database)
        yield MongoPlace(database, shown_mongo(address))
    finally:
        database.client.close()


def _client(option: str, address: str, api_key: str) -> Any:
    shown_address = address.partition("?")[0]
    remedy = "see that the server is up and that TILED_API_KEY opens it"
    if not is_up(address):
        raise DeviceLost(f"{option} {shown_address}: no answer; {remedy}")
    try:
        return connect(address, api_key or os.environ.get("TILED_API_KEY", ""))
    except Exception as error:  # clients raise anything
        why = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise DeviceLost(f"{option} {shown_address}: {why}; {remedy}") from error


def _server(option: str, address: str, state_dir: Path, new: bool) -> CatalogServer:
    if address.startswith("postgres"):
        uri = checked_uri(option, address)
        check_reachable(option, uri)
        if not new and not has_catalog(uri):
            raise ConfigurationError(f"{option} {shown(uri)} has no catalog; name the database of one")
        server = CatalogServer(state_dir.resolve(), _EVERYWHERE, _KEY, uri, uri)
    else:
        server = CatalogServer(Path(address).resolve(), _EVERYWHERE, _KEY)
        if not new and not (server.folder / "catalog.db").is_file():
            raise ConfigurationError(
                f"{option} {address} is no state directory with a catalog; give one, or the address of a "
                f"server (http://...), postgresql://... or mongodb://..."
            )
    server.run_folder.mkdir(parents=True, exist_ok=True)
    return server


def _said_of_node(node: Any, start: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a start document said that is kept with the node: specs and access tags of its own."""
    found: dict[str, Any] = {}
    specs = [{"name": spec.name, "version": spec.version} for spec in node.specs]
    if own := [spec for spec in specs if spec["name"] not in _OWN_SPECS]:
        found["tiled_specs"] = own
    tags = frozenset(node.item["attributes"].get("access_tags") or ())
    if tags and tags != tags_of({"start": start}):
        found["tiled_access_tags"] = sorted(tags)
    return found
