"""Plans that a pause can strike anywhere, without a message being lost or sent twice.

The RunEngine pauses at once by cancelling what it does at that moment. A rewindable plan is then repeated
from its last checkpoint: tiles would be exposed again. A plan that is not rewindable goes on with its next
message instead, and the cancelled one is lost: a `wait` that is cut short looks like one that has ended, a
question is answered with None (bluesky 1.15). In `unbroken` the messages that a pause can cut are sent until
they have really ended: waits go on where they were, questions keep their answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bluesky.utils import FailedStatus, Msg

T = TypeVar("T")
STARTS = frozenset({"set", "trigger", "kickoff", "complete", "prepare"})
"""Messages whose answer is a status; what they begin goes on while the RunEngine is paused."""
REPEATED = frozenset({"locate", "read"})
"""Messages that may be sent again when a pause has cut them: they change nothing the second time."""


@dataclass
class Flight:
    """What a plan has begun that goes on while the RunEngine is paused: statuses by group, questions."""

    groups: dict[Any, list[Any]] = field(default_factory=dict)
    questions: set[asyncio.Future[Any]] = field(default_factory=set)

    def busy(self, but: str = "") -> bool:
        """Whether anything has not ended yet; groups whose name begins with ``but`` are left out."""
        statuses = (
            status
            for name, group in self.groups.items()
            if not (but and str(name).startswith(but))
            for status in group
        )
        return any(not status.done for status in statuses) or any(not one.done() for one in self.questions)


def unbroken(plan: Generator[Msg, Any, T], flight: Flight | None = None) -> Generator[Msg, Any, T]:
    """Run a plan so that pauses, suspensions included, neither lose nor repeat one of its messages.

    ``flight`` is kept up to date with what the plan has begun.
    """
    flight = flight or Flight()
    answer: Any = None
    failure: BaseException | None = None
    while True:
        try:
            message = plan.send(answer) if failure is None else plan.throw(failure)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        failure, answer = None, None
        try:
            answer = yield from _send(message, flight)
        except GeneratorExit:
            plan.close()
            raise
        except BaseException as error:  # noqa: BLE001  # every exception of the RunEngine is the plan's
            failure = error


def _send(message: Msg, flight: Flight) -> Generator[Msg, Any, Any]:
    if message.command == "wait_for":
        return (yield from _question(message, flight.questions))
    if message.command == "sleep":
        return (yield from _sleep(message))
    answer = yield message
    if message.command in STARTS:
        flight.groups.setdefault(message.kwargs.get("group"), []).append(answer)
    elif message.command == "wait":
        return (yield from _wait(message, answer, flight.groups))
    elif message.command in REPEATED:
        while answer is None:
            answer = yield message
    return answer


def _question(message: Msg, running: set[asyncio.Future[Any]] | None = None) -> Generator[Msg, Any, Any]:
    """Await each coroutine of a ``wait_for`` once, however often the wait is cut."""
    (factories,) = message.args
    tasks: list[asyncio.Future[Any]] = []

    def once(at: int) -> Callable[[], Awaitable[Any]]:
        def begun() -> Awaitable[Any]:
            if at == len(tasks):
                tasks.append(asyncio.ensure_future(factories[at]()))
                if running is not None:
                    running.add(tasks[at])
                    tasks[at].add_done_callback(running.discard)
            return tasks[at]

        return begun

    try:
        answer = None
        while answer is None:
            answer = yield message._replace(args=([once(at) for at in range(len(factories))],))
    except BaseException:
        for task in tasks:
            task.cancel()
        raise
    return answer


def _sleep(message: Msg) -> Generator[Msg, Any, None]:
    """Sleep the whole time, even if a pause cuts into it."""
    end = time.monotonic() + message.args[0]
    left = message.args[0]
    while True:
        yield message._replace(args=(left,))
        left = end - time.monotonic()
        if left <= 1e-3:
            return


def _wait(message: Msg, answer: Any, groups: dict[Any, list[Any]]) -> Generator[Msg, Any, Any]:
    """Go on waiting for the statuses of a group whose wait was cut; the RunEngine has forgotten them."""
    group = message.args[0] if message.args else message.kwargs.get("group")
    timeout_s = message.kwargs.get("timeout")
    statuses = groups.get(group, [])
    if answer is None:
        yield from await_statuses(statuses, timeout_s)
        answer = all(status.done for status in statuses)
        if not answer and message.kwargs.get("error_on_timeout", True):
            raise TimeoutError(f"what group {group!r} started has not ended after {timeout_s} s")
    if answer:
        groups.pop(group, None)
    return answer


def await_statuses(statuses: Iterable[Any], timeout_s: float | None = None) -> Generator[Msg, Any, None]:
    """Wait until statuses are done, at most ``timeout_s``.

    Raises
    ------
    FailedStatus
        What one of them stands for has failed.
    """
    statuses = list(statuses)

    async def over() -> None:
        loop = asyncio.get_running_loop()
        ended = [loop.create_future() for _ in statuses]

        def end(future: asyncio.Future[None]) -> None:
            if not future.done():
                future.set_result(None)

        for status, future in zip(statuses, ended, strict=True):
            status.add_callback(lambda _, future=future: loop.call_soon_threadsafe(end, future))
        if ended:
            await asyncio.wait(ended, timeout=timeout_s)

    yield from _question(Msg("wait_for", None, [over]))
    for status in statuses:
        if status.done and not status.success:
            raise FailedStatus(status) from status.exception()
