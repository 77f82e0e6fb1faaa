"""BLAKE3 checksums of files, as ``b3sum`` makes them (https://github.com/BLAKE3-team/BLAKE3)."""

from __future__ import annotations

from pathlib import Path

import blake3


def checksum(path: Path) -> str:
    """Return the checksum of a file, in hexadecimal. Raises OSError where it cannot be read."""
    hasher = blake3.blake3()
    hasher.update_mmap(path)
    return str(hasher.hexdigest())
