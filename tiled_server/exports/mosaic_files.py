"""The files of a live mosaic, OME-Zarr 0.5, from one of its levels on; shards stay as they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from devices.errors import ConfigurationError
from tiled_server.exports.output import Progress

METADATA: Final = "zarr.json"
FILE: Final = "tiles.json"
"""Which tiles a mosaic shows."""
KEY: Final = "montango"
"""Where the metadata say what only Montango reads."""


def kept_levels(folder: Path, level: int) -> Iterator[tuple[str, bytes | Path]]:
    """Yield names and contents of the files of a mosaic from a level on.

    Levels keep their names; the metadata name those that are there.

    Raises
    ------
    ConfigurationError
        It is no mosaic, or has not that many levels.
    """
    group = _group(folder, level)
    datasets = group["attributes"]["ome"]["multiscales"][0]["datasets"]
    yield METADATA, json.dumps(group, indent=1).encode()
    for one in datasets:
        for path in sorted((folder / one["path"]).rglob("*")):
            if path.is_file():
                yield path.relative_to(folder).as_posix(), path
    if level == 0 and (folder / FILE).is_file():
        yield FILE, folder / FILE


def _group(folder: Path, level: int) -> dict[str, Any]:
    try:
        group: dict[str, Any] = json.loads((folder / METADATA).read_bytes())
        datasets = group["attributes"]["ome"]["multiscales"][0]["datasets"]
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ConfigurationError(f"{folder} is no mosaic that can be read: {error}") from error
    if level >= len(datasets):
        raise ConfigurationError(f"--level {level}: the mosaic {folder} has levels 0 to {len(datasets) - 1}")
    group["attributes"]["ome"]["multiscales"][0]["datasets"] = datasets[level:]
    if level:
        # without its first level nothing can go on with it
        own = group["attributes"].get(KEY, {})
        own.pop("layout", None)
        own["first_level"] = level
    return group


def mosaic_bytes(folder: Path, level: int) -> int:
    """Return how many bytes the levels of a mosaic from a level on take."""
    return sum(
        content.stat().st_size if isinstance(content, Path) else len(content)
        for _, content in kept_levels(folder, level)
    )


def copy_mosaic(source: Path, target: Path, level: int, progress: Progress) -> None:
    """Write the levels of a mosaic from a level on into a folder."""
    for name, content in kept_levels(source, level):
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        else:
            path.write_bytes(content)
        progress.step(path.stat().st_size)
