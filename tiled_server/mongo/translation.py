"""Documents as MongoDB has them: references to frames as resources and datums, an event for each of them.

What databroker keeps in MongoDB knows no stream resources and stream datums; suitcase-mongo drops them and
says nothing. Here a stream resource becomes a resource, with all that it said kept in its arguments, and each
frame a datum in an event of its own. Numbers that are recorded of each frame (one a frame, in a dataset) are
put into the events themselves, where they can be searched for; where their file cannot be read, they are
datums as well.
"""

from __future__ import annotations

import copy
import logging
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from processing.callbacks._documents import Document
from tiled_server.mongo.files import Rows, read_many, rows_of

SPEC: Final = "MONTANGO_STREAM"
"""Kind of a resource: what its handler is found by."""
EXTERNAL: Final = "FILESTORE:"
TIME: Final = "exposure_start_s"
"""Column that says when a frame was taken."""
ORIGINAL: Final = "stream_external"
"""Key of a data key that says what it was in the stream's descriptor, where it was something else."""

_log = logging.getLogger(__name__)


@dataclass
class _Stream:
    """A descriptor, and what has come of its frames and events."""

    doc: dict[str, Any]
    external: tuple[str, ...]
    told: set[str] = field(default_factory=set)
    frames: dict[str, dict[int, tuple[str, int]]] = field(default_factory=dict)
    events: dict[int, dict[str, Any]] = field(default_factory=dict)
    inline: tuple[str, ...] = ()
    sent: bool = False

    @property
    def pure(self) -> bool:
        """Whether it has nothing but references: then nobody emits events of it."""
        return len(self.external) == len(self.doc["data_keys"])


class Translator:
    """Translates the documents of one run, in order.

    Calling it returns documents for MongoDB: ``start``, ``descriptor``, ``resource``, ``datum_page``,
    ``event_page`` and ``stop``. Events are held until `ready`, or the stop document: in one page for many.
    Uids are made from those of the documents: a run that is translated again has the same ones.
    """

    def __init__(self) -> None:
        self._run = ""
        self._streams: dict[str, _Stream] = {}
        self._resources: dict[str, dict[str, Any]] = {}

    def __call__(self, name: str, doc: Mapping[str, Any]) -> list[Document]:
        """Take a document, and return what it makes complete."""
        return list(self._translate(name, dict(doc)))

    def ready(self) -> list[Document]:
        """Return the events of which everything has come, and what they refer to."""
        return [one for stream in self._streams.values() for one in self._ready(stream)]

    @property
    def held(self) -> int:
        """How many events are held, at most."""
        streams = self._streams.values()
        events = max((len(stream.events) for stream in streams), default=0)
        frames = max((len(part) for stream in streams for part in stream.frames.values()), default=0)
        return max(events, frames)

    def _translate(self, name: str, doc: dict[str, Any]) -> Iterator[Document]:
        if name == "start":
            self._run = doc["uid"]
            yield name, doc
        elif name == "descriptor":
            external = tuple(key for key, value in doc["data_keys"].items() if value.get("external"))
            stream = self._streams[doc["uid"]] = _Stream(doc, external)
            if not external:
                yield from self._declare(stream)
        elif name == "stream_resource":
            self._resources[doc["uid"]] = doc
        elif name == "stream_datum":
            self._note(self._streams[doc["descriptor"]], doc)
        elif name in ("event", "event_page"):
            for event in [doc] if name == "event" else _unpacked(doc):
                stream = self._streams[event["descriptor"]]
                stream.events[event["seq_num"]] = event
        elif name == "stop":
            for stream in self._streams.values():
                yield from self._finish(stream)
            yield name, doc
        else:  # resources and datums of classic devices are what MongoDB has
            yield name, doc

    def _note(self, stream: _Stream, doc: dict[str, Any]) -> None:
        resource = self._resources[doc["stream_resource"]]
        frames = stream.frames.setdefault(resource["data_key"], {})
        indices, numbers = doc["indices"], doc["seq_nums"]
        for number, index in zip(
            range(numbers["start"], numbers["stop"]), range(indices["start"], indices["stop"]), strict=True
        ):
            frames[number] = (resource["uid"], index)

    def _ready(self, stream: _Stream) -> Iterator[Document]:
        """Return the events of which everything has come."""
        if not stream.external:
            numbers = sorted(stream.events)
        else:
            have = [set(stream.frames.get(key, ())) for key in stream.external]
            if not stream.pure:
                have.append(set(stream.events))
            numbers = sorted(set.intersection(*have))
        if numbers:
            yield from self._declare(stream)
            yield from self._page(stream, numbers)

    def _finish(self, stream: _Stream) -> Iterator[Document]:
        yield from self._ready(stream)
        yield from self._declare(stream)
        if stream.events:  # their frames never came: the numbers are kept all the same
            yield from self._page(stream, sorted(stream.events))
        lost = {number for frames in stream.frames.values() for number in frames}
        if lost:
            _log.warning(
                "run %s, stream %s: %d frames of which not all columns came are left out",
                self._run, stream.doc.get("name"), len(lost),
            )  # fmt: skip

    def _declare(self, stream: _Stream) -> Iterator[Document]:
        """Return the descriptor, the first time: what is in the events is known only now."""
        if stream.sent:
            return
        stream.sent = True
        stream.inline = tuple(key for key in stream.external if self._readable(stream, key))
        doc = copy.deepcopy(stream.doc)
        for key in stream.external:
            data_key = doc["data_keys"][key]
            data_key[ORIGINAL] = data_key["external"]
            if key in stream.inline:
                del data_key["external"]
                data_key["shape"] = []
            else:
                data_key["external"] = EXTERNAL
        yield "descriptor", doc

    def _readable(self, stream: _Stream, key: str) -> bool:
        """Return whether a column of numbers can be put into the events."""
        data_key = stream.doc["data_keys"][key]
        if data_key["shape"] not in ([], [1], (), (1,)) or data_key["dtype"] not in ("number", "integer"):
            return False
        for place in stream.frames.get(key, {}).values():
            try:
                self._values(stream, {key: [place]})
            except (OSError, KeyError, ValueError):
                return False
            return True
        return False

    def _page(self, stream: _Stream, numbers: Sequence[int]) -> Iterator[Document]:
        columns: dict[str, list[Any]] = {}
        inline: dict[str, list[tuple[str, int]]] = {}
        for key in stream.external:
            frames = stream.frames.get(key, {})
            places = [frames.pop(number, None) for number in numbers]
            if None in places:
                continue
            found = [place for place in places if place is not None]
            for number, (uid, index) in zip(numbers, found, strict=True):
                if uid not in stream.told:
                    stream.told.add(uid)
                    yield "resource", self._resource(stream, self._resources[uid], number, index)
            if key in stream.inline:
                inline[key] = found
            else:
                columns[key] = [f"{uid}/{index}" for uid, index in found]
                yield from _datums(found)
        columns |= self._values(stream, inline)
        yield "event_page", self._event_page(stream, numbers, columns)

    def _values(
        self, stream: _Stream, places: Mapping[str, Sequence[tuple[str, int]]]
    ) -> dict[str, list[Any]]:
        """Read columns of numbers: of each, those of some frames."""
        parts = [
            (
                key,
                Rows(self._arguments(stream, self._resources[uid]), _path(self._resources[uid]), first, last),
            )
            for key, some in places.items()
            for uid, first, last in rows_of(some)
        ]
        values: dict[str, list[Any]] = {key: [] for key in places}
        for (key, _), rows in zip(parts, read_many([one for _, one in parts]), strict=True):
            values[key] += rows.reshape(-1).tolist()
        return values

    def _event_page(
        self, stream: _Stream, numbers: Sequence[int], columns: Mapping[str, list[Any]]
    ) -> dict[str, Any]:
        descriptor = stream.doc["uid"]
        events = [stream.events.pop(number, None) for number in numbers]
        began = _times(stream, columns, len(numbers))
        times = [at if event is None else event["time"] for at, event in zip(began, events, strict=True)]
        own = [key for key in stream.doc["data_keys"] if key not in stream.external]
        data = {key: [event["data"][key] for event in events if event is not None] for key in own}
        stamps = {key: [event["timestamps"][key] for event in events if event is not None] for key in own}
        return {
            "uid": [
                str(uuid.uuid5(_namespace(descriptor), str(number))) if event is None else event["uid"]
                for number, event in zip(numbers, events, strict=True)
            ],
            "descriptor": descriptor,
            "seq_num": list(numbers),
            "time": times,
            "data": {**data, **columns},
            "timestamps": {**stamps, **dict.fromkeys(columns, times)},
            "filled": {key: [False] * len(numbers) for key in columns if key not in stream.inline},
        }

    def _resource(self, stream: _Stream, doc: Mapping[str, Any], number: int, index: int) -> dict[str, Any]:
        return {
            "uid": doc["uid"],
            "run_start": self._run,
            "spec": SPEC,
            "root": "/",
            "resource_path": _path(doc).lstrip("/"),
            "path_semantics": "posix",
            "resource_kwargs": self._arguments(stream, doc) | {"first": [number, index]},
        }

    def _arguments(self, stream: _Stream, doc: Mapping[str, Any]) -> dict[str, Any]:
        """Return all that a stream resource says, and the shape of one of its frames.

        The resource has besides the number of the event of its first frame, and that frame's index.
        """
        return {
            "mimetype": doc["mimetype"],
            "uri": doc["uri"],
            "data_key": doc["data_key"],
            "parameters": dict(doc.get("parameters") or {}),
            "shape": list(stream.doc["data_keys"][doc["data_key"]]["shape"]),
        }


def _times(stream: _Stream, columns: Mapping[str, list[Any]], count: int) -> list[float]:
    """Return when frames were taken, s: the same ones whenever it is asked."""
    began = float(stream.doc["time"])
    starts = columns.get(TIME, []) if TIME in stream.inline else []
    return [began if math.isnan(at) else max(began, at) for at in starts] or [began] * count


def _datums(places: Sequence[tuple[str, int]]) -> Iterator[Document]:
    by_resource: dict[str, list[int]] = {}
    for uid, index in places:
        by_resource.setdefault(uid, []).append(index)
    for uid, indices in by_resource.items():
        page = {
            "resource": uid,
            "datum_id": [f"{uid}/{index}" for index in indices],
            "datum_kwargs": {"index": indices},
        }
        yield "datum_page", page


def _unpacked(page: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    import event_model

    yield from event_model.unpack_event_page(page)


def _path(resource: Mapping[str, Any]) -> str:
    return unquote(urlsplit(resource["uri"]).path)


def _namespace(descriptor: str) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_OID, descriptor)
