"""The files of a montage: which images are whole, checksums, and whether the catalog may serve them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from devices.errors import ConfigurationError
from processing.frame_list import ListedFile
from processing.stitching.frame_files import FrameError
from processing.stitching.image_parts import Stored, stored
from tiled_server.checksums import checksum
from tiled_server.ingest.source import Source, SourceFrame

_READERS: Final = 4

Report = Callable[[str, int, int], object]
"""Is told what is done, how many are, and of how many."""


@dataclass(frozen=True)
class Usable:
    """The frames of a source that can be served.

    Attributes
    ----------
    frames
        They are all of one size and type.
    shape, dtype
        Height and width, px, and type of their numbers.
    left_out
        (name, reason) of the others.
    """

    frames: tuple[SourceFrame, ...]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    left_out: tuple[tuple[str, str], ...]


def usable(source: Source, report: Report) -> Usable:
    """Return the frames of a source that are whole and of one kind; most decide of which.

    Raises
    ------
    ConfigurationError
        There is none.
    """
    found: list[tuple[SourceFrame, Stored]] = []
    left_out = list(source.left_out)
    with ThreadPoolExecutor(_READERS) as pool:
        for number, (one, seen) in enumerate(
            zip(source.frames, pool.map(_look, source.frames), strict=True), 1
        ):
            if isinstance(seen, str) or seen.damage:
                left_out.append((one.name, seen if isinstance(seen, str) else seen.damage))
            else:
                found.append((one, seen))
            report("images looked at", number, len(source.frames))
    if not found:
        why = f": {left_out[0][0]}: {left_out[0][1]}" if left_out else ""
        raise ConfigurationError(f"{source.path} has no image that can be read{why}")
    kinds = Counter((seen.shape, seen.dtype) for _, seen in found)
    (shape, dtype), _ = kinds.most_common(1)[0]
    for one, seen in found:
        if (seen.shape, seen.dtype) != (shape, dtype):
            left_out.append(
                (
                    one.name,
                    f"it is {seen.dtype}, {seen.shape[1]} x {seen.shape[0]} px, and the montage {dtype}, "
                    f"{shape[1]} x {shape[0]} px",
                )
            )
    kept = tuple(one for one, seen in found if (seen.shape, seen.dtype) == (shape, dtype))
    return Usable(kept, shape, dtype, tuple(left_out))


def _look(one: SourceFrame) -> Stored | str:
    """Return what an image is, or why it cannot be used."""
    try:
        return stored(one.frame)
    except FrameError as error:
        if one.frame.absent():
            return f"{one.frame.path} is not there"
        return str(error)


def listed(paths: Iterable[Path], known: Mapping[Path, ListedFile], report: Report) -> dict[Path, ListedFile]:
    """Return size, time and checksum of files, by their resolved paths.

    Parameters
    ----------
    paths
        The files.
    known
        Those that were listed before: one that has neither another size nor another time is not read again.

    Raises
    ------
    OSError
        A file cannot be read.
    """
    wanted = sorted({path.resolve() for path in paths})
    found = {}
    for number, path in enumerate(wanted, 1):
        before = known.get(path)
        found[path] = before if before is not None and before.unchanged() else _listed(path)
        report("checksums", number, len(wanted))
    return found


def _listed(path: Path) -> ListedFile:
    before = path.stat()
    return ListedFile(path, before.st_size, before.st_mtime_ns, checksum(path))


def check_readable(paths: Iterable[Path], folders: Sequence[Path]) -> None:
    """See that the catalog may serve files, links followed.

    Raises
    ------
    ConfigurationError
        One lies elsewhere; what to do about it.
    """
    resolved = [folder.resolve() for folder in folders]
    outside = [
        path for path in dict.fromkeys(paths) if not any(path.resolve().is_relative_to(at) for at in resolved)
    ]
    if not outside:
        return
    more = f" and {len(outside) - 1} more files" if len(outside) > 1 else ""
    raise ConfigurationError(
        f"{outside[0].resolve()}{more}: the catalog serves files only from "
        f"{', '.join(map(str, resolved)) or 'no folder'}. Add the folder to services.tiled.readable in "
        "montango.yaml and start the lab anew (montango down, montango up), or move the files there"
    )
