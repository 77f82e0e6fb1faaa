"""Roles of people and services, and what each may do in words of Tiled's scopes."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

NOTES: Final = "write:notes"
"""Scope of our own: add a note to a montage."""
FILES: Final = "read:files"
"""Scope of our own: read raw files, and know where they are."""
RETENTION: Final = "write:retention"
"""Scope of our own: say how long raw data is kept."""


class Role(StrEnum):
    """What somebody is."""

    OBSERVER = "observer"
    SCIENTIST = "scientist"
    OPERATOR = "operator"
    STAFF = "staff"
    SERVICE = "service"


READ: Final = frozenset({"read:metadata", "read:data"})
_SCIENTIST: Final = READ | {NOTES, FILES, "create:apikeys", "revoke:apikeys"}
_WRITE: Final = frozenset(
    {
        "write:metadata",
        "write:data",
        "create:node",
        "register",
        "delete:node",
        "delete:revision",
    }
)

SCOPES: Final[dict[Role, frozenset[str]]] = {
    Role.OBSERVER: READ,
    Role.SCIENTIST: _SCIENTIST,
    Role.OPERATOR: _SCIENTIST | {"metrics"},
    Role.STAFF: _SCIENTIST
    | _WRITE
    | {RETENTION}
    | {"metrics", "admin:apikeys", "read:principals", "write:principals", "read:webhooks", "write:webhooks"},
    Role.SERVICE: READ | _WRITE | {NOTES, FILES, "metrics"},
}
"""What each role may do with what it sees."""

SEE_ALL: Final = frozenset({Role.OPERATOR, Role.STAFF, Role.SERVICE})
"""Roles that see every proposal, and runs without one."""

WITHOUT_PROPOSAL: Final = frozenset({"read:metadata", "read:data", FILES})
"""What others than its members may do with a proposal that is public."""
