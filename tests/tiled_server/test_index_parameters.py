"""Parameters of the index's routes: what is refused is named, with what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import HTTPException

from tiled_server.index.parameters import Parameters

KNOWN = ("n", "by", "since", "flag", "montage", "session")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1795280117.5", 1795280117.5),
        ("2026-11-21T16:25:00+00:00", 1795278300.0),
        ("2026-11-21T17:25:00 01:00", 1795278300.0),
        ("2026-11-21 16:25:00Z", 1795278300.0),
        ("2026-11-21T16:25:00.500+0000", 1795278300.5),
    ],
)
def test_times_are_unix_time_or_iso(value: str, seconds: float) -> None:
    assert Parameters({"since": value}, KNOWN).time("since") == seconds


def test_what_is_not_given_has_its_default() -> None:
    given = Parameters({"api_key": "secret", "by": ""}, KNOWN)
    assert (given.text("montage"), given.time("since"), given.choice("by", ("a",))) == (None, None, None)
    assert (given.whole("n", 5, 0, 9), given.optional_whole("n", 0, 9)) == (5, None)
    assert given.flag("flag", default=True)
    given.only_one("montage", "session")


@pytest.mark.parametrize(
    ("given", "read", "words"),
    [
        ({"m": "1"}, lambda one: one.text("m"), ("m = '1'", "by, flag, montage, n, session, since")),
        ({"n": "10"}, lambda one: one.whole("n", 1, 0, 9), ("n = '10'", "from 0 to 9")),
        ({"n": "x"}, lambda one: one.whole("n", 1, 0, 9), ("n = 'x'", "from 0 to 9")),
        ({"n": "-1"}, lambda one: one.optional_whole("n", 0, 9), ("n = '-1'", "from 0 to 9")),
        ({"by": "c"}, lambda one: one.choice("by", ("a", "b")), ("by = 'c'", "a, b")),
        ({"flag": "yes"}, lambda one: one.flag("flag", default=False), ("flag = 'yes'", "0, 1")),
        ({"since": "noon"}, lambda one: one.time("since"), ("since = 'noon'", "ISO 8601")),
        ({"since": "nan"}, lambda one: one.time("since"), ("since = 'nan'", "ISO 8601")),
        ({"montage": "a\0"}, lambda one: one.text("montage"), ("montage = ", "NUL")),
        ({"montage": "a" * 501}, lambda one: one.text("montage"), ("montage = ", "500")),
        (
            {"montage": "a", "session": "b"},
            lambda one: one.only_one("montage", "session"),
            ("session = 'b'", "only one"),
        ),
    ],
)
def test_what_is_wrong_is_named(
    given: dict[str, str], read: Callable[[Parameters], Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(HTTPException) as refused:
        read(Parameters(given, KNOWN))
    assert refused.value.status_code == 422
    assert all(word in refused.value.detail for word in words), refused.value.detail
