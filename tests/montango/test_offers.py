"""Plans as a session offers them."""

from __future__ import annotations

import inspect
from collections.abc import Generator
from functools import partial
from typing import Any

from bluesky.utils import Msg

from montango.offers import bind, offered_plans


def plan(device: str, *, store: str, control: str | None = None, other: int = 0) -> Generator[Msg, Any, Any]:
    """Return what it was given."""
    yield Msg("null")
    return device, store, control, other


def result(made: Generator[Msg, Any, Any]) -> Any:
    """Run a plan to its end and return its result."""
    try:
        while True:
            next(made)
    except StopIteration as end:
        return end.value


def test_a_session_gives_what_the_caller_does_not() -> None:
    asked: list[str] = []

    def offer(name: str) -> str:
        asked.append(name)
        return f"the session's {name}"

    bound = bind(plan, {name: partial(offer, name) for name in ("store", "control", "verdicts")})
    assert result(bound("stage")) == ("stage", "the session's store", "the session's control", 0)
    assert result(bound("stage", control=None, other=2)) == ("stage", "the session's store", None, 2)
    assert asked.count("control") == 1
    assert "verdicts" not in asked


def test_a_bound_plan_shows_its_own_signature_and_help() -> None:
    bound = bind(plan, {})
    assert inspect.signature(bound) == inspect.signature(plan)
    assert bound.__doc__ == plan.__doc__


def test_every_plan_of_the_namespace_exists_and_is_a_plan() -> None:
    plans = offered_plans()
    assert {"montage", "resume_montage", "survey", "run_samples", "calibrate_dark"} <= set(plans)
    assert all(inspect.isgeneratorfunction(one) for one in plans.values())
