"""Copies of SQLite files while a server writes to them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Self
from urllib.parse import quote

from devices.errors import MontangoError
from tiled_server.databases import BUSY_TIMEOUT_S


class Snapshot:
    """An SQLite file as it was when this was opened, whatever is written to it since.

    In WAL mode nobody waits for it. In the older mode writers wait until it is closed.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    MontangoError
        It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None
        )
        try:
            self._connection.execute("BEGIN")
            # a transaction begins with its first question
            self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            self._connection.close()
            raise MontangoError(f"{path} cannot be read ({error}); see `montango doctor`") from error

    def copy(self, target: Path) -> None:
        """Write it to a new file, and see that the copy is sound.

        Raises
        ------
        MontangoError
            It is damaged, or cannot be written.
        """
        try:
            with closing(sqlite3.connect(target)) as copied:
                self._connection.backup(copied)
                (state,) = copied.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.Error as error:
            raise MontangoError(f"{self.path} cannot be copied to {target} ({error})") from error
        if state != "ok":
            raise MontangoError(
                f"{self.path} is damaged ({state}); move it away, restore an older backup, and run "
                f"`montango journal replay`"
            )

    def close(self) -> None:
        """End it."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def copy_files(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Copy SQLite files into a folder; the first is never newer than the others.

    The catalog comes first: it says of a run that it has ended when all else of it is written, so a run that
    has ended in the copy has all its rows there. Numbers that a database counts are never behind.
    """
    if not paths:
        return []
    first, *others = paths
    with ExitStack() as stack:
        oldest = stack.enter_context(Snapshot(first))
        copies = []
        for path in others:  # one at a time: writers of some wait for it
            with Snapshot(path) as snapshot:
                copies.append(folder / path.name)
                snapshot.copy(copies[-1])
        oldest.copy(folder / first.name)
    return [folder / first.name, *copies]
