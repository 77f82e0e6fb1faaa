"""Which way each axis moved last, and how far: what a one-sided approach needs to know.

A spindle has play: where the stage ends depends on the side it comes from. An axis that has moved on in one
direction for at least the length of the approach has its play taken up on that side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

STANDS_UM = 0.5
"""An axis that is read back within this of where it was sent has not been moved by anybody."""


class Travel:
    """The last way of each axis in one direction, signed, in um; 0 where it is not known."""

    def __init__(self) -> None:
        self._way: dict[str, float] = {}
        self._sent: dict[str, float] = {}

    def forget(self) -> None:
        """Know nothing: the stage was stopped, failed, or was moved by somebody else."""
        self._way.clear()
        self._sent.clear()

    def note(self, target: Mapping[str, float], here: Mapping[str, float] | None = None) -> None:
        """Note that axes go to their targets, um, from where they are read back or (None) were sent last."""
        for axis, value in target.items():
            start = self._sent.get(axis) if here is None else here[axis]
            self._way[axis] = 0.0 if start is None else self._after(axis, start, value)
            self._sent[axis] = value

    def overshoot(
        self, here: Mapping[str, float], target: Mapping[str, float], approach: Mapping[str, float]
    ) -> dict[str, float]:
        """Return where axes have to go first so that their last way goes in the approach's direction.

        Parameters
        ----------
        here
            Positions as read back now, um.
        target
            Where the axes are to go, um.
        approach
            Length of the last way with its direction as the sign, um; 0: any direction.

        Returns
        -------
        dict
            Axis and position of those that need it; none if the axes can go straight to their targets.
        """
        first = {}
        for axis, value in target.items():
            length = approach.get(axis, 0.0)
            if length and self._after(axis, here[axis], value) * math.copysign(1.0, length) < abs(length):
                first[axis] = value - length
        return first

    def _after(self, axis: str, here: float, target: float) -> float:
        """Return the way of an axis once it has gone to its target."""
        sent = self._sent.get(axis)
        stands = sent is not None and abs(here - sent) <= STANDS_UM
        way = self._way.get(axis, 0.0) if stands else 0.0
        step = target - (sent if stands and sent is not None else here)
        if step == 0.0:
            return way
        return way + step if way * step > 0.0 else step
