"""Ends the runs that nobody will end any more, so that journal and catalog are complete.

A run whose engine was killed has no stop document. Once it is certain that no engine drives (the caller holds
the fence), its journal is completed: frames that are in the file and were not announced yet, a verdict for
every frame that has none, judged from the file, and a stop document with exit status "abort", reason
"interrupted".
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from devices.errors import ConfigurationError
from devices.tiles import IMAGE_DATASET, IMAGE_KEY, TILE_GROUP
from plans.judgements import under_policy
from plans.record import RunRecord
from plans.specs.montage import MontageSpec
from plans.specs.policy import VerdictPolicy
from plans.verdicts import EventReadable, Verdict
from processing.callbacks._documents import Document
from processing.callbacks._tiles import TILES_STREAM
from processing.callbacks.journal import encode, find_runs, read_journal
from processing.callbacks.tile_qc import QCThresholds, TileQC

_log = logging.getLogger(__name__)

REASON: Final = "interrupted"
QC_STREAM: Final = "qc"
_NEIGHBOURS: Final = 50
"""Frames before the first unjudged one that are measured again: sharpness is judged beside other tiles."""


def close_interrupted(
    journal_dir: Path | str,
    thresholds: QCThresholds | None = None,
    calibrations: Path | str | None = None,
) -> list[str]:
    """End every run of a journal that has no stop document and that no process writes; return their uids.

    The caller holds the lab's engine lock, so no engine that is about to write one of them is alive.

    Parameters
    ----------
    journal_dir
        The journal.
    thresholds
        Of the verdicts on frames that have none.
    calibrations
        Folder of the references that runs name; None: frames are judged as they are.

    Raises
    ------
    MontangoError
        A journal is damaged before its last line.
    """
    closed = []
    for run in find_runs(journal_dir):
        if not run.complete and not run.live:
            _close(RunRecord.read(run), TileQC(thresholds, calibrations=calibrations))
            closed.append(run.uid)
    return closed


def judge_frames(
    run: RunRecord, thresholds: QCThresholds | None = None, calibrations: Path | str | None = None
) -> list[Verdict]:
    """Judge the frames of a run that have no verdict from its file, beside those before them.

    ``thresholds`` and ``calibrations`` are as for `close_interrupted`.

    Raises
    ------
    MontangoError
        The journal is damaged before its last line.
    """
    documents = list(read_journal(run.journal))
    known = [*documents, *_unannounced(run, documents)]
    return list(_verdicts(run, known, TileQC(thresholds, calibrations=calibrations)))


def _close(run: RunRecord, qc: TileQC) -> None:
    with run.journal.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"run {run.uid} is being written by another process; wait for its end"
            ) from None
        documents = list(read_journal(run.journal))
        ending = list(_ending(run, documents, qc))
        file.truncate(sum(len(line) for line in _whole_lines(run.journal, len(documents))))
        file.seek(0, os.SEEK_END)
        file.write(b"".join(encode(name, doc) for name, doc in ending))
        file.flush()
        os.fsync(file.fileno())
    _log.warning("run %s was interrupted; %d documents complete it", run.uid, len(ending))


def _whole_lines(path: Path, count: int) -> Iterator[bytes]:
    """Yield the lines of the documents; what follows was cut off by the crash."""
    with path.open("rb") as file:
        for _ in range(count):
            yield file.readline()


def _ending(run: RunRecord, documents: list[Document], qc: TileQC) -> Iterator[Document]:
    """Yield what the run lacks, in order."""
    added = list(_unannounced(run, documents))
    yield from added
    known = [*documents, *added]
    verdicts = list(_verdicts(run, known, qc))
    judged = list(_qc_events(run, documents, verdicts))
    yield from judged
    stop = {
        "uid": str(uuid.uuid4()),
        "time": time.time(),
        "run_start": run.uid,
        "exit_status": "abort",
        "reason": REASON,
        "num_events": count_events([*known, *judged]),
    }
    yield "stop", stop


def _unannounced(run: RunRecord, documents: Sequence[Document]) -> Iterator[Document]:
    """Yield the stream documents of frames that are in the file and not in the journal."""
    descriptor = _descriptor(documents, TILES_STREAM)
    readable = [frame.index for frame in run.frames if frame.readable]
    if descriptor is None or not readable or run.path is None:
        return
    resources = [doc for name, doc in documents if name == "stream_resource"]
    if not resources:
        for key in descriptor["data_keys"]:
            resources.append(_resource(run, key))
            yield "stream_resource", resources[-1]
    for resource in resources:
        announced = [
            doc
            for name, doc in documents
            if name == "stream_datum" and doc["stream_resource"] == resource["uid"]
        ]
        first = max((doc["indices"]["stop"] for doc in announced), default=0)
        if first <= readable[-1]:
            end = readable[-1] + 1
            datum = {
                "stream_resource": resource["uid"],
                "uid": f"{resource['uid']}/{len(announced)}",
                "seq_nums": {"start": first + 1, "stop": end + 1},
                "indices": {"start": first, "stop": end},
                "descriptor": descriptor["uid"],
            }
            yield "stream_datum", datum


def _resource(run: RunRecord, key: str) -> dict[str, Any]:
    """Return the stream resource of a data key, as `devices.camera.device` makes it."""
    image = key == IMAGE_KEY
    return {
        "uid": str(uuid.uuid4()),
        "data_key": key,
        "mimetype": "application/x-hdf5",
        "uri": f"file://localhost{run.path}",
        "parameters": {
            "chunk_shape": [1 if image else 512],
            "dataset": IMAGE_DATASET if image else f"{TILE_GROUP}/{key}",
            "swmr": True,
        },
        "run_start": run.uid,
    }


def _verdicts(run: RunRecord, documents: Sequence[Document], qc: TileQC) -> Iterator[Verdict]:
    """Judge the frames that have no verdict, beside those before them, as the montage's policy says."""
    pending = set(run.pending)
    if not pending or run.path is None:
        return
    first = max(0, min(pending) - _NEIGHBOURS)
    for name, doc in documents:
        if name == "stream_datum":
            indices = doc["indices"]
            if indices["stop"] > first:
                qc(name, {**doc, "indices": {**indices, "start": max(first, indices["start"])}})
        elif name in ("start", "stream_resource"):
            qc(name, doc)
        elif name == "descriptor":
            qc(name, without_ring(doc))
    qc("stop", {"run_start": run.uid})
    policy = _policy(run)
    yield from (under_policy(one, policy) for one in qc.take() if one.tile_index in pending)


def _policy(run: RunRecord) -> VerdictPolicy:
    """Return what a run's montage does about faults; the defaults where its specification cannot be read."""
    try:
        return MontageSpec.model_validate(run.start.get("montage_spec")).policy
    except ValueError:
        return VerdictPolicy()


def without_ring(descriptor: dict[str, Any]) -> dict[str, Any]:
    """Return a descriptor that does not send its reader to a ring that may hold other frames by now."""
    configuration = {
        device: {
            **one,
            "data": {key: value for key, value in one["data"].items() if not key.endswith("-ring_path")},
        }
        for device, one in descriptor.get("configuration", {}).items()
    }
    return {**descriptor, "configuration": configuration}


def _qc_events(
    run: RunRecord, documents: Sequence[Document], verdicts: Sequence[Verdict]
) -> Iterator[Document]:
    if not verdicts:
        return
    readable = EventReadable(QC_STREAM, "processing.callbacks.tile_qc")
    descriptor = _descriptor(documents, QC_STREAM)
    count = 0
    if descriptor is None:
        readable.hold(verdicts[0].as_event())
        keys = {key: {**value, "object_name": QC_STREAM} for key, value in readable.describe().items()}
        descriptor = {
            "uid": str(uuid.uuid4()),
            "name": QC_STREAM,
            "run_start": run.uid,
            "time": time.time(),
            "data_keys": keys,
            "object_keys": {QC_STREAM: list(keys)},
            "configuration": {QC_STREAM: {"data": {}, "timestamps": {}, "data_keys": {}}},
            "hints": {QC_STREAM: {}},
        }
        yield "descriptor", descriptor
    else:
        count = sum(name == "event" and doc["descriptor"] == descriptor["uid"] for name, doc in documents)
    for number, verdict in enumerate(verdicts, count + 1):
        now, values = time.time(), verdict.as_event()
        data = {key: values.get(key, _nothing(about)) for key, about in descriptor["data_keys"].items()}
        event = {
            "uid": str(uuid.uuid4()),
            "descriptor": descriptor["uid"],
            "seq_num": number,
            "time": now,
            "data": data,
            "timestamps": dict.fromkeys(data, now),
            "filled": {},
        }
        yield "event", event


def _nothing(about: dict[str, Any]) -> object:
    """Return what stands for a value that only the plan could have given."""
    return {"string": "", "integer": 0, "boolean": False}.get(about["dtype"], float("nan"))


def _descriptor(documents: Sequence[Document], stream: str) -> dict[str, Any] | None:
    return next((doc for name, doc in documents if name == "descriptor" and doc.get("name") == stream), None)


def count_events(documents: Sequence[Document]) -> dict[str, int]:
    """Return the number of events of each stream of a run, rows of stream datums included."""
    streams = {doc["uid"]: str(doc.get("name")) for name, doc in documents if name == "descriptor"}
    counts: dict[str, int] = {}
    for name, doc in documents:
        if name == "event":
            stream = streams[doc["descriptor"]]
            counts[stream] = counts.get(stream, 0) + 1
        elif name == "stream_datum":
            stream = streams[doc["descriptor"]]
            counts[stream] = max(counts.get(stream, 0), doc["indices"]["stop"])
    return counts
