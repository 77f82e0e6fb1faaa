"""Files and folders that come whole or not at all: written beside their place, renamed at the end."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from devices.errors import ConfigurationError, MontangoError

Report = Callable[[int, int, int], object]
"""Called with the steps done, of how many, and the bytes written."""
MARGIN: Final = 64 << 20
"""Bytes that are left free on a disk."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ExportError(MontangoError):
    """An export was not finished; nothing of it is under its name."""


class Progress:
    """Counts what is done, and tells it; `check` may raise to end the work.

    Parameters
    ----------
    of
        Steps that there are.
    report
        Who is told.
    """

    def __init__(self, of: int, report: Report) -> None:
        self.of, self.done, self.bytes = of, 0, 0
        self._report = report
        report(0, of, 0)

    def step(self, written: int = 0) -> None:
        """Count a step, and the bytes that it wrote."""
        self.done += 1
        self.bytes += written
        self._report(self.done, self.of, self.bytes)


@dataclass(frozen=True)
class Place:
    """Where an export is written: ``part``, until it has its name, ``final``."""

    final: Path
    part: Path


@contextmanager
def placed(finals: Sequence[Path], *, overwrite: bool, folder: bool = False) -> Iterator[list[Place]]:
    """Yield places to write to; at the end all get their names, the first one last.

    After an error, or where the process was ended by an exception, nothing is left of what was written, and
    what was there before stays.

    Parameters
    ----------
    finals
        Files or folders in one folder.
    overwrite
        Replace them where they are there. A folder is replaced only if it was made by an export.
    folder
        They are folders.

    Raises
    ------
    ConfigurationError
        One is there already, or the folder that it is to be in is not, or cannot be written.
    ExportError
        The disk is full, or another error of the file system.
    """
    check_places(finals, overwrite=overwrite, folder=folder)
    mark = f".{uuid.uuid4().hex[:8]}.part"
    places = [Place(final, final.with_name(f".{final.name}{mark}")) for final in finals]
    try:
        yield places
        for place in reversed(places):
            _rename(place)
    except OSError as error:
        _discard(places)
        raise ExportError(f"{finals[0]} was not written{_why(error)}") from error
    except BaseException:
        _discard(places)
        raise


def _why(error: OSError) -> str:
    # libraries that write by themselves give no number
    text = str(error)
    if error.errno in _FULL or (error.errno is None and ("written" in text or "write" in text)):
        return ", the disk is full: make room, or name a place on another disk with --out"
    return f": {error.strerror or error}"


def check_places(finals: Sequence[Path], *, overwrite: bool, folder: bool) -> None:
    """Raise ConfigurationError where something cannot be written under its name; see `placed`."""
    for final in finals:
        if not final.parent.is_dir():
            raise ConfigurationError(f"{final.parent}, where {final.name} is to be written, is no folder")
        if not os.access(final.parent, os.W_OK):
            raise ConfigurationError(f"{final.parent}, where {final.name} is to be written, is read-only")
        if not (final.exists() or final.is_symlink()):
            continue
        if not overwrite:
            raise ConfigurationError(f"{final} exists already: name another with --out, or give --overwrite")
        if folder and not final.is_dir():
            raise ConfigurationError(
                f"{final} is a file, and the export is a folder: name another with --out"
            )
        if final.is_dir() and not (folder and is_export(final)):
            raise ConfigurationError(f"{final} is a folder that no export made: it is not overwritten")


def check_space(folder: Path, needed: int) -> None:
    """Raise ConfigurationError where a disk has not the room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed + MARGIN:
        raise ConfigurationError(
            f"{folder} has {free / 1e9:.2f} GB free and the export takes {needed / 1e9:.2f} GB: make room, "
            "or name a place on another disk with --out"
        )


def is_export(folder: Path) -> bool:
    """Return whether a folder is one that an export made."""
    return any((folder / name).is_file() for name in ("zarr.json", "trakem2.xml", "render.json"))


def size_of(path: Path) -> int:
    """Return how many bytes a file, or all files of a folder, have."""
    if path.is_dir():
        return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
    return path.stat().st_size


def _rename(place: Place) -> None:
    if place.final.is_dir() and not place.final.is_symlink():
        old = place.part.with_suffix(".old")
        place.final.rename(old)
        try:
            place.part.rename(place.final)
        except OSError:
            old.rename(place.final)
            raise
        shutil.rmtree(old)
    else:
        place.part.replace(place.final)


def _discard(places: Sequence[Place]) -> None:
    for place in places:
        if place.part.is_dir():
            shutil.rmtree(place.part, ignore_errors=True)
        else:
            place.part.unlink(missing_ok=True)
