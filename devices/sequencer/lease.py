"""Who may queue tables: one owner at a time, known by name to people and by a token to the server."""

from __future__ import annotations

import secrets
from datetime import datetime

from devices.errors import InstrumentFault, LimitError

TOKEN_BITS = 52
"""A token travels in an array of float64, which is exact up to 2^53."""


class Lease:
    """The lease of a sequencer; without an owner anybody may queue."""

    def __init__(self) -> None:
        self.owner = ""
        self._token = 0
        self._since = ""

    def acquire(self, owner: str) -> int:
        """Give the lease to ``owner`` and return the token that its tables must carry.

        An owner that has it already gets a new token: the process that had the old one is shut out.

        Raises
        ------
        LimitError
            The name is empty.
        InstrumentFault
            Somebody else has it.
        """
        if not owner.strip():
            raise LimitError("owner is empty; give a name by which a person finds who drives the sequencer")
        if self.owner not in ("", owner):
            raise InstrumentFault(
                f"the sequencer belongs to {self.owner} since {self._since}; wait until it is released, or "
                f"take it away with Release({self.owner!r})"
            )
        self.owner = owner
        self._token = secrets.randbits(TOKEN_BITS) | 1
        self._since = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        return self._token

    def release(self, owner: str) -> None:
        """End the lease of ``owner``; without an owner nothing happens.

        Raises
        ------
        InstrumentFault
            Somebody else has it.
        """
        if self.owner not in ("", owner):
            raise InstrumentFault(f"the sequencer belongs to {self.owner}, not to {owner or 'nobody'}")
        self.owner, self._token = "", 0

    def check(self, token: int) -> None:
        """Refuse a table that does not carry the owner's token.

        Raises
        ------
        InstrumentFault
            Naming the owner.
        """
        if self.owner and token != self._token:
            raise InstrumentFault(
                f"the sequencer belongs to {self.owner} since {self._since}, who alone may queue tables; "
                f"wait until it is released, or take it away with Release({self.owner!r})"
            )
