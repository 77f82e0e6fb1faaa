"""What a backup has: ``manifest.json`` with the facts, ``manifest-blake3.txt`` with a checksum a file.

The second is as ``b3sum --check`` reads it: BLAKE3 (https://github.com/BLAKE3-team/BLAKE3), two spaces, name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from devices.errors import ConfigurationError, MontangoError
from tiled_server.checksums import checksum

FORMAT: Final = 1
FACTS: Final = "manifest.json"
CHECKSUMS: Final = "manifest-blake3.txt"


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write facts, and the checksums of all files of a folder; all of it is on disk when this returns."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    files = {name: {"bytes": (folder / name).stat().st_size} for name in names}
    text = json.dumps({"format": FORMAT, **facts, "files": files}, indent=1, sort_keys=True)
    (folder / FACTS).write_text(text + "\n")
    lines = [f"{checksum(folder / name)}  {name}\n" for name in [*names, FACTS]]
    (folder / CHECKSUMS).write_text("".join(lines))
    for name in [*names, FACTS, CHECKSUMS]:
        (folder / name).chmod(0o600)  # people and keys are in them, wherever they are copied to
    sync([*(folder / name for name in [*names, FACTS, CHECKSUMS]), folder])


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the facts of a backup whose files are all as they were written.

    Raises
    ------
    ConfigurationError
        There is no backup, or it is of a later version.
    MontangoError
        A file is missing, or another than it was.
    """
    try:
        lines = (folder / CHECKSUMS).read_text().splitlines()
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{folder} is not a backup of a catalog ({error}); name the folder that "
            f"`montango catalog backup` wrote"
        ) from None
    if facts.get("format") != FORMAT:
        raise ConfigurationError(
            f"{folder} is a backup of format {facts.get('format')}, this version reads {FORMAT}; restore it "
            f"with the version that wrote it ({facts.get('software', {}).get('montango', 'unknown')})"
        )
    expected = {name: known for known, _, name in (line.partition("  ") for line in lines)}
    if wrong := [name for name in {*facts["files"], FACTS} if name not in expected]:
        raise MontangoError(f"{folder / CHECKSUMS} does not name {', '.join(sorted(wrong))}; {_ELSE}")
    for name, known in expected.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise MontangoError(f"{path} is missing; {_ELSE}")
        if checksum(path) != known:
            raise MontangoError(f"{path} is not as it was written (its BLAKE3 checksum differs); {_ELSE}")
    return facts


_ELSE: Final = "restore another backup"


def sync(paths: Iterable[Path]) -> None:
    """Put files and folders on disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
