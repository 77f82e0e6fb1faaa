"""What the index learns from requests, and what it leaves alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tiled_server.index.watch import Message, Receive, Scope, Send, Watched, changed_run


class Heard:
    def __init__(self) -> None:
        self.words: list[str] = []

    def changed(self, key: str) -> None:
        self.words.append(key)

    async def start(self) -> None:
        self.words.append("started")

    async def stop(self) -> None:
        self.words.append("stopped")


@pytest.mark.parametrize(
    ("method", "path", "key"),
    [
        ("POST", "/api/v1/metadata/", ""),
        ("POST", "/api/v1/metadata/run-1", "run-1"),
        ("PATCH", "/api/v1/metadata/run-1", "run-1"),
        ("DELETE", "/api/v1/metadata/run-1/qc", "run-1"),
        ("POST", "/api/v1/register/run-1/tiles", "run-1"),
        ("PUT", "/api/v1/data_source/run-1/tiles/image", "run-1"),
        ("PATCH", "/api/v1/table/partition/run-1/qc/internal", "run-1"),
        ("PUT", "/api/v1/array/block/run-1/x", "run-1"),
        ("DELETE", "/api/v1/revisions/a%20run", "a run"),
        ("GET", "/api/v1/metadata/run-1", None),
        ("POST", "/custom/index", None),
        ("POST", "/api/v1/auth/apikey", None),
        ("POST", "/api/v1/metadata2/run-1", None),
    ],
)
def test_the_address_tells_the_run(method: str, path: str, key: str | None) -> None:
    assert changed_run({"type": "http", "method": method, "path": path}) == key


@pytest.mark.parametrize(
    ("status", "told"), [(200, ["run-1"]), (204, ["run-1"]), (403, []), (500, []), (None, ["run-1"])]
)
def test_only_what_was_not_refused_is_told(status: int | None, told: list[str]) -> None:
    """None: the client goes away before there is an answer, but after its data were written."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if status is None:
            raise asyncio.CancelledError
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    heard = Heard()
    sent: list[Message] = []

    async def ask() -> None:
        scope = {"type": "http", "method": "PATCH", "path": "/api/v1/metadata/run-1"}
        try:
            await Watched(application, heard)(scope, receive, send)
        except asyncio.CancelledError:
            assert status is None

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(ask())
    assert heard.words == told
    assert len(sent) == (0 if status is None else 2)


def test_the_watcher_lives_as_long_as_the_application() -> None:
    heard = Heard()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        heard.words.append("application up")
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        heard.words.append("application down")

    async def live() -> None:
        messages: list[Any] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

        async def receive() -> Message:
            message: Message = messages.pop(0)
            return message

        async def send(message: Message) -> None:
            heard.words.append("answers")

        await Watched(application, heard)({"type": "lifespan"}, receive, send)

    asyncio.run(live())
    assert heard.words == ["application up", "started", "answers", "stopped", "application down"]
