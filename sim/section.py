"""A section of a shared memory map that one process writes and any number read, without a lock.

A section holds two copies of its payload and a counter. The writer fills the copy that readers do not use
and then raises the counter, which names the copy in force: one aligned store of eight bytes. A reader copies
and looks whether the counter has moved. A writer that dies at any moment leaves the copy in force whole.
"""

from __future__ import annotations

import mmap
import struct
from typing import Final

HEADER: Final = 64
_LENGTH = struct.Struct("<Q")


class Section:
    """A payload of at most ``capacity`` bytes at ``offset`` (a multiple of 64) of a memory map."""

    def __init__(self, memory: mmap.mmap, offset: int, capacity: int) -> None:
        self._memory = memory
        self._counter = memoryview(memory)[offset : offset + 8].cast("Q")
        self._capacity = capacity
        self._copies = (offset + HEADER, offset + HEADER + 8 + capacity)

    @staticmethod
    def size(capacity: int) -> int:
        """Return the bytes that a section takes in the map."""
        return HEADER + 2 * (8 + capacity)

    @property
    def version(self) -> int:
        """How often the section has been written; the copy in force is that of this version."""
        return self._counter[0]

    def read(self) -> tuple[int, bytes]:
        """Return the version and the payload in force (empty before the first write)."""
        while True:
            version = self._counter[0]
            at = self._copies[version & 1]
            (length,) = _LENGTH.unpack_from(self._memory, at)
            payload = self._memory[at + 8 : at + 8 + min(length, self._capacity)]
            if self._counter[0] == version:
                return version, payload

    def write(self, payload: bytes) -> int:
        """Put a payload in force and return its version; for the one writer of the section."""
        if len(payload) > self._capacity:
            raise ValueError(f"payload of {len(payload)} bytes exceeds the section's {self._capacity}")
        version = self._counter[0] + 1
        at = self._copies[version & 1]
        _LENGTH.pack_into(self._memory, at, len(payload))
        self._memory[at + 8 : at + 8 + len(payload)] = payload
        self._counter[0] = version
        return version

    def release(self) -> None:
        """Let go of the memory map, so that it can be closed."""
        self._counter.release()
