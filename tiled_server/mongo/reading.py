"""Runs out of MongoDB, as the documents that were written: stream resources and all."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from processing.callbacks._documents import Document
from tiled_server.mongo.translation import ORIGINAL, SPEC

if TYPE_CHECKING:
    from pymongo.database import Database

_PLAIN = {"_id": False}


def run_uids(database: Database[dict[str, Any]]) -> list[str]:
    """Return the runs that have ended, oldest first."""
    ended = {one["run_start"] for one in database["run_stop"].find({}, {"run_start": True})}
    found = database["run_start"].find({}, {"uid": True, "time": True})
    return [one["uid"] for one in sorted(found, key=lambda one: float(one["time"])) if one["uid"] in ended]


def run_documents(database: Database[dict[str, Any]], uid: str) -> Iterator[Document]:
    """Yield the documents of a run: the frames of a stream as one stream datum for each of its resources.

    Raises
    ------
    KeyError
        There is no such run.
    """
    start = database["run_start"].find_one({"uid": uid}, _PLAIN)
    if start is None:
        raise KeyError(uid)
    yield "start", start
    resources: dict[str, list[dict[str, Any]]] = {}
    for one in database["resource"].find({"run_start": uid}, _PLAIN):
        if one["spec"] == SPEC:
            resources.setdefault(one["resource_kwargs"]["data_key"], []).append(one)
    descriptors = database["event_descriptor"].find({"run_start": uid}, _PLAIN)
    for descriptor in sorted(descriptors, key=lambda one: float(one["time"])):
        yield from _stream(database, descriptor, resources)
    stop = database["run_stop"].find_one({"run_start": uid}, _PLAIN)
    if stop is not None:
        yield "stop", stop


def _stream(
    database: Database[dict[str, Any]],
    descriptor: Mapping[str, Any],
    resources: Mapping[str, Sequence[dict[str, Any]]],
) -> Iterator[Document]:
    original = copy.deepcopy(dict(descriptor))
    external = [key for key, value in original["data_keys"].items() if ORIGINAL in value]
    own = {key: resources.get(key, ()) for key in external}
    for key in external:
        data_key = original["data_keys"][key]
        data_key["external"] = data_key.pop(ORIGINAL)
        if own[key]:
            data_key["shape"] = own[key][0]["resource_kwargs"]["shape"]
    yield "descriptor", original
    events = list(database["event"].find({"descriptor": descriptor["uid"]}, _PLAIN))
    events.sort(key=lambda event: int(event["seq_num"]))
    if len(external) < len(original["data_keys"]):
        for event in events:
            yield "event", {**event, **_without(event, external)}
    for key in external:
        yield from _frames(key, own[key], descriptor["uid"], events)


def _without(event: Mapping[str, Any], external: Sequence[str]) -> dict[str, Any]:
    return {
        name: {key: value for key, value in event.get(name, {}).items() if key not in external}
        for name in ("data", "timestamps", "filled")
    }


def _frames(
    key: str, resources: Sequence[dict[str, Any]], descriptor: str, events: Sequence[Mapping[str, Any]]
) -> Iterator[Document]:
    """Yield the resources of a data key, and which frames of them belong to which events."""
    firsts = [(*one["resource_kwargs"]["first"], one) for one in resources]
    firsts.sort(key=lambda one: int(one[0]))
    numbers = [int(event["seq_num"]) for event in events if key in event["data"]]
    for at, (number, index, resource) in enumerate(firsts):
        end = firsts[at + 1][0] if at + 1 < len(firsts) else float("inf")
        count = sum(number <= one < end for one in numbers)
        about = resource["resource_kwargs"]
        yield (
            "stream_resource",
            {
                "uid": resource["uid"],
                "run_start": resource["run_start"],
                "data_key": key,
                "mimetype": about["mimetype"],
                "uri": about["uri"],
                "parameters": about["parameters"],
            },
        )
        yield (
            "stream_datum",
            {
                "uid": f"{resource['uid']}/0",
                "stream_resource": resource["uid"],
                "descriptor": descriptor,
                "indices": {"start": index, "stop": index + count},
                "seq_nums": {"start": number, "stop": number + count},
            },
        )
