"""Parameters of the routes: read from the address, refused by name, value and what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Final

from fastapi import HTTPException

KEY: Final = "api_key"
"""Tiled's own parameter."""
_LONGEST: Final = 500
_PLUS: Final = re.compile(r"(T\S*) (?=\d\d:?\d\d$)")
"""The space that the "+" of a zone becomes in an address that was not encoded."""


class Parameters:
    """The parameters of one request.

    Parameters
    ----------
    given
        As in the address.
    known
        Names that the route has.

    Raises
    ------
    HTTPException
        422: one is not known, or too long.
    """

    def __init__(self, given: Mapping[str, str], known: Collection[str]) -> None:
        self._given = {name: value for name, value in given.items() if name != KEY and value != ""}
        for name, value in self._given.items():
            if name not in known:
                raise refused(name, value, f"not a parameter here; there are {', '.join(sorted(known))}")
            if len(value) > _LONGEST or "\0" in value:
                raise refused(name, value[:20] + "...", f"at most {_LONGEST} characters are allowed, no NUL")

    def text(self, name: str) -> str | None:
        """Return a text; None without it."""
        return self._given.get(name)

    def texts(self, names: Iterable[str]) -> dict[str, str]:
        """Return those of some texts that are given."""
        return {name: self._given[name] for name in names if name in self._given}

    def choice(self, name: str, allowed: Collection[str], default: str | None = None) -> str | None:
        """Return one of some words."""
        value = self._given.get(name, default)
        if value is not None and value not in allowed:
            raise refused(name, value, f"allowed are {', '.join(allowed)}")
        return value

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        """Return a whole number within limits."""
        value = self._optional_whole(name, low, high)
        return default if value is None else value

    def optional_whole(self, name: str, low: int, high: int) -> int | None:
        """Return a whole number within limits; None without it."""
        return self._optional_whole(name, low, high)

    def flag(self, name: str, *, default: bool) -> bool:
        """Return whether 0 or 1 is given."""
        return self.choice(name, ("0", "1"), "1" if default else "0") == "1"

    def time(self, name: str) -> float | None:
        """Return a time, Unix time in s, given as such or as ISO 8601; without a zone it is the server's."""
        value = self._given.get(name)
        if value is None:
            return None
        try:
            seconds = float(value)
        except ValueError:
            try:
                seconds = datetime.fromisoformat(_PLUS.sub(r"\1+", value)).timestamp()
            except (ValueError, OverflowError, OSError):
                seconds = math.nan
        if not math.isfinite(seconds):
            raise refused(name, value, "Unix time in s, or ISO 8601 such as 2026-11-21T16:25, is allowed")
        return seconds

    def only_one(self, *names: str) -> None:
        """Refuse more than one of these."""
        given = [name for name in names if name in self._given]
        if len(given) > 1:
            raise refused(given[1], self._given[given[1]], f"{given[0]} is given too; only one is allowed")

    def _optional_whole(self, name: str, low: int, high: int) -> int | None:
        value = self._given.get(name)
        if value is None:
            return None
        try:
            number = int(value)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise refused(name, value, f"a whole number from {low} to {high} is allowed")
        return number


def refused(name: str, value: str, what: str) -> HTTPException:
    """Return the answer to a parameter that is wrong."""
    return HTTPException(422, f"{name} = {value!r}: {what}")
