"""Faults by name: what goes wrong, at which exposure, how often or how long, and how badly.

A fault is armed from any process by appending a line to a file beside the world; the drivers look at it when
they move or expose. Exposures are counted by the camera over the world's life, from 0: the fault
``at_exposure = 7, count = 2`` spoils exposures 7 and 8 and no other, so a tile exposed again is clean.

With ``seconds`` a fault has a time instead of a count: it acts from the end of the exposure before
``at_exposure`` (at once, where that has been made) until the seconds have passed, whether or not anybody
exposes. They are divided by the simulation's ``time_scale``, and are of the wall with timing "fast" too.

=================  =======================================================================================
name               effect
=================  =======================================================================================
stage_stuck        ``count`` moves begun at or after that exposure do not get anywhere: `wait_still` times out
camera_timeout     the frame never comes: `read` raises OperationTimeout after its whole timeout, and the next
                   exposure waits until `abort`
corrupted_frame    lines of the frame are torn, stale or zero; ``severity`` is the fraction
beam_loss          no beam at all: a dark frame, and the column reads a beam current of 0
drift_burst        the specimen runs during the exposure, up to 0.2 um: a smeared frame
charging           bright and dark bands, and the image is bent by up to 24 px
debris             a lump of dirt lies over up to half of the field
fold               a fold of the section runs through the field
focus_jump         the defocus is wrong by up to -20 um
server_crash       the process of the camera's driver ends at once (SIGKILL) at the end of the exposure
disk_full          the host's disk is full: `read` raises OSError (ENOSPC)
vacuum             the column's pressure is over its alarm level and the gauge reads OVERFLOW; images stay
frozen_frame       the camera sends the frame before once more
stage_miss         ``count`` moves begun at or after that exposure land up to `MISS_UM` off, as read back
stage_reset        before ``count`` moves begun at or after that exposure the stage, switched on anew, has its
                   zero up to `RESET_UM` elsewhere: it goes where it is sent, and that is another place
slow_settle        after ``count`` moves begun at or after that exposure the stage creeps far and long
loader_jam         ``count`` loads begun at or after that exposure jam half way: their slot is in ERROR
=================  =======================================================================================
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from devices.errors import ConfigurationError

if TYPE_CHECKING:
    from sim.world import World

FaultName = Literal[
    "stage_stuck",
    "camera_timeout",
    "corrupted_frame",
    "beam_loss",
    "drift_burst",
    "charging",
    "debris",
    "fold",
    "focus_jump",
    "server_crash",
    "disk_full",
    "vacuum",
    "frozen_frame",
    "stage_miss",
    "slow_settle",
    "loader_jam",
    "stage_reset",
]
FAULT_NAMES: tuple[str, ...] = get_args(FaultName)
MAX_FAULTS = 256
"""Faults that may be armed over the life of a world."""
MISS_UM: Final = 3.0
"""How far a stage_miss of severity 1 lands from its target, um."""
RESET_UM: Final = 10.0
"""How far a stage_reset of severity 1 moves the stage's zero, um."""


class Fault(BaseModel):
    """One fault: ``severity`` from 0 (barely) to 1 (as bad as it gets); it goes by count or seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: FaultName
    at_exposure: int = Field(default=0, ge=0)
    count: int = Field(default=1, ge=1)
    severity: float = Field(default=1.0, gt=0, le=1)
    seconds: float | None = Field(default=None, gt=0, le=1e6)
    _since_s: float | None = PrivateAttr(default=None)

    def __init__(
        self,
        name: str,
        at_exposure: int = 0,
        count: int = 1,
        severity: float = 1.0,
        seconds: float | None = None,
        **extra: object,
    ) -> None:
        super().__init__(
            name=name, at_exposure=at_exposure, count=count, severity=severity, seconds=seconds, **extra
        )

    @property
    def since_s(self) -> float | None:
        """When a timed fault began, s on the monotonic clock of the machine; None while it is to come."""
        return self._since_s

    def begun(self, since_s: float | None) -> Fault:
        """Return this fault, begun at a moment of the monotonic clock."""
        fault = self.model_copy()
        fault._since_s = since_s
        return fault

    def spoils(self, exposure: int) -> bool:
        """Whether this fault, if it goes by its count, acts on that exposure."""
        return self.seconds is None and self.at_exposure <= exposure < self.at_exposure + self.count

    def lasts(self, now_s: float, time_scale: float) -> bool:
        """Whether this fault, if it goes by seconds, acts at a moment of the monotonic clock."""
        if self.seconds is None or self.since_s is None:
            return False
        # a time before its beginning belongs to another boot of the machine: that fault is long over
        return self.since_s <= now_s < self.since_s + self.seconds / time_scale


class FaultFile:
    """The faults of a world: a file of JSON lines beside it, appended to by anyone, read by the drivers.

    A line is a fault, or says when the timed fault of a line (counted over the faults, from 0) began.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self._size = 0
        self._faults: tuple[Fault, ...] = ()

    def close(self) -> None:
        """Close the file; the faults stay armed."""
        os.close(self._fd)

    def append(self, fault: Fault) -> None:
        """Arm a fault; one write, so that several processes may arm at once.

        Raises
        ------
        ConfigurationError
            `MAX_FAULTS` have been armed in this world.
        """
        if len(self.all()) >= MAX_FAULTS:
            raise ConfigurationError(
                f"{MAX_FAULTS} faults have been armed in this world, no more are possible; make a new world"
            )
        os.write(self._fd, fault.model_dump_json().encode() + b"\n")

    def begin(self, exposures: int, now_s: float) -> tuple[Fault, ...]:
        """Start the timed faults that are due once ``exposures`` have been made, and return all faults."""
        for at, fault in enumerate(self.all()):
            if fault.seconds is not None and fault.since_s is None and fault.at_exposure <= exposures:
                os.write(self._fd, json.dumps({"begun": at, "since_s": now_s}).encode() + b"\n")
        return self.all()

    def all(self) -> tuple[Fault, ...]:
        """Return every fault armed so far, in order."""
        size = os.fstat(self._fd).st_size
        if size != self._size:
            text = os.pread(self._fd, size, 0)
            # a line without its end is still being written by another process
            whole = text[: text.rfind(b"\n") + 1]
            self._faults = _parsed([json.loads(line) for line in whole.splitlines()])
            self._size = len(whole)
        return self._faults


def _parsed(lines: list[dict[str, Any]]) -> tuple[Fault, ...]:
    since: dict[int, float] = {}
    for line in lines:
        if "begun" in line:
            # two processes may have seen it begin; the first is right
            since.setdefault(line["begun"], line["since_s"])
    armed = [line for line in lines if "begun" not in line]
    return tuple(Fault(**line).begun(since.get(at)) for at, line in enumerate(armed))


def make_fault(
    name: str, at_exposure: int = 0, count: int = 1, severity: float = 1.0, seconds: float | None = None
) -> Fault:
    """Return a fault from what a user typed.

    Raises
    ------
    ConfigurationError
        Naming the field, its value and what is allowed.
    """
    if name not in FAULT_NAMES:
        raise ConfigurationError(f"there is no fault {name!r}; faults are {', '.join(FAULT_NAMES)}")
    try:
        return Fault(name, at_exposure, count, severity, seconds)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc']))} = {item['input']!r}: {item['msg']}" for item in error.errors()
        )
        raise ConfigurationError(f"fault {name}: {problems}") from None


def inject(world: World, fault: Fault) -> None:
    """Arm a fault in a world, from any process; a timed one that is due begins now."""
    world.faults.append(fault)
    world.begin_faults()
