"""What a check of the catalog finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple


class Kind(NamedTuple):
    """A kind of finding: what it means, and what to do."""

    means: str
    remedy: str
    fault: bool = True


_REPLAY: Final = "montango journal replay"
_RENEW: Final = "delete the run from the catalog, then montango journal replay"
_RESTORE: Final = "restore the file from a copy"

KINDS: Final = {
    "run missing": Kind("ended in the journal, not in the catalog", _REPLAY),
    "run in part": Kind("ended in the journal, without its end in the catalog", _REPLAY),
    "run extra": Kind(
        "in the catalog, not in the journal", "find its journal: the catalog is its only record"
    ),
    "document changed": Kind("start or stop document differ from the journal's", _RENEW),
    "journal damaged": Kind("the journal of a run cannot be read", "restore its file from a copy"),
    "rows missing": Kind("fewer events or frames than in the journal", _RENEW),
    "rows extra": Kind("more events or frames than in the journal", _RENEW),
    "rows twice": Kind("events that are there more than once", _RENEW),
    "rows unused": Kind(
        "rows of no run, left by a write that was cut off", "nothing: they harm nobody", False
    ),
    "file missing": Kind("a file that the catalog points to is not there", _RESTORE),
    "file outside": Kind(
        "in no folder that the server may read", "name its folder in services.tiled.readable"
    ),
    "file unreadable": Kind("cannot be opened, or lacks what the catalog says", _RESTORE),
    "file short": Kind("fewer frames than the catalog says", _RESTORE),
    "file long": Kind("more frames than the catalog says", _RENEW),
    "file changed": Kind("size, time or checksum are not as recorded", _RESTORE),
}
"""Every kind of finding."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be.

    Attributes
    ----------
    kind
        One of `KINDS`.
    run
        Uid of the run; empty where it is of none.
    subject
        Stream, file or table.
    text
        What was found, in words.
    """

    kind: str
    run: str
    subject: str
    text: str

    @property
    def fault(self) -> bool:
        """Whether something is lost, doubled or wrong; otherwise it is only told."""
        return KINDS[self.kind].fault


@dataclass(slots=True)
class Report:
    """What a check came to.

    Attributes
    ----------
    runs, under_way
        Runs compared, and runs left alone since they are being written.
    events
        Events and frames that were counted in the catalog.
    files, bytes_read
        Files looked at, and bytes read of them.
    recorded
        Files whose size, time or checksum was taken down.
    findings
        What is not as it should be.
    took_s
        How long it took.
    """

    runs: int = 0
    under_way: int = 0
    events: int = 0
    files: int = 0
    bytes_read: int = 0
    recorded: int = 0
    findings: list[Finding] = field(default_factory=list)
    took_s: float = 0.0

    @property
    def faults(self) -> list[Finding]:
        """The findings that are faults."""
        return [one for one in self.findings if one.fault]

    def add(self, kind: str, run: str, subject: str, text: str) -> None:
        """Take a finding."""
        self.findings.append(Finding(kind, run, subject, text))

    def facts(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        found = [
            asdict(one) | {"fault": one.fault, "remedy": KINDS[one.kind].remedy} for one in self.findings
        ]
        return asdict(self) | {"findings": found, "faults": len(self.faults)}
