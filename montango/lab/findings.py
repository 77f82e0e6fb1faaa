"""What an examination finds: how bad it is, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["OK", "WARN", "FAIL"]


@dataclass(frozen=True)
class Finding:
    """One line of `montango doctor`; ``remedy`` says what to do, empty when all is well."""

    level: Level
    subject: str
    text: str
    remedy: str = ""


def ok(subject: str, text: str) -> Finding:
    """Return a finding that all is well."""
    return Finding("OK", subject, text)


def warn(subject: str, text: str, remedy: str) -> Finding:
    """Return a finding that may become a trouble."""
    return Finding("WARN", subject, text, remedy)


def fail(subject: str, text: str, remedy: str) -> Finding:
    """Return a finding that keeps a laboratory from working."""
    return Finding("FAIL", subject, text, remedy)
