"""Faults by name: what goes wrong, at which exposure, how often and how badly.

A fault is armed from any process by appending a line to a file beside the world; the drivers look at it when
they move or expose. Exposures are counted by the camera over the world's life, from 0: the fault
``at_exposure = 7, count = 2`` spoils exposures 7 and 8 and no other, so a tile exposed again is clean.

=================  =======================================================================================
name               effect
=================  =======================================================================================
stage_stuck        ``count`` moves begun at or after that exposure do not get anywhere: `wait_still` times out
camera_timeout     the frame never comes: `read` raises OperationTimeout after its whole timeout
corrupted_frame    lines of the frame are torn, stale or zero; ``severity`` is the fraction
beam_loss          no beam at all: a dark frame, and the column reads a beam current of 0
drift_burst        the specimen runs during the exposure, up to 0.2 um: a smeared frame
charging           bright and dark bands, and the image is bent by up to 24 px
debris             a lump of dirt lies over up to half of the field
fold               a fold of the section runs through the field
focus_jump         the defocus is wrong by up to -20 um
server_crash       the process of the camera's driver ends at once (SIGKILL) at the end of the exposure
disk_full          the host's disk is full: `read` raises OSError (ENOSPC)
=================  =======================================================================================
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

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
]
FAULT_NAMES: tuple[str, ...] = get_args(FaultName)
MAX_FAULTS = 256
"""Faults that may be armed over the life of a world."""


class Fault(BaseModel):
    """One fault: ``severity`` from 0 (barely) to 1 (as bad as it gets)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: FaultName
    at_exposure: int = Field(default=0, ge=0)
    count: int = Field(default=1, ge=1)
    severity: float = Field(default=1.0, gt=0, le=1)

    def __init__(
        self, name: str, at_exposure: int = 0, count: int = 1, severity: float = 1.0, **extra: object
    ) -> None:
        super().__init__(name=name, at_exposure=at_exposure, count=count, severity=severity, **extra)

    def spoils(self, exposure: int) -> bool:
        """Whether this fault acts on that exposure."""
        return self.at_exposure <= exposure < self.at_exposure + self.count


_LINE = TypeAdapter(Fault)


class FaultFile:
    """The faults of a world: a file of JSON lines beside it, appended to by anyone, read by the drivers."""

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

    def all(self) -> tuple[Fault, ...]:
        """Return every fault armed so far, in order."""
        size = os.fstat(self._fd).st_size
        if size != self._size:
            text = os.pread(self._fd, size, 0)
            # a line without its end is still being written by another process
            whole = text[: text.rfind(b"\n") + 1]
            self._faults = tuple(_LINE.validate_json(line) for line in whole.splitlines())
            self._size = len(whole)
        return self._faults


def make_fault(name: str, at_exposure: int = 0, count: int = 1, severity: float = 1.0) -> Fault:
    """Return a fault from what a user typed.

    Raises
    ------
    ConfigurationError
        Naming the field, its value and what is allowed.
    """
    if name not in FAULT_NAMES:
        raise ConfigurationError(f"there is no fault {name!r}; faults are {', '.join(FAULT_NAMES)}")
    try:
        return Fault(name, at_exposure, count, severity)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc']))} = {item['input']!r}: {item['msg']}" for item in error.errors()
        )
        raise ConfigurationError(f"fault {name}: {problems}") from None


def inject(world: World, fault: Fault) -> None:
    """Arm a fault in a world, from any process."""
    world.faults.append(fault)
