"""A zip archive of any size, written in constant memory: nothing compressed, the directory waits on disk.

`zipfile` keeps half a kilobyte of every member in memory until the end. Here a member's entry of the
directory goes to a temporary file. Format, with its 64 bit extension and names in UTF-8:
https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

_BLOCK: Final = 1 << 20
_VERSION: Final = 45
_UTF8: Final = 1 << 11
_REGULAR: Final = 0o100644 << 16
_LOCAL: Final = struct.Struct("<4s5H3I2H")
_SIZES: Final = struct.Struct("<2H2Q")
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
_PLACES: Final = struct.Struct("<2H3Q")
_END64: Final = struct.Struct("<4sQ2H2I4Q")
_LOCATOR: Final = struct.Struct("<4sIQI")
_END: Final = struct.Struct("<4s4H2IH")
_ALL: Final = 0xFFFFFFFF
Watch = Callable[[bytes], object]


class ZipWriter:
    """A zip archive that is written from its first to its last member.

    Parameters
    ----------
    path
        The file; it is made anew.

    Raises
    ------
    OSError
        It cannot be written; `add` and `close` raise it, too.
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self._directory = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115  # closed with the archive
        self._count = 0
        now = time.localtime()
        self._date = (max(now.tm_year - 1980, 0) << 9) | (now.tm_mon << 5) | now.tm_mday
        self._time = (now.tm_hour << 11) | (now.tm_min << 5) | (now.tm_sec // 2)

    def add(self, name: str, content: bytes | memoryview | Path | Iterable[bytes], watch: Watch = len) -> int:
        """Add a member; return its size.

        Parameters
        ----------
        name
            Its path in the archive, with ``/``.
        content
            Its bytes, a file, or pieces that are made while they are written.
        watch
            Sees every piece that is written.
        """
        encoded = name.encode()
        at = self._file.tell()
        self._file.write(self._local(encoded, 0, 0))
        crc = size = 0
        for piece in _pieces(content):
            crc = zlib.crc32(piece, crc)
            size += len(piece)
            self._file.write(piece)
            watch(piece)
        end = self._file.tell()
        self._file.seek(at)
        self._file.write(self._local(encoded, crc, size))
        self._file.seek(end)
        extra = _PLACES.pack(1, 24, size, size, at)
        self._directory.write(
            _CENTRAL.pack(
                b"PK\x01\x02", (3 << 8) | _VERSION, _VERSION, _UTF8, 0, self._time, self._date, crc, _ALL,
                _ALL, len(encoded), len(extra), 0, 0, 0, _REGULAR, _ALL,
            )
            + encoded
            + extra
        )  # fmt: skip
        self._count += 1
        return size

    def _local(self, name: bytes, crc: int, size: int) -> bytes:
        head = _LOCAL.pack(
            b"PK\x03\x04", _VERSION, _UTF8, 0, self._time, self._date, crc, _ALL, _ALL, len(name), _SIZES.size
        )
        return head + name + _SIZES.pack(1, 16, size, size)

    def close(self) -> None:
        """Write the directory, and close the file."""
        at = self._file.tell()
        self._directory.seek(0)
        shutil.copyfileobj(self._directory, self._file, _BLOCK)
        end = self._file.tell()
        count, size = self._count, end - at
        self._file.write(
            _END64.pack(b"PK\x06\x06", _END64.size - 12, _VERSION, _VERSION, 0, 0, count, count, size, at)
            + _LOCATOR.pack(b"PK\x06\x07", 0, end, 1)
            + _END.pack(b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, _ALL, _ALL, 0)
        )
        self._release()

    def _release(self) -> None:
        self._directory.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the archive; after an error only let go of the file."""
        if kind is None:
            self.close()
        else:
            self._release()


def _pieces(content: bytes | memoryview | Path | Iterable[bytes]) -> Iterable[bytes]:
    if isinstance(content, bytes):
        yield content
    elif isinstance(content, memoryview):
        view = content.cast("B")
        for first in range(0, len(view), _BLOCK):
            yield bytes(view[first : first + _BLOCK])
    elif isinstance(content, Path):
        with content.open("rb") as file:
            while piece := file.read(_BLOCK):
                yield piece
    else:
        yield from content
