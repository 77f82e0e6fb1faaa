"""Runs written to MongoDB: live, or from the journal; each as often as one likes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import event_model
from suitcase.mongo_normalized import (  # type: ignore[import-untyped]
    DuplicateUniqueID,
    Serializer,
)

from processing.callbacks._catalog_run import Outcome
from processing.callbacks._documents import Document
from processing.callbacks.journal import read_journal
from tiled_server.mongo.translation import Translator

if TYPE_CHECKING:
    from pymongo.database import Database

_BATCH: Final = 1_000
_DUPLICATE: Final = 11000
_IDS: Final = {"datum": "datum_id"}


class MongoSerializer(Serializer):  # type: ignore[misc]  # the package is not typed
    """Suitcase's, for documents that may come twice and have numbers that are none (NaN)."""

    def _insert(self, name: str, doc: dict[str, Any]) -> None:
        self._insert_many(name, [doc])

    def _insert_many(self, name: str, docs: Sequence[dict[str, Any]]) -> None:
        from pymongo.errors import BulkWriteError

        docs = [dict(doc) for doc in docs]  # each gets an id of the database's own
        try:
            self._collections[name].insert_many(docs, ordered=False)
        except BulkWriteError as error:
            failed = error.details["writeErrors"]
            if any(one["code"] != _DUPLICATE for one in failed):
                raise
            self._check_same(name, [docs[one["index"]] for one in failed])

    def _check_same(self, name: str, docs: Sequence[dict[str, Any]]) -> None:
        """See that documents are in the database as they are."""
        key = _IDS.get(name, "uid")
        there = self._collections[name].find({key: {"$in": [doc[key] for doc in docs]}}, {"_id": False})
        known = {one[key]: one for one in there}
        for doc in docs:
            new = {field: value for field, value in doc.items() if field != "_id"}
            if not _same(known.get(doc[key]), new):
                raise DuplicateUniqueID(
                    f"{name} {doc[key]} is in the database with other contents; it is left as it is"
                )

    def resource(self, doc: dict[str, Any]) -> None:
        """Insert a resource that is not there; its uid need not be unique in old databases."""
        known = self._collections["resource"].find_one({"uid": doc["uid"]}, {"_id": False})
        if known is None:
            self._collections["resource"].insert_one(dict(doc))
        elif not _same(known, doc):
            raise DuplicateUniqueID(f"resource {doc['uid']} is in the database with other contents")

    def insert_many(self, name: str, docs: Sequence[dict[str, Any]]) -> None:
        """Insert events or datums, all in one request."""
        self._insert_many(name, [event_model.sanitize_doc(doc) for doc in docs])


class MongoRunWriter:
    """Write the documents of one run; events and datums are held until `flush`, or until there are many.

    Parameters
    ----------
    database
        Where to.
    batch_size
        Events that are written in one request.
    """

    def __init__(self, database: Database[dict[str, Any]], batch_size: int = _BATCH) -> None:
        self._serializer = MongoSerializer(database, database)
        self._translate = Translator()
        self._batch_size = batch_size
        self._held: dict[str, list[dict[str, Any]]] = {"datum": [], "event": []}

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take a document."""
        self._take(self._translate(name, doc))
        if self._translate.held >= self._batch_size:
            self.flush()

    def flush(self) -> None:
        """Write what is held; references before the events that have them."""
        self._take(self._translate.ready())
        self._insert()

    def _take(self, documents: Iterable[Document]) -> None:
        for name, doc in documents:
            if name == "event_page":
                self._held["event"] += event_model.unpack_event_page(doc)
            elif name == "datum_page":
                self._held["datum"] += event_model.unpack_datum_page(doc)
            else:
                if name == "stop":
                    self._insert()
                self._serializer(name, doc)

    def _insert(self) -> None:
        for name, docs in self._held.items():
            for at in range(0, len(docs), _BATCH):
                self._serializer.insert_many(name, docs[at : at + _BATCH])
            docs.clear()


def make_indexes(database: Database[dict[str, Any]]) -> None:
    """Make the indexes that searching takes; those that are there stay."""
    MongoSerializer(database, database).create_indexes()


def write_run(database: Database[dict[str, Any]], documents: Sequence[Document]) -> Outcome:
    """Write a whole run; one that is there in part is removed first.

    Returns
    -------
    str
        ``"present"``: the run was there, stop document and all; ``"completed"``: part of it was;
        ``"added"``: nothing was.
    """
    uid = documents[0][1]["uid"]
    outcome: Outcome = "added"
    if database["run_start"].find_one({"uid": uid}) is not None:
        # the writer adds the stop document after everything else
        if database["run_stop"].find_one({"run_start": uid}) is not None:
            return "present"
        remove_run(database, uid)
        outcome = "completed"
    writer = MongoRunWriter(database)
    for name, doc in documents:
        writer(name, doc)
    writer.flush()
    return outcome


def replay_run(database: Database[dict[str, Any]], path: Path) -> Outcome:
    """Write a journalled run that has its stop document."""
    return write_run(database, list(read_journal(path)))


def remove_run(database: Database[dict[str, Any]], uid: str) -> None:
    """Remove the documents of a run; the files that it names stay. What names others goes last."""
    descriptors = [one["uid"] for one in database["event_descriptor"].find({"run_start": uid}, {"uid": True})]
    resources = [one["uid"] for one in database["resource"].find({"run_start": uid}, {"uid": True})]
    database["run_stop"].delete_many({"run_start": uid})
    database["event"].delete_many({"descriptor": {"$in": descriptors}})
    database["datum"].delete_many({"resource": {"$in": resources}})
    database["resource"].delete_many({"run_start": uid})
    database["event_descriptor"].delete_many({"run_start": uid})
    database["run_start"].delete_many({"uid": uid})


def _same(first: Any, second: Any) -> bool:
    """Return whether two documents are equal; a number that is none equals itself."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, float) and isinstance(second, float) and math.isnan(first):
        return math.isnan(second)
    return bool(first == second)
