"""Signals that hold a montage: the beam is blanked when one leaves its limits, and it goes on by itself.

Each signal is watched by its events, and read anew every second because events can be lost. When one trips,
a thread of its own pauses the sequencer after its tile and blanks the beam: at once, not when the plan looks
next. The plan sees the reasons in `Suspenders.holds`, and goes on when there are none: a signal must have
been good for ``resume_after_s`` first.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

from devices.errors import MontangoError

logger = logging.getLogger(__name__)

POLL_S = 1.0


class SuspenderSpec(BaseModel):
    """When a signal holds a montage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    signal: str = Field(
        pattern=r"^(facility|column)\.[a-z]\w*$",
        examples=["facility.water_flow_l_min"],
        description="facility.NAME or column.NAME; its unit is that of the limits",
    )
    low: float | None = Field(default=None, description="below it the montage holds; null: no lower limit")
    high: float | None = Field(default=None, description="above it the montage holds; null: no upper limit")
    resume_after_s: float = Field(
        default=10.0, ge=0, le=86_400, description="how long it must have been good before it goes on, s"
    )
    hold_when_lost: bool = Field(
        default=True, description="whether a signal that is lost (its server or IOC is dead) holds too"
    )

    @model_validator(mode="after")
    def _has_a_limit(self) -> SuspenderSpec:
        if self.low is None and self.high is None:
            raise ValueError(f"suspender {self.signal} has neither low nor high; give one of them")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(
                f"suspender {self.signal}: low = {self.low:g} is not below high = {self.high:g}; swap them"
            )
        return self

    def fault(self, value: float | None) -> str:
        """Return what is wrong with a value, "" if nothing; None is a signal that is lost."""
        if value is None or math.isnan(value):
            return f"{self.signal} is lost" if self.hold_when_lost else ""
        if self.low is not None and value < self.low:
            return f"{self.signal} = {value:.5g} is below {self.low:g}"
        if self.high is not None and value > self.high:
            return f"{self.signal} = {value:.5g} is above {self.high:g}"
        return ""


class Watched(Protocol):
    """A signal as suspenders see it."""

    def watch(self, changed: Callable[[float | None], None]) -> None:
        """Call ``changed`` with every new value, None when the signal is lost, from any thread."""

    def read(self) -> float | None:
        """Return the value now; None when the signal is lost."""

    def close(self) -> None:
        """Call no more."""


class Beam(Protocol):
    """What suspenders do to the beam; called in a thread of theirs."""

    def hold(self) -> None:
        """Blank the beam and let no exposure begin.

        Raises
        ------
        MontangoError
            It cannot be done now; it is tried again.
        """

    def go_on(self) -> None:
        """Let exposures begin again; whoever exposes unblanks the beam."""

    def close(self) -> None:
        """Wait for nothing any more."""


class Suspender:
    """One signal: tripped or not, and since when it is good again. Time is given; nothing waits here."""

    def __init__(self, spec: SuspenderSpec) -> None:
        self.spec = spec
        self.reason = ""
        self._good_since_s: float | None = None

    def take(self, value: float | None, now_s: float) -> bool:
        """Take a value; return whether it trips now."""
        fault = self.spec.fault(value)
        if fault:
            tripped, self.reason, self._good_since_s = not self.reason, fault, None
            return tripped
        if self.reason and self._good_since_s is None:
            self._good_since_s = now_s
        return False

    def relax(self, now_s: float) -> bool:
        """Return whether it lets go now: it has been good for long enough."""
        since = self._good_since_s
        if not self.reason or since is None or now_s - since < self.spec.resume_after_s:
            return False
        self.reason, self._good_since_s = "", None
        return True

    def hold(self, now_s: float) -> str:
        """Return why it holds, "" if it does not."""
        if not self.reason or self._good_since_s is None:
            return self.reason
        left_s = max(0.0, self.spec.resume_after_s - (now_s - self._good_since_s))
        return f"{self.spec.signal} is good again; it goes on in {left_s:.0f} s"


class Suspenders:
    """Every suspender of a session.

    Parameters
    ----------
    suspenders
        Each with its signal.
    beam
        Held in a thread of its own when a signal trips, and again, once a second, while that fails; let go
        when the last signal is good again.
    poll_s
        Time between two readings of each signal, s.
    clock
        Returns seconds that only grow.
    """

    def __init__(
        self,
        suspenders: Sequence[tuple[SuspenderSpec, Watched]],
        beam: Beam,
        *,
        poll_s: float = POLL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._members = [(Suspender(spec), signal) for spec, signal in suspenders]
        self._beam = beam
        self._poll_s = poll_s
        self._clock = clock
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._unsafe = False
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=f"suspenders {name}", daemon=True)
            for name, target in (("act", self._act), ("poll", self._poll))
        ]

    def start(self) -> None:
        """Watch the signals; without suspenders nothing is started."""
        if not self._members:
            return
        for suspender, signal in self._members:
            signal.watch(lambda value, one=suspender: self._changed(one, value))  # type: ignore[misc]
        for thread in self._threads:
            thread.start()

    def holds(self) -> list[str]:
        """Return why nothing may be exposed now; empty: go on. Returns at once."""
        now = self._clock()
        return [reason for suspender, _ in self._members if (reason := suspender.hold(now))]

    def close(self) -> None:
        """Stop watching."""
        self._end.set()
        self._wake.set()
        self._beam.close()
        for _, signal in self._members:
            signal.close()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(2 * self._poll_s)

    def _changed(self, suspender: Suspender, value: float | None) -> None:
        with self._lock:
            tripped = suspender.take(value, self._clock())
            self._unsafe = self._unsafe or tripped
        if tripped:
            self._wake.set()
            logger.warning(
                "held: %s; the beam is blanked, the montage goes on %g s after it is good again",
                suspender.reason,
                suspender.spec.resume_after_s,
            )

    def _act(self) -> None:
        """Make safe when a signal has tripped, as soon as it has; try again while that fails."""
        while not self._end.is_set():
            self._wake.wait(self._poll_s)
            self._wake.clear()
            with self._lock:
                unsafe, self._unsafe = self._unsafe, False
            if unsafe:
                try:
                    self._beam.hold()
                except MontangoError as error:
                    logger.warning("the beam cannot be blanked yet: %s", error)
                    with self._lock:
                        self._unsafe = True
            self._relax()

    def _relax(self) -> None:
        for suspender, _ in self._members:
            with self._lock:
                free = suspender.relax(self._clock())
            if free:
                logger.warning("%s is good again", suspender.spec.signal)
                if not self.holds():
                    self._beam.go_on()

    def _poll(self) -> None:
        while not self._end.wait(self._poll_s):
            for suspender, signal in self._members:
                self._changed(suspender, signal.read())


def describe(suspenders: Sequence[SuspenderSpec]) -> list[dict[str, Any]]:
    """Return suspenders for a start document."""
    return [spec.model_dump(mode="json") for spec in suspenders]
