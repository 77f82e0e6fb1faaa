"""Around the application: a client that takes nothing is let go; what lives with the server is started.

And a page of the browser's program is a page: Tiled 0.2.20 joins what follows ``/ui/`` to its folder as is,
so that ``/ui//etc/passwd`` was any file of the host, for anybody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.responses import PlainTextResponse

from tiled_server.index.watch import Application, Message, Receive, Scope, Send

_log = logging.getLogger(__name__)

STALL_S: Final = 60.0
"""Longest time that a client may take for one piece of an answer (a quarter of a MB of a file), s."""

Step = Callable[[], Awaitable[Any]]


_PAGES: Final = "/ui/"
_LONGEST: Final = 250
"""Longest name of a file, bytes."""
_NOT_FOUND: Final = PlainTextResponse("Not Found", 404)


def _leads_out(scope: Scope) -> bool:
    """Let a path to a page begin in the folder of the pages; return whether it leads out of it."""
    path = str(scope["path"])
    if not path.startswith(_PAGES):
        return False
    inside = path.removeprefix(_PAGES).lstrip("/")
    # the program has addresses of its own with several slashes
    scope["path"] = _PAGES + inside
    parts = inside.replace("\\", "/").split("/")
    return ".." in parts or "\0" in inside or any(len(part.encode()) > _LONGEST for part in parts)


class Guarded:
    """An application whose slow readers hold nothing for ever.

    Parameters
    ----------
    application
        The ASGI application.
    stall_s
        How long a client may take for one piece of an answer, s.
    start, stop
        Awaited before the application starts, and after it stopped.
    """

    def __init__(
        self, application: Application, *, stall_s: float = STALL_S, start: Step | None = None,
        stop: Step | None = None,
    ) -> None:  # fmt: skip
        self._application = application
        self._stall_s = stall_s
        self._start, self._stop = start, stop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or the life of the application."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] == "http" and _leads_out(scope):
            await _NOT_FOUND(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await self._application(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        stalled = False

        async def sent(message: Message) -> None:
            nonlocal stalled
            try:
                async with asyncio.timeout(self._stall_s):
                    await send(message)
            except TimeoutError:
                stalled = True
                raise

        try:
            await self._application(scope, receive, sent)
        except Exception:
            if not stalled:
                raise
            # returning before the end of the answer makes the server close the connection
            client = scope.get("client") or ("unknown",)
            _log.warning(
                "%s took nothing of %s for %g s and is let go", client[0], scope["path"], self._stall_s
            )

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def received() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup" and self._start is not None:
                await self._start()
            return message

        async def sent(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown.") and self._stop is not None:
                await self._stop()
            await send(message)

        await self._application(scope, received, sent)
