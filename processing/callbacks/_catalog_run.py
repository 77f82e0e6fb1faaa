"""One run into a Tiled catalog, from live documents or from the journal."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

import httpx

from processing.callbacks._documents import Document
from processing.callbacks.journal import read_journal

BATCH_SIZE: Final = 20
_REPLAY_BATCH: Final = 10_000  # a replayed run is written in one go
REPLAY_LOCK: Final = "replay.lock"
_HEALTH_TIMEOUT_S: Final = 2.0

Outcome = Literal["added", "completed", "present"]


def is_up(uri: str) -> bool:
    """Return whether a Tiled server answers."""
    parts = urlsplit(uri)
    try:
        return httpx.get(f"{parts.scheme}://{parts.netloc}/healthz", timeout=_HEALTH_TIMEOUT_S).is_success
    except httpx.HTTPError:
        return False


def connect(uri: str, api_key: str) -> Any:
    """Return a Tiled client."""
    from tiled.client import from_context  # takes seconds to import
    from tiled.client.context import Context

    context, path = Context.from_any_uri(uri, api_key=api_key)
    try:
        return from_context(context, node_path_parts=path)
    except BaseException:
        context.close()
        raise


def disconnect(client: Any) -> None:
    """Close the connections of a Tiled client."""
    if client is not None:
        client.context.close()


class RunWriter:
    """Write the documents of one run. Stream datums of a resource are joined until `flush`.

    A frame file has a stream resource for each of its columns: written one by one, they would be 19 requests
    a tile. TiledWriter joins too, but holds the first datum of a resource however long it is.
    """

    def __init__(self, client: Any, batch_size: int = BATCH_SIZE) -> None:
        from processing.callbacks import _frame_list_array, _zarr_array
        from processing.callbacks._careful_writer import CarefulWriter

        _zarr_array.register()
        _frame_list_array.register()

        # SQLite has no arrays: those of events (image shift, beam tilt, ...) go to Zarr whatever their size
        self._write = CarefulWriter(client, batch_size=batch_size, max_array_size=0)
        self._held: dict[str, dict[str, Any]] = {}

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document."""
        if name == "stream_datum":
            held = self._held.get(doc["stream_resource"])
            if held is not None and held["indices"]["stop"] != doc["indices"]["start"]:
                self.flush()
                held = None
            self._held[doc["stream_resource"]] = doc if held is None else _joined(held, doc)
            return
        if name == "stop":
            self.flush()
        self._write(name, doc)

    def flush(self) -> None:
        """Hand on what is held."""
        held, self._held = self._held, {}
        for doc in held.values():
            # two halves: what TiledWriter holds of the first goes out with the second if they fill a batch
            for half in _halves(doc):
                self._write("stream_datum", half)


def _joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    spans = {
        key: {"start": first[key]["start"], "stop": second[key]["stop"]} for key in ("indices", "seq_nums")
    }
    return {**second, **spans}


def _halves(doc: dict[str, Any]) -> list[dict[str, Any]]:
    length = doc["indices"]["stop"] - doc["indices"]["start"]
    if length < 2:
        return [doc]
    middle = length // 2
    return [
        {
            **doc,
            **{
                key: {"start": doc[key]["start"] + first, "stop": doc[key]["start"] + last}
                for key in ("indices", "seq_nums")
            },
        }
        for first, last in ((0, middle), (middle, length))
    ]


def write_run(client: Any, documents: Sequence[Document]) -> Outcome:
    """Write a whole run; one that is there in part is removed first, its files of data are left alone.

    Returns
    -------
    str
        ``"present"``: the run was there, stop document and all; ``"completed"``: part of it was;
        ``"added"``: nothing was.
    """
    uid = documents[0][1]["uid"]
    outcome: Outcome = "added"
    node = client.get(uid)
    if node is not None:
        # the writer adds the stop document after everything else
        if node.metadata.get("stop") is not None:
            return "present"
        # events that Tiled keeps itself go too; files that it only points to are never touched by it
        node.delete(recursive=True, external_only=False)
        outcome = "completed"
    writer = RunWriter(client, _REPLAY_BATCH)
    for name, doc in documents:
        writer(name, doc)
    return outcome


def replay_run(client: Any, path: Path) -> Outcome:
    """Write a journalled run that has its stop document."""
    return write_run(client, list(read_journal(path)))


class RunSink(Protocol):
    """What takes the documents of one run, and writes what it holds when told."""

    def __call__(self, name: str, doc: dict[str, Any]) -> object:
        """Take a document."""

    def flush(self) -> None:
        """Write what is held."""


class RunStore(Protocol):
    """A place that runs are written to. Its clients are its own matter."""

    lock: str
    """File of the journal's folder that is locked while runs are completed there."""

    def is_up(self) -> bool:
        """Return whether it answers."""

    def connect(self) -> Any:
        """Return a client."""

    def disconnect(self, client: Any) -> None:
        """Close the connections of a client."""

    def writer(self, client: Any, batch_size: int) -> RunSink:
        """Return what writes the documents of one run."""

    def replay(self, client: Any, path: Path) -> Outcome:
        """Write a journalled run that has its stop document."""

    def half_there(self, client: Any, uid: str) -> bool:
        """Return whether a run is there, and has not ended there."""


class TiledStore:
    """A Tiled catalog, as a place that runs are written to."""

    lock = REPLAY_LOCK

    def __init__(self, uri: str, api_key: str) -> None:
        # Takes seconds: now, not while the first tiles come; and in this thread, not in the queue's: imports
        # fail in one thread while another takes an entry from sys.path, as IPython does.
        import bluesky_tiled_plugins  # noqa: F401

        self._uri, self._api_key = uri, api_key

    def __str__(self) -> str:
        return self._uri

    def is_up(self) -> bool:
        """Return whether it answers."""
        return is_up(self._uri)

    def connect(self) -> Any:
        """Return a client."""
        return connect(self._uri, self._api_key)

    def disconnect(self, client: Any) -> None:
        """Close the connections of a client."""
        disconnect(client)

    def writer(self, client: Any, batch_size: int) -> RunWriter:
        """Return what writes the documents of one run."""
        return RunWriter(client, batch_size)

    def replay(self, client: Any, path: Path) -> Outcome:
        """Write a journalled run that has its stop document."""
        return replay_run(client, path)

    def half_there(self, client: Any, uid: str) -> bool:
        """Return whether a run is there, and has not ended there."""
        node = client.get(uid)
        return node is not None and node.metadata.get("stop") is None


@contextmanager
def replay_lock(journal_dir: Path, name: str = REPLAY_LOCK) -> Iterator[bool]:
    """Hold the lock of replays of a journal; yields False if another process replays it now."""
    journal_dir.mkdir(parents=True, exist_ok=True)
    with (journal_dir / name).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
