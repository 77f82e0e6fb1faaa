"""The names of what can be wrong with a tile. They stand alone, so that a specification can name them."""

from __future__ import annotations

from typing import Literal, get_args

FaultKind = Literal[
    "dark",
    "saturated",
    "low_contrast",
    "blurred",
    "smeared",
    "astigmatic",
    "damaged",
    "incomplete",
    "frozen",
    "debris",
    "fold",
    "charging",
    "vignetted",
    "unmatched",
    "misplaced",
    "unreadable",
]
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)

Scope = Literal["transient", "persistent", "critical"]
