"""Who does the jobs of a montage: this process, or the workers of a cluster; and what is done already.

A job is plain data, and what it returns follows from it alone. So a result may come from here, from another
host, or from the record of a run that was killed: it is the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, Self, TypeVar

from devices.errors import ConfigurationError
from processing.mosaic._fence import Fence
from processing.stitching.frame_files import Frame

Job = TypeVar("Job")
Result = TypeVar("Result")
FOLDER: Final = ".stitching"
"""Name of the record's folder, in that of the results, while a montage is stitched."""
BEGUN: Final = "mosaic"
"""Name in the record of what says that the mosaic was begun."""
_STATE: Final = "state.json"
_FORMAT: Final = 1


class Workers(Protocol):
    """Does jobs."""

    def run(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], done: Callable[[int, Result], None]
    ) -> None:
        """Do all jobs, in any order; ``done`` is called in this thread with the index and result of each."""
        ...

    def check(self, frames: Sequence[Frame], folder: Path) -> None:
        """Make sure that frames, and the folder of the results, are where the jobs are done.

        Raises
        ------
        ConfigurationError
            One is not; the message names it and the host.
        """
        ...


class InProcess:
    """Does jobs one after another, here."""

    def run(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], done: Callable[[int, Result], None]
    ) -> None:
        """Do all jobs."""
        for index, job in enumerate(jobs):
            done(index, function(job))

    def check(self, frames: Sequence[Frame], folder: Path) -> None:
        """Do nothing: they are here."""


def half_drawn(folder: Path) -> bool:
    """Return whether the mosaic in a folder of results is one that was not finished."""
    return (folder / FOLDER / f"{BEGUN}.job").is_file()


class Record:
    """What is done of a montage, kept beside its results until it is finished.

    A file a job, named by what the job is; each is there whole or not at all. One process at a time has it.

    Parameters
    ----------
    folder
        Of the results.
    inputs
        JSON: everything that the results follow from. A record of other inputs is given up.

    Attributes
    ----------
    found
        How many jobs were done when it was opened.
    differences
        Which inputs differ from those of the record that was given up.

    Raises
    ------
    ConfigurationError
        The folder cannot be written, or another process has it.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, Any]) -> None:
        self._folder = folder / FOLDER
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"{folder} cannot be written: {error.strerror}") from error
        self._fence = Fence(self._folder)
        inputs = {"format": _FORMAT, **inputs}
        digests = {name: _digest(value) for name, value in inputs.items()}
        known = self._known()
        self.differences = sorted(
            name for name in {*digests, *known} if known and known.get(name) != digests.get(name)
        )
        if not known or self.differences:
            for one in self._folder.iterdir():
                one.unlink()
            _replace(self._folder / _STATE, json.dumps(digests))
        self.found = sum(1 for _ in self._folder.glob("*.job"))

    def get(self, name: str) -> Any:
        """Return what was kept of a job, or None."""
        try:
            return json.loads((self._folder / f"{name}.job").read_text())
        except (OSError, ValueError):
            return None

    def put(self, name: str, content: Any) -> None:
        """Keep what came of a job."""
        _replace(self._folder / f"{name}.job", json.dumps(content))

    def forget(self, *functions: str) -> None:
        """Let go of what was kept of all jobs of some functions."""
        for name in functions:
            for one in self._folder.glob(f"{name}-*.job"):
                one.unlink()

    def remove(self) -> None:
        """Remove it: everything is done."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        """Return it; others may have it at the end."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Let others have it."""
        self._fence.release()

    def _known(self) -> dict[str, str]:
        try:
            known = json.loads((self._folder / _STATE).read_text())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}


def run_recorded(
    workers: Workers,
    record: Record | None,
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    encode: Callable[[Result], Any],
    decode: Callable[[Any], Result],
    keep: Callable[[Result], bool] = lambda _: True,
    done: Callable[[int, Result], None] = lambda *_: None,
) -> list[Result]:
    """Do the jobs that the record does not have, and return the results of all.

    Parameters
    ----------
    workers, record, function, jobs
        Who does them, what is done, and the jobs.
    encode, decode
        What the record keeps of a result, as JSON, and back.
    keep
        Whether a result is worth keeping.
    done
        Called with the index and result of each as it comes.
    """
    results: dict[int, Result] = {}
    names = [f"{function.__name__}-{_digest(repr(job))}" for job in jobs] if record is not None else []
    waiting = []
    for index in range(len(jobs)):
        content = record.get(names[index]) if record is not None else None
        if content is None:
            waiting.append(index)
        else:
            results[index] = decode(content)
            done(index, results[index])

    def came(which: int, result: Result) -> None:
        index = waiting[which]
        if record is not None and keep(result):
            record.put(names[index], encode(result))
        results[index] = result
        done(index, result)

    workers.run(function, [jobs[index] for index in waiting], came)
    return [results[index] for index in range(len(jobs))]


def _digest(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
