"""A file as the answer to a request, or a part of it (RFC 9110, sections 8.8, 13.1 and 14)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from typing import Any, Final
from urllib.parse import quote

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

OPAQUE: Final = "binary/octet-stream"
"""A type that Tiled does not compress: a range is one of the file's own bytes."""
CHUNK_BYTES: Final = 1 << 18
_FORM: Final = re.compile(r"\s*bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.ASCII)


class NoSuchRange(Exception):
    """What is asked for is not in the file, or not one range of bytes."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes of a file: the first, and how many."""

    start: int
    length: int


def wanted_part(header: str | None, size: int) -> Part | None:
    """Return the part that a ``Range`` header asks for; None: all of it.

    Raises
    ------
    NoSuchRange
        It asks for several parts, or for bytes after the end.

    Examples
    --------
    >>> wanted_part("bytes=90-", 100), wanted_part("bytes=-5", 100), wanted_part(None, 100)
    (Part(start=90, length=10), Part(start=95, length=5), None)
    """
    if header is None:
        return None
    match = _FORM.fullmatch(header)
    if match is None or not (match[1] or match[2]):
        raise NoSuchRange("one range is allowed, as in bytes=0-499, bytes=500- or bytes=-500")
    if not match[1]:
        length = min(int(match[2]), size)
        start = size - length
    else:
        start = int(match[1])
        last = int(match[2]) if match[2] else size - 1
        if last < start and match[2]:
            raise NoSuchRange("the last byte is before the first")
        length = min(last, size - 1) - start + 1
    if start >= size or length <= 0:
        raise NoSuchRange(f"the file has {size} bytes")
    return Part(start, length)


def etag_of(found: os.stat_result) -> str:
    """Return the tag of what a file holds now: it changes with every write."""
    return f'"{found.st_mtime_ns:x}-{found.st_size:x}-{found.st_ino:x}"'


def file_response(request: Request, file: Any, name: str) -> Response:
    """Return the answer to a request for an open file, which is closed with it.

    Parameters
    ----------
    request
        Its headers ``Range``, ``If-Range``, ``If-None-Match`` count.
    file
        Opened for bytes, without a buffer.
    name
        What it is called for whoever saves it.
    """
    found = os.fstat(file.fileno())
    tag = etag_of(found)
    headers = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Last-Modified": formatdate(found.st_mtime, usegmt=True),
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": f"attachment; filename*=utf-8''{quote(name)}",
    }
    known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        file.close()
        return Response(status_code=304, headers=headers)
    asked = request.headers.get("range")
    if request.headers.get("if-range", tag) != tag:
        asked = None
    try:
        part = wanted_part(asked, found.st_size)
    except NoSuchRange as error:
        file.close()
        headers |= {"Content-Range": f"bytes */{found.st_size}"}
        return Response(str(error), 416, headers, media_type="text/plain")
    taken = part or Part(0, found.st_size)
    headers["Content-Length"] = str(taken.length)
    if part is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.start + part.length - 1}/{found.st_size}"
    return _FilePart(file, taken, 200 if part is None else 206, headers, bare=request.method == "HEAD")


class _FilePart(Response):
    """Some bytes of an open file, which is closed with it, whether the client took them or not."""

    media_type = OPAQUE

    def __init__(
        self, file: Any, part: Part, status_code: int, headers: Mapping[str, str], *, bare: bool
    ) -> None:
        super().__init__(status_code=status_code, headers=headers)
        self._file, self._part, self._bare = file, part, bare

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            at, left = self._part.start, 0 if self._bare else self._part.length
            while left:
                read = partial(os.pread, self._file.fileno(), min(CHUNK_BYTES, left), at)
                data = await anyio.to_thread.run_sync(read)
                if not data:
                    raise OSError("the file became shorter while it was sent")
                at, left = at + len(data), left - len(data)
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._file.close()
