"""A catalog into a folder, while its server and its writers go on."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sqlite3
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from devices.errors import ConfigurationError, MontangoError
from tiled_server.databases import shown
from tiled_server.operations.dumps import Dumped, dump
from tiled_server.operations.manifest import sync, write_manifest
from tiled_server.operations.positions import journal_position
from tiled_server.operations.snapshots import copy_files
from tiled_server.operations.stores import CATALOG, ENDED, RUNS, Stores

ARRAYS_FILE: Final = "arrays.tar"
JOURNAL_FILE: Final = "journal.tar"
SECRET_FILE: Final = "secret"
"""What signs tokens and ids of files: with it they stay what they are."""

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Backup:
    """What was written.

    Attributes
    ----------
    folder
        Where.
    runs, ended
        Runs in it, and those that had ended.
    behind
        Uids of runs that had ended in the journal and not in the catalog: replay adds them.
    bytes
        How large it is.
    took_s
        How long it took.
    """

    folder: Path
    runs: int
    ended: int
    behind: tuple[str, ...]
    bytes: int
    took_s: float


def back_up(stores: Stores, folder: Path, *, with_journal: bool = False, say: Say = print) -> Backup:
    """Copy a catalog to a new folder: databases, arrays that it keeps itself, and what proves them.

    Files of frames are not copied: the catalog points to them.

    Parameters
    ----------
    stores
        The catalog.
    folder
        Where to; it comes whole or not at all.
    with_journal
        Copy the journal too.
    say
        Told what is done, line by line.

    Raises
    ------
    ConfigurationError
        There is no catalog, or the folder is there already.
    MontangoError
        Something cannot be read or written.
    """
    folder = folder.expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} is there already: nothing is overwritten; name a new folder")
    if stores.database is None and not (stores.folder / CATALOG).is_file():
        raise ConfigurationError(
            f"there is no catalog in {stores.folder}; name the lab's state directory with --state"
        )
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    part.chmod(0o700)  # people and keys are in it
    started = time.monotonic()
    try:
        done = _write(stores, part, with_journal, say)
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
        sync([folder.parent])
    except OSError as error:
        raise MontangoError(f"the backup {folder} cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    runs, ended, behind, size = done
    return Backup(folder, runs, ended, behind, size, time.monotonic() - started)


def _write(stores: Stores, part: Path, with_journal: bool, say: Say) -> tuple[int, int, tuple[str, ...], int]:
    made = time.time()
    # before the databases: what ends from now on is after this position
    position, ended_before = journal_position(stores.journal)
    dumps = asyncio.run(dump(stores.postgres(), part)) if stores.postgres() else {}
    copies = copy_files(stores.sqlite_files(), part)
    say(f"databases: {', '.join([*(f'{name}.dump' for name in dumps), *(path.name for path in copies)])}")
    runs, ended = _runs(part, dumps)
    if (stores.folder / SECRET_FILE).is_file():
        shutil.copyfile(stores.folder / SECRET_FILE, part / SECRET_FILE)
    if stores.arrays.is_dir():
        count = _tar(stores.arrays, part / ARRAYS_FILE)
        say(f"{ARRAYS_FILE}: {count} files")
    if with_journal and stores.journal.is_dir():
        count = _tar(stores.journal, part / JOURNAL_FILE)
        say(f"{JOURNAL_FILE}: {count} files")
    behind = tuple(sorted(ended_before - ended))
    facts: dict[str, Any] = {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(made)),
        "made_s": made,
        "state_dir": str(stores.state_dir),
        "database": stores.database and shown(stores.database),
        "tables": stores.tables and shown(stores.tables),
        "dumps": list(dumps),
        "runs": runs,
        "ended": len(ended),
        "journal": {**position.facts(), "behind": list(behind)},
        "software": {**_versions(), **{k: v for one in dumps.values() for k, v in one.versions.items()}},
    }
    write_manifest(part, facts)
    return runs, len(ended), behind, sum(path.stat().st_size for path in part.iterdir())


def _runs(part: Path, dumps: dict[str, Dumped]) -> tuple[int, frozenset[str]]:
    """Return how many runs the copy has, and the uids of those that had ended."""
    found = dumps.get("catalog")
    if found is not None:
        return found.runs or 0, found.ended
    return read_runs(part / CATALOG)


def read_runs(path: Path) -> tuple[int, frozenset[str]]:
    """Return how many runs the SQLite file of a catalog has, and the uids of those that have ended."""
    connection = sqlite3.connect(path)
    try:
        (count,) = connection.execute(RUNS).fetchone()
        return int(count), frozenset(key for (key,) in connection.execute(ENDED["sqlite"]))
    finally:
        connection.close()


def _tar(folder: Path, target: Path) -> int:
    """Write the files of a folder that is being written to; one that goes away meanwhile is left out."""
    count = 0
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for base, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                path = Path(base) / name
                try:
                    with path.open("rb") as file:
                        about = archive.gettarinfo(str(path), str(path.relative_to(folder)), file)
                        if not about.isreg():
                            continue
                        archive.addfile(about, _Exactly(file, about.size))
                        count += 1
                except FileNotFoundError:
                    continue
    return count


class _Exactly:
    """A file with the length that it had, whatever is appended or cut off meanwhile."""

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, zeros where the file was cut."""
        size = self._left if size < 0 else min(size, self._left)
        data: bytes = self._file.read(size).ljust(size, b"\0")
        self._left -= size
        return data


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in ("montango", "tiled", "bluesky-tiled-plugins"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
