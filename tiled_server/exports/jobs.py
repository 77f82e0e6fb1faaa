"""Exports that a server makes one after the other, each in a process of its own; results expire.

A job has a folder ``DIR/ID``: ``job.json``, and its result. What was under way when the server ended is
failed at its next start. The process of a job reads the catalog as its owner, over HTTP.
"""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from tiled_server.exports.options import ExportOptions, Format

_log = logging.getLogger(__name__)
_RECORD: Final = "job.json"
RESULT: Final = "result"
State = Literal["waiting", "running", "done", "failed"]
FINISHED: Final = ("done", "failed")


class Refused(Exception):
    """There are too many jobs already."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of what a server exports.

    Attributes
    ----------
    waiting, waiting_each
        Jobs that wait or run: of all, of one owner.
    keep, keep_bytes, keep_s
        Results that are kept: how many, bytes of all, how long. The oldest go first; one that is larger alone
        is failed.
    """

    waiting: int = 20
    waiting_each: int = 5
    keep: int = 50
    keep_bytes: int = 200_000_000_000
    keep_s: float = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Job:
    """An export that was asked for.

    Attributes
    ----------
    id, owner
        Its id, which cannot be guessed, and who asked.
    montage, format, options
        What was asked for.
    created_s, finished_s
        Unix times; 0: not finished.
    state, done, of, bytes
        How far it is: steps done, of how many, bytes written.
    error
        Why it failed.
    notes
        What was left out.
    file
        Name of the result, for whoever downloads it.
    """

    id: str
    owner: str
    montage: str
    format: Format
    options: ExportOptions
    created_s: float
    finished_s: float = 0.0
    state: State = "waiting"
    done: int = 0
    of: int = 0
    bytes: int = 0
    error: str = ""
    notes: tuple[str, ...] = ()
    file: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**asdict(self), "options": self.options.model_dump(), "format": self.format.value}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Job:
        """Return what `to_json` described."""
        options = ExportOptions.model_validate(values["options"])
        given = {**values, "options": options, "format": Format(values["format"])}
        return cls(**{**given, "notes": tuple(values["notes"])})


@dataclass(frozen=True, slots=True)
class Access:
    """How the process of a job reads the catalog: its address, and the key."""

    address: str
    api_key: str = field(default="", repr=False)


class Jobs:
    """The exports of a server.

    Parameters
    ----------
    folder
        Where they are kept; what is in it is theirs.
    readable
        Folders from which frames may be read past the server.
    limits
        How many, how large, how long.
    """

    def __init__(self, folder: Path, readable: Sequence[Path], limits: Limits | None = None) -> None:
        self.folder, self._readable, self.limits = folder, [*readable], limits or Limits()
        self._lock = threading.RLock()
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[tuple[str, Access]] = deque()
        self._running: tuple[str, subprocess.Popen[str]] | None = None
        self._thread: threading.Thread | None = None
        self._load()

    def submit(self, owner: str, montage: str, to: Format, options: ExportOptions, access: Access) -> Job:
        """Take a job.

        Raises
        ------
        Refused
            Too many wait already.
        OSError
            The folder cannot be written.
        """
        with self._lock:
            self._purge()
            open_jobs = [job for job in self._jobs.values() if job.state not in FINISHED]
            own = sum(job.owner == owner for job in open_jobs)
            if len(open_jobs) >= self.limits.waiting or own >= self.limits.waiting_each:
                raise Refused(
                    f"{len(open_jobs)} exports wait or run, {own} of them yours; {self.limits.waiting} and "
                    f"{self.limits.waiting_each} are allowed: wait for one to end, or delete one"
                )
            job = Job(secrets.token_urlsafe(18), owner, montage, to, options, time.time())
            (self.folder / job.id).mkdir(parents=True)
            self._put(job)
            self._waiting.append((job.id, access))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="exports", daemon=True)
                self._thread.start()
            return job

    def get(self, job_id: str, owner: str) -> Job | None:
        """Return a job of an owner, or None: there is none, or it is another's, or it has expired."""
        with self._lock:
            self._purge()
            job = self._jobs.get(job_id)
            return job if job is not None and secrets.compare_digest(job.owner, owner) else None

    def list(self, owner: str) -> list[Job]:
        """Return the jobs of an owner, the newest first."""
        with self._lock:
            self._purge()
            own = [job for job in self._jobs.values() if secrets.compare_digest(job.owner, owner)]
        return sorted(own, key=lambda job: -job.created_s)

    def result(self, job: Job) -> Path:
        """Return the file of a job that is done."""
        return self.folder / job.id / RESULT

    def delete(self, job: Job) -> None:
        """End a job, and remove it with its result."""
        with self._lock:
            self._jobs.pop(job.id, None)
            if self._running is not None and self._running[0] == job.id:
                self._running[1].kill()
        shutil.rmtree(self.folder / job.id, ignore_errors=True)

    def close(self) -> None:
        """End the job that runs; what waits stays waiting, and is failed at the next start."""
        with self._lock:
            self._waiting.clear()
            if self._running is not None:
                self._running[1].kill()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _load(self) -> None:
        for path in self.folder.glob(f"*/{_RECORD}"):
            try:
                job = Job.from_json(json.loads(path.read_bytes()))
            except (OSError, ValueError, KeyError, TypeError):
                _log.warning("%s is no job that can be read: it is removed", path)
                shutil.rmtree(path.parent, ignore_errors=True)
                continue
            if job.state not in FINISHED:
                self._remove_files(job)
                error = "the server was started anew: ask again"
                job = replace(job, state="failed", error=error, finished_s=time.time())
            self._put(job)

    def _put(self, job: Job) -> None:
        """Keep a job as it is now, also on disk where it has one."""
        self._jobs[job.id] = job
        path = self.folder / job.id / _RECORD
        part = path.with_suffix(".part")
        part.write_text(json.dumps(job.to_json()))
        part.replace(path)

    def _change(self, job_id: str, *, save: bool = False, **changes: Any) -> None:
        """Change a job that was not deleted meanwhile."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None:
                return
            self._jobs[job_id] = replace(job, **changes)
            if save:
                self._put(self._jobs[job_id])

    def _purge(self) -> None:
        """Remove what has expired, and the oldest results where there are too many."""
        kept = sorted(
            (job for job in self._jobs.values() if job.state in FINISHED), key=lambda job: -job.finished_s
        )
        total, old = 0, time.time() - self.limits.keep_s
        for number, job in enumerate(kept):
            total += job.bytes if job.state == "done" else 0
            if job.finished_s < old or number >= self.limits.keep or total > self.limits.keep_bytes:
                self.delete(job)

    def _remove_files(self, job: Job) -> None:
        for path in (self.folder / job.id).iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != _RECORD:
                path.unlink(missing_ok=True)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                job_id, access = self._waiting.popleft()
                job = self._jobs.get(job_id)
            if job is not None:
                self._run(job, access)

    def _run(self, job: Job, access: Access) -> None:
        """Run the process of a job, and take in what it says."""
        order = {
            **asdict(access),
            "montage": job.montage,
            "format": job.format.value,
            "options": job.options.model_dump(),
            "folder": str(self.folder / job.id),
            "readable": [str(folder) for folder in self._readable],
            "most_bytes": self.limits.keep_bytes,
        }
        words = [sys.executable, "-m", "tiled_server.exports.worker"]
        ended: dict[str, Any] = {"error": "its process ended without a word; the log of the server has more"}
        try:
            # its input stays open while it runs: it ends with this process
            with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
                with self._lock:
                    self._running = job.id, process
                self._change(job.id, state="running")
                ended = self._follow(job, process, order) or ended
        except OSError as error:
            ended = {"error": f"it could not be run: {error}"}
        with self._lock:
            self._running = None
        self._finish(job, ended)

    def _follow(
        self, job: Job, process: subprocess.Popen[str], order: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            said = json.loads(line)
            if "done" not in said:
                return dict(said)
            self._change(job.id, **said)
        return None

    def _finish(self, job: Job, ended: Mapping[str, Any]) -> None:
        """Take in the end of a job; what a failed one left is removed."""
        with self._lock:
            if job.id not in self._jobs:
                shutil.rmtree(self.folder / job.id, ignore_errors=True)
                return
            now = time.time()
            try:
                if "error" in ended:
                    self._remove_files(job)
                    error = str(ended["error"])
                    self._change(job.id, save=True, state="failed", error=error, finished_s=now)
                else:
                    size = self.result(job).stat().st_size
                    self._change(
                        job.id, save=True, state="done", finished_s=now, bytes=size, file=ended["file"],
                        notes=tuple(ended["notes"]),
                    )  # fmt: skip
            except OSError as error:
                text = f"its result cannot be kept: {error.strerror}"
                self._change(job.id, state="failed", error=text, finished_s=now)
            self._purge()
