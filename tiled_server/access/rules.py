"""What follows from a file of people: roles of principals, and tags that they may read or add to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from tiled_server.access.people import People, Proposal
from tiled_server.access.roles import SCOPES, SEE_ALL, Role

_NOBODY: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Who:
    """Somebody as the rules know them.

    Attributes
    ----------
    role
        None: nobody who may do anything.
    name
        Key among people; empty for a service, and for those who are not named.
    shown
        What they are called in records.
    """

    role: Role | None
    name: str = ""
    shown: str = ""


ANONYMOUS: Final = Who(None, "", "anonymous")


class Rules:
    """What a file of people says.

    Parameters
    ----------
    file
        The file, read.
    now
        Unix time, s: embargoes end by themselves.
    """

    def __init__(self, file: People, now: Callable[[], float] = time.time) -> None:
        self.file = file
        self._now = now
        self._names = {(file.provider_of(name), name): name for name in file.people}

    def who(self, identities: Iterable[tuple[str, str]]) -> Who:
        """Return who a user is.

        Parameters
        ----------
        identities
            Provider and id, as the user is known there.
        """
        known = [*identities]
        for identity in known:
            if (name := self._names.get(identity)) is not None:
                return Who(self.file.people[name].role, name, name)
        shown = known[0][1] if known else ""
        return Who(Role.OBSERVER if self.file.others == "observer" else None, "", shown)

    @staticmethod
    def service(uuid: str, roles: Iterable[str]) -> Who:
        """Return who a service is, whose roles are in the database of accounts."""
        found = [Role(name) for name in roles if name in list(Role)]
        return Who(found[0] if found else None, "", f"service {uuid}")

    def principal(self, principal: Any) -> Who:
        """Return who one of Tiled's principals is; None is nobody."""
        if principal is None:
            return ANONYMOUS
        if getattr(principal.type, "value", principal.type) == "service":
            return self.service(str(principal.uuid), [role.name for role in principal.roles])
        return self.who((one.provider, one.id) for one in principal.identities)

    def scopes(self, who: Who) -> frozenset[str]:
        """Return what somebody may do with what they see."""
        return _NOBODY if who.role is None else SCOPES[who.role]

    def sees_all(self, who: Who) -> bool:
        """Return whether somebody sees every run."""
        return who.role in SEE_ALL

    def own_tags(self, who: Who) -> frozenset[str]:
        """Return the tags of the proposals that somebody is on."""
        if not who.name:
            return _NOBODY
        return self._tags(lambda one: who.name in one.members)

    def public_tags(self) -> frozenset[str]:
        """Return the tags of the proposals that are public now."""
        now = self._now()
        return self._tags(
            lambda one: one.public and (one.embargo_until is None or one.embargo_until.timestamp() <= now)
        )

    def all_tags(self) -> frozenset[str]:
        """Return the tags of all proposals."""
        return self._tags(lambda _: True)

    def readable_tags(self, who: Who) -> frozenset[str]:
        """Return the tags that somebody may read; those who see all may read others too."""
        if who.role is None and who is not ANONYMOUS:
            return _NOBODY
        return self.own_tags(who) | self.public_tags()

    def _tags(self, wanted: Callable[[Proposal], bool]) -> frozenset[str]:
        found = ((key, one) for key, one in self.file.proposals.items() if wanted(one))
        return frozenset(tag for key, one in found for tag in (key, *one.sessions))
