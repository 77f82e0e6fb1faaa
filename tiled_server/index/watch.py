"""How the index learns which runs changed: it looks at the addresses of requests that write."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, Protocol
from urllib.parse import unquote

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

API: Final = "/api/v1/"
_WRITING: Final = {"POST", "PUT", "PATCH", "DELETE"}
_PARTS: Final = {
    "metadata": 1,
    "register": 1,
    "data_source": 1,
    "revisions": 1,
    "asset": 1,
    "array": 2,
    "table": 2,
    "node": 2,
    "awkward": 2,
    "ragged": 2,
    "sparse": 2,
    "stream": 2,
}
"""First words of the addresses that change a node, and how many words come before the node's own path."""


class Watcher(Protocol):
    """Whoever wants to know what changed."""

    def changed(self, key: str) -> None:
        """Take the key of a run that may have changed; empty: there may be a new one."""

    async def start(self) -> None:
        """Begin: the server is about to answer."""

    async def stop(self) -> None:
        """End: the server stops."""


class Watched:
    """An application whose writing requests are told to a watcher once they are done.

    Parameters
    ----------
    application
        The ASGI application.
    watcher
        It is started and stopped with the application. It is told only of requests that were not refused.
    """

    def __init__(self, application: Application, watcher: Watcher) -> None:
        self._application = application
        self._watcher = watcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or the life of the application."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        key = changed_run(scope) if scope["type"] == "http" else None
        if key is None:
            await self._application(scope, receive, send)
            return
        refused = False

        async def watched(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start":
                refused = message["status"] >= 400
            await send(message)

        try:
            await self._application(scope, receive, watched)
        finally:
            # a client that went away does not undo what was written
            if not refused:
                self._watcher.changed(key)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def received() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self._watcher.stop()
            return message

        async def sent(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self._watcher.start()
            await send(message)

        await self._application(scope, received, sent)


def changed_run(scope: Scope) -> str | None:
    """Return the key of the run that a request writes to; empty for a new run; None if it writes to none."""
    path = str(scope.get("path", ""))
    if scope.get("method") not in _WRITING or not path.startswith(API):
        return None
    words = [unquote(word) for word in path.removeprefix(API).split("/")]
    skipped = _PARTS.get(words[0])
    if skipped is None:
        return None
    own = [word for word in words[skipped:] if word]
    return own[0] if own else ""
