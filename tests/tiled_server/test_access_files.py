"""Raw files: ids that tell nothing, parts of a file, what is not handed out, clients that take nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.tiled_server.serving import served
from tiled_server.access.file_ids import FileIds
from tiled_server.access.file_lookup import Readable
from tiled_server.access.guard import Guarded
from tiled_server.access.ranges import CHUNK_BYTES, NoSuchRange, Part, file_response, wanted_part


@given(st.integers(0, 2**31 - 1), st.text(max_size=50))
def test_an_id_is_its_assets_alone(number: int, uri: str) -> None:
    ids, others = FileIds("a"), FileIds("b")
    made = ids.of(number, uri)
    assert ids.number(made) == number
    assert ids.matches(made, number, uri)
    assert not others.matches(made, number, uri)
    assert not ids.matches(made, number, uri + "x")
    assert not ids.matches(ids.of(number + 1, uri), number, uri)


@pytest.mark.parametrize("text", ["", "7", "../../etc/passwd", "g" * 48, "a" * 47, "A" * 48, "a" * 49])
def test_a_text_that_is_no_id(text: str) -> None:
    assert FileIds("a").number(text) is None


@pytest.mark.parametrize(
    ("header", "size", "part"),
    [
        (None, 10, None),
        ("bytes=0-0", 10, Part(0, 1)),
        ("bytes=3-", 10, Part(3, 7)),
        ("bytes=-4", 10, Part(6, 4)),
        ("bytes=-400", 10, Part(0, 10)),
        ("bytes=2-9999999999999999999", 10, Part(2, 8)),
    ],
)
def test_ranges(header: str | None, size: int, part: Part | None) -> None:
    assert wanted_part(header, size) == part


@pytest.mark.parametrize(
    "header",
    [
        "bytes=10-", "bytes=5-4", "bytes=-0", "bytes=-", "bytes=", "bytes=0-1,3-4", "items=0-1", "bytes=a-b",
        "bytes=0-99999999999999999999", "bytes=٣-٤", "bytes=" + "0-1," * 1000, "bytes=--5",
    ],
)  # fmt: skip
def test_ranges_that_are_none(header: str) -> None:
    with pytest.raises(NoSuchRange):
        wanted_part(header, 10)


@settings(deadline=None)
@given(st.text(max_size=40), st.integers(0, 1000))
def test_a_range_stays_in_the_file(header: str, size: int) -> None:
    for text in (header, f"bytes={header}"):
        try:
            part = wanted_part(text, size)
        except NoSuchRange:
            continue
        assert part is None or (part.start >= 0 and part.length > 0 and part.start + part.length <= size)


def test_only_plain_files_of_the_folders_are_handed_out(tmp_path: Path) -> None:
    inside, outside = tmp_path / "data", tmp_path / "other"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a.h5").write_bytes(b"12345")
    readable = Readable([inside])
    assert readable.size(inside / "a.h5") == 5
    (inside / "in.h5").symlink_to(inside / "a.h5")
    assert readable.size(inside / "in.h5") == 5
    (inside / "out.h5").symlink_to(outside / "a.h5")
    (inside / "up").symlink_to(outside)
    os.mkfifo(inside / "pipe")
    for path in (
        outside / "a.h5", inside / "out.h5", inside / "up" / "a.h5", inside / ".." / "other" / "a.h5",
        inside, inside / "pipe", inside / "none.h5", tmp_path / "data2" / "a.h5",
    ):  # fmt: skip
        assert readable.size(path) is None, path
    # a folder whose name begins like that of a readable one is another
    (tmp_path / "data2").mkdir()
    (tmp_path / "data2" / "a.h5").write_bytes(b"1")
    assert readable.size(tmp_path / "data2" / "a.h5") is None


def files_of(folder: Path) -> Starlette:
    readable = Readable([folder])

    async def answer(request: Request) -> Response:
        name = request.path_params["name"]
        if name == "word":
            return PlainTextResponse("here")
        return file_response(request, readable.open(folder / name), name)

    return Starlette(routes=[Route("/{name}", answer)])


def test_a_file_over_http(tmp_path: Path) -> None:
    path = tmp_path / "ä b.h5"
    path.write_bytes(data := os.urandom(3 * CHUNK_BYTES + 5))
    with served(files_of(tmp_path)) as address, httpx.Client(base_url=address, timeout=60) as web:
        whole = web.get(f"/{path.name}")
        assert (whole.status_code, whole.content) == (200, data)
        assert "filename*=utf-8''%C3%A4%20b.h5" in whole.headers["content-disposition"]
        tag = whole.headers["etag"]
        part = web.get(f"/{path.name}", headers={"Range": "bytes=100-399999", "If-Range": tag})
        assert (part.status_code, part.content) == (206, data[100:400000])
        assert part.headers["content-range"] == f"bytes 100-399999/{len(data)}"
        assert web.get(f"/{path.name}", headers={"If-None-Match": f'"x", W/{tag}'}).status_code == 304
        past = web.get(f"/{path.name}", headers={"Range": "bytes=99999999-"})
        assert (past.status_code, past.headers["content-range"]) == (416, f"bytes */{len(data)}")
        assert web.get(f"/{path.name}", headers={"Range": "bytes=0-1,2-3"}).status_code == 416
        path.write_bytes(data + b"more")
        grown = web.get(f"/{path.name}", headers={"Range": "bytes=0-9", "If-Range": tag})
        assert (grown.status_code, grown.content) == (200, data + b"more")


def test_a_reader_that_takes_nothing_is_let_go_and_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(64 << 20))
    application = files_of(tmp_path)

    async def passed(request: Request, call_next: Any) -> Response:
        found: Response = await call_next(request)
        return found

    # Tiled has several of these around its routes
    application.add_middleware(BaseHTTPMiddleware, dispatch=passed)
    under_way: set[object] = set()

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        mark = object()
        under_way.add(mark)
        try:
            await Guarded(application, stall_s=0.5)(scope, receive, send)
        finally:
            under_way.discard(mark)

    with served(counted) as address:
        slow = [socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) for _ in range(4)]
        try:
            for one in slow:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                one.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            deadline = time.monotonic() + 60
            answered = 0
            while len(under_way) or not answered:
                assert httpx.get(f"{address}/word", timeout=60).text == "here"
                answered += 1
                assert time.monotonic() < deadline, "they are still held"
            held = [link for link in Path("/proc/self/fd").iterdir() if _target(link).endswith("/large")]
            assert not held
        finally:
            for one in slow:
                one.close()


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def test_a_client_in_time_and_the_life_of_a_server() -> None:
    asyncio.run(life())


async def life() -> None:
    said: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            assert (await receive())["type"] == "lifespan.startup"
            said.append("up")
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        raise ValueError("an error of the application stays one")

    async def step(word: str) -> None:
        said.append(word)

    guarded = Guarded(application, start=lambda: step("start"), stop=lambda: step("stop"))
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        said.append(message["type"])

    await guarded({"type": "lifespan"}, receive, send)
    assert said == ["start", "up", "lifespan.startup.complete", "stop", "lifespan.shutdown.complete"]
    with pytest.raises(ValueError, match="stays one"):
        await guarded({"type": "http", "path": "/"}, receive, send)
