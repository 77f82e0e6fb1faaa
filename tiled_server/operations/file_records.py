"""What was taken down of files: size, time of their last change, checksum.

In ``catalog/files.db`` of the state directory, SQLite, whatever the catalog is kept in.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import blake3

from tiled_server.checksums import checksum
from tiled_server.databases import BUSY_TIMEOUT_S

NAME: Final = "files.db"
_MAKE: Final = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL,
    changed_ns INTEGER NOT NULL,
    blake3 TEXT,
    taken REAL NOT NULL
)
"""


@dataclass(frozen=True, slots=True)
class FileState:
    """A file, or all the files of a folder.

    Attributes
    ----------
    bytes
        Size; of a folder the sum.
    changed_ns
        Time of the last change, Unix ns; of a folder the newest.
    blake3
        Checksum, empty where it was not made; of a folder over names and contents of its files, by name.
    """

    bytes: int
    changed_ns: int
    blake3: str = ""


def state_of(path: Path, *, deep: bool = False) -> FileState:
    """Return how a file or folder is now.

    Parameters
    ----------
    path
        The file or folder.
    deep
        Read all of it for a checksum.

    Raises
    ------
    OSError
        It cannot be read.
    """
    if not path.is_dir():
        about = path.stat()
        return FileState(about.st_size, about.st_mtime_ns, checksum(path) if deep else "")
    size, newest = 0, 0
    hasher = blake3.blake3()
    for file in files_of(path):
        about = file.stat()
        size, newest = size + about.st_size, max(newest, about.st_mtime_ns)
        if deep:
            hasher.update(f"{file.relative_to(path)}\0{checksum(file)}\n".encode())
    return FileState(size, newest, hasher.hexdigest() if deep else "")


def files_of(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and of those in it, by name."""
    for base, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield Path(base) / name


class FileRecords:
    """What was taken down, and is compared.

    Parameters
    ----------
    folder
        The catalog's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._connection: sqlite3.Connection | None = None
        if self._path.exists():
            self._open()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S)
            self._connection.execute(_MAKE)
        return self._connection

    def get(self, path: Path) -> FileState | None:
        """Return what was taken down of a file."""
        if self._connection is None:
            return None
        found = self._connection.execute(
            "SELECT bytes, changed_ns, coalesce(blake3, '') FROM files WHERE path = ?", (str(path),)
        ).fetchone()
        return None if found is None else FileState(*found)

    def put(self, path: Path, state: FileState) -> None:
        """Take a file down."""
        self._open().execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)",
            (str(path), state.bytes, state.changed_ns, state.blake3 or None, time.time()),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.commit()
            self._connection.close()


def difference(known: FileState, now: FileState) -> str:
    """Return how a file differs from what was taken down, in words; empty where it does not.

    A file with the same checksum is the same whatever its time says.
    """
    if known.bytes != now.bytes:
        return f"{now.bytes} bytes, {known.bytes} were recorded"
    if known.blake3 and now.blake3:
        return "" if known.blake3 == now.blake3 else "its BLAKE3 checksum differs from the recorded one"
    if known.changed_ns != now.changed_ns:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now.changed_ns / 1e9))
        return f"changed {when}, after it was recorded"
    return ""
