"""The simulated stage: the driver that a stage server loads as ``sim.stage:SimulatedStage``."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from devices.errors import Aborted, ConfigurationError, OperationTimeout
from devices.stage.driver import AXES, StageLimits, StagePosition, StageState
from sim.faults import MISS_UM, RESET_UM
from sim.motion import Axes, Motion, next_motion, readback, reset_motion, stopped_motion, stuck_motion
from sim.world import World


def _limits(limits: Mapping[str, Sequence[float]] | None) -> StageLimits:
    default = StageLimits()
    for axis, pair in (limits or {}).items():
        if axis not in AXES:
            raise ConfigurationError(f"limits name the stage axis {axis!r}; the axes are {', '.join(AXES)}")
        if len(pair) != 2 or not pair[0] < pair[1]:
            raise ConfigurationError(f"limits of stage {axis} = {list(pair)} are not [lower, upper]")
        default = replace(default, **{axis: (float(pair[0]), float(pair[1]))})
    return default


class SimulatedStage:
    """A stage of a `World`; the world keeps its position, so a new driver finds it where the old one left it.

    Parameters
    ----------
    world
        Path of the world's file.
    limits
        Soft limits by axis, ``{"x_um": [lower, upper], ...}``; axes left out have those of `StageLimits`.
    """

    def __init__(self, world: str | Path, limits: Mapping[str, Sequence[float]] | None = None) -> None:
        self._limits = _limits(limits)
        self._world = World.open(world)
        self._config = self._world.config.stage
        self._seed = self._world.config.seed
        self._delay_factor = self._world.config.delay_s(1.0)
        self._encoder_noise = random.Random(self._seed + 17)
        self._lock = threading.Lock()
        self._stop = threading.Event()

    @property
    def limits(self) -> StageLimits:
        """Soft limits of the axes."""
        return self._limits

    @property
    def readback_noise_nm(self) -> float:
        """Noise of one reading of x or y, nm rms."""
        return self._config.readback_noise_um * 1e3

    def open(self) -> None:
        """Connect; there is nothing to do, the position is the world's."""

    def close(self) -> None:
        """Disconnect; the stage stays where it is, or goes on to where it was sent."""

    def position(self) -> StagePosition:
        """Return the position read back now: the encoders with their noise, um and deg."""
        x_um, y_um, *others = readback(
            self._config, self._world.motion(), time.monotonic(), settled=self._delay_factor == 0.0
        )
        noise_um = self._config.readback_noise_um
        gauss = self._encoder_noise.gauss
        return StagePosition(x_um + gauss(0.0, noise_um), y_um + gauss(0.0, noise_um), *others)

    def state(self) -> StageState:
        """Return MOVING or READY."""
        return StageState.MOVING if self._world.motion().moving(time.monotonic()) else StageState.READY

    def start_move(self, target: Mapping[str, float]) -> None:
        """Begin a move of the named axes; one that runs is led on to the new target.

        Raises
        ------
        LimitError
            A target is outside `limits`; nothing moves.
        """
        self._limits.check(target)
        with self._lock:
            last = self._world.motion()
            whole: Axes = tuple(map(target.get, AXES, last.target))  # type: ignore[assignment]
            self._stop.clear()
            self._world.stage.write(self._begin(last, whole).pack())

    def _begin(self, last: Motion, target: Axes) -> Motion:
        now_s = time.monotonic()
        miss = slow = 0.0
        if self._world.begin_faults():
            severity = self._world.severity_of_move
            if severity("stage_stuck", last.stuck_moves):
                return stuck_motion(last, target, now_s)
            if reset := severity("stage_reset", last.lost_origins):
                angle = random.Random(self._seed + 31 * last.lost_origins).uniform(0.0, 2.0 * math.pi)
                shift_um = reset * RESET_UM
                last = reset_motion(last, (shift_um * math.cos(angle), shift_um * math.sin(angle)))
            miss = severity("stage_miss", last.missed_moves)
            slow = severity("slow_settle", last.slow_moves)
        return next_motion(
            self._config,
            last,
            target,
            seed=self._seed,
            now_s=now_s,
            delay_factor=self._delay_factor,
            miss_um=miss * MISS_UM,
            slow=slow,
        )

    def wait_still(self, timeout_s: float) -> StagePosition:
        """Wait until the move has ended and return the position read back.

        With timing "fast" a stage that is stuck times out at once.

        Raises
        ------
        OperationTimeout
            The stage still moves, or has not moved, after ``timeout_s``.
        Aborted
            `stop` ended the move.
        """
        motion = self._world.motion()
        now_s = time.monotonic()
        if motion.moving(now_s):
            never = motion.ends_s > now_s + timeout_s
            wait_s = timeout_s if never else motion.ends_s - now_s
            if not (never and self._delay_factor == 0.0):
                self._stop.wait(wait_s)
            if never and not self._stop.is_set():
                raise OperationTimeout(
                    f"stage did not reach {_describe(motion)} in {timeout_s:g} s; "
                    f"it may be stuck: stop it and try again, or allow it more time"
                )
        if self._stop.is_set():
            raise Aborted("stage move ended by stop")
        return self.position()

    def stop(self) -> None:
        """Stop every axis where it is."""
        with self._lock:
            now_s = time.monotonic()
            motion = self._world.motion()
            if motion.moving(now_s):
                self._world.stage.write(stopped_motion(motion, now_s).pack())
                self._stop.set()


def _describe(motion: Motion) -> str:
    return ", ".join(f"{axis} = {value:g}" for axis, value in zip(AXES, motion.target, strict=True))
