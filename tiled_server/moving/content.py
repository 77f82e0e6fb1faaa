"""What a run has, in one form, whatever keeps it: to be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt

from processing.callbacks._documents import Document
from tiled_server.moving.sums import TAKEN_OUT, plain, row_bytes

_DESCRIBED: Final = ("dtype", "units", "source", "precision", "limits")
"""What is compared of a data key; the rest TiledWriter completes."""

Frame = npt.NDArray[Any]


@dataclass
class Frames:
    """The frames of a data key, each read when it is asked for.

    Attributes
    ----------
    count
        How many.
    read
        Returns one of them.
    """

    count: int
    read: Callable[[int], Frame]

    def hashes(self, every: bool) -> dict[int, str]:
        """Return BLAKE2b hashes of pixels by index: of every frame, or of the first, middle and last."""
        chosen = (
            range(self.count) if every else sorted({0, self.count // 2, self.count - 1} - {-1, self.count})
        )
        return {index: _hash(self.read(index)) for index in chosen}


@dataclass
class StreamContent:
    """One stream.

    Attributes
    ----------
    about
        Of the descriptor: data keys and configuration.
    events
        What the events say, by number: data and times; empty for a stream of references alone.
    frames
        Data that lie in files, by data key.
    """

    about: dict[str, Any] = field(default_factory=dict)
    events: dict[int, dict[str, Any]] = field(default_factory=dict)
    frames: dict[str, Frames] = field(default_factory=dict)


@dataclass
class RunContent:
    """One run: start and stop document, and its streams by name."""

    start: dict[str, Any]
    stop: dict[str, Any] | None = None
    streams: dict[str, StreamContent] = field(default_factory=dict)


def content_of(
    documents: Iterable[Document],
    frames: Callable[[Mapping[str, Any], Mapping[str, Any]], Callable[[int], Frame]],
) -> RunContent:
    """Return what the documents of a run say.

    Parameters
    ----------
    documents
        As they were emitted, or as they are given back.
    frames
        Given a stream resource and its data key's description: returns what reads one of its frames.
    """
    found = RunContent({})
    streams: dict[str, StreamContent] = {}
    keys: dict[str, Mapping[str, Any]] = {}
    resources: dict[str, Mapping[str, Any]] = {}
    spans: dict[tuple[str, str], list[tuple[int, int, Callable[[int], Frame]]]] = {}
    for name, doc in documents:
        if name == "start":
            found.start = plain({key: value for key, value in doc.items() if key not in TAKEN_OUT})
        elif name == "stop":
            found.stop = plain(dict(doc)) or None
        elif name == "descriptor":
            stream = found.streams.setdefault(doc["name"], StreamContent())
            stream.about = stream.about or _about(doc)
            streams[doc["uid"]], keys[doc["uid"]] = stream, doc["data_keys"]
        elif name in ("event", "event_page"):
            for event in [doc] if name == "event" else _unpacked(doc):
                _take_event(streams[event["descriptor"]], event)
        elif name == "stream_resource":
            resources[doc["uid"]] = doc
        elif name == "stream_datum":
            resource = resources[doc["stream_resource"]]
            key = resource["data_key"]
            reader = frames(resource, keys[doc["descriptor"]][key])
            indices = doc["indices"]
            spans.setdefault((doc["descriptor"], key), []).append((indices["start"], indices["stop"], reader))
    for (descriptor, key), parts in spans.items():
        streams[descriptor].frames[key] = _joined(parts)
    return found


def differences(first: RunContent, second: RunContent, *, every_pixel: bool = False) -> Iterator[str]:
    """Yield what differs between two runs, in words; nothing if they are equal."""
    for name in ("start", "stop"):
        yield from _differ(name, getattr(first, name) or {}, getattr(second, name) or {})
    yield from _differ("streams", dict.fromkeys(first.streams), dict.fromkeys(second.streams))
    for name in sorted(first.streams.keys() & second.streams.keys()):
        one, other = first.streams[name], second.streams[name]
        yield from _differ(f"{name}: descriptor", one.about, other.about)
        yield from _differ(f"{name}: event", one.events, other.events)
        yield from _differ(f"{name}: files", dict.fromkeys(one.frames), dict.fromkeys(other.frames))
        for key in sorted(one.frames.keys() & other.frames.keys()):
            mine, its = one.frames[key], other.frames[key]
            if mine.count != its.count:
                yield f"{name}: {key} has {mine.count} and {its.count} frames"
            elif mine.hashes(every_pixel) != its.hashes(every_pixel):
                yield f"{name}: {key} has other values"


def events_sum(content: RunContent) -> tuple[int, int, int]:
    """Return how many events, data keys in files, and frames a run has."""
    streams = content.streams.values()
    return (
        sum(len(one.events) for one in streams),
        sum(len(one.frames) for one in streams),
        sum(max((part.count for part in one.frames.values()), default=0) for one in streams),
    )


def path_of(resource: Mapping[str, Any]) -> Path:
    """Return the file of a stream resource."""
    return Path(unquote(urlsplit(resource["uri"]).path))


def _about(doc: Mapping[str, Any]) -> dict[str, Any]:
    data_keys = {
        key: {name: value[name] for name in _DESCRIBED if name in value}
        for key, value in doc["data_keys"].items()
    }
    settings = {
        device: plain(one.get("data", {})) for device, one in (doc.get("configuration") or {}).items()
    }
    return {"data_keys": plain(data_keys), "configuration": settings}


def _take_event(stream: StreamContent, event: Mapping[str, Any]) -> None:
    kept = {
        "time": event["time"],
        "data": dict(event["data"]),
        "timestamps": dict(event["timestamps"]),
    }
    stream.events[int(event["seq_num"])] = plain(kept)


def _joined(parts: list[tuple[int, int, Callable[[int], Frame]]]) -> Frames:
    lengths = [last - first for first, last, _ in parts]

    def read(index: int) -> Frame:
        for (first, _, reader), length in zip(parts, lengths, strict=True):
            if index < length:
                return reader(first + index)
            index -= length
        raise IndexError(index)

    return Frames(sum(lengths), read)


def _unpacked(page: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    import event_model

    yield from event_model.unpack_event_page(page)


def _differ(what: str, first: Mapping[Any, Any], second: Mapping[Any, Any]) -> Iterator[str]:
    for key in sorted(first.keys() - second.keys(), key=str):
        yield f"{what}: {key} is only in the first"
    for key in sorted(second.keys() - first.keys(), key=str):
        yield f"{what}: {key} is only in the second"
    for key in sorted(first.keys() & second.keys(), key=str):
        one, other = first[key], second[key]
        if row_bytes({"": one}) != row_bytes({"": other}):
            if isinstance(one, Mapping) and isinstance(other, Mapping):
                yield from _differ(f"{what} {key}", one, other)
            else:
                yield f"{what}: {key} is {_short(one)} and {_short(other)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def _hash(frame: Frame) -> str:
    plain_order = np.ascontiguousarray(frame, dtype=frame.dtype.newbyteorder("<"))
    return f"{plain_order.dtype.str} {hashlib.blake2b(plain_order.tobytes(), digest_size=16).hexdigest()}"
