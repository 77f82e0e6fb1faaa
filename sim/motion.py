"""Where the stage is: a move as a function of time, and how the truth differs from the encoder.

The stage's section of the world holds one `Motion`: the move that runs or ran last. Everything else follows
from the clock, so the stage arrives whether or not a server is alive to watch it.
"""

from __future__ import annotations

import math
import random
import struct
from dataclasses import dataclass, replace
from typing import Final

from devices.stage.driver import StagePosition
from sim.config import StageConfig

_LAYOUT = struct.Struct("<QQQQQdd5d5d5d2d2d2ddd?")

Axes = tuple[float, float, float, float, float]
Pair = tuple[float, float]
_ZERO: Final[Axes] = (0.0, 0.0, 0.0, 0.0, 0.0)
RING_SEEN: Final = 0.3
"""Part of the vibration after a move that the encoders see; the rest is in the holder."""
SLOW_SEEN: Final = 0.5
"""Part of the creep of a stage that settles slowly that the encoders see; of usual creep they see none."""
SLOW_SPEED: Final = 24.0
SLOW_DECAY: Final = 1.5
"""A slow_settle of severity 1 adds so many times the usual creep speed, and decay time, to them."""


@dataclass(frozen=True, slots=True)
class Motion:
    """The last move: start (s, monotonic clock of the machine), end points and length.

    ``origin`` and ``goal`` are where the encoders were and will be, ``target`` what was asked for (um and deg
    in the order of `devices.stage.driver.AXES`); ``play_from`` and ``play_to`` the backlash in x and y, um.
    ``zero`` is the true x, y where the encoders read 0, um. ``duration_s`` is infinite while the stage is
    stuck. ``stuck_moves``, ``missed_moves`` and ``slow_moves`` count those that a fault held, led astray or
    let creep, ``lost_origins`` how often the zero was lost; ``slow`` is how badly this one creeps, 0 to 1,
    and ``rate`` how much faster than the wall's clock things happen.
    """

    moves: int = 0
    stuck_moves: int = 0
    missed_moves: int = 0
    slow_moves: int = 0
    lost_origins: int = 0
    started_s: float = 0.0
    duration_s: float = 0.0
    target: Axes = _ZERO
    origin: Axes = _ZERO
    goal: Axes = _ZERO
    play_from: Pair = (0.0, 0.0)
    play_to: Pair = (0.0, 0.0)
    zero: Pair = (0.0, 0.0)
    slow: float = 0.0
    rate: float = 1.0
    stopped: bool = False

    @property
    def ends_s(self) -> float:
        """When the stage arrives, s on the monotonic clock."""
        return self.started_s + self.duration_s

    def moving(self, now_s: float) -> bool:
        """Whether the stage is on its way."""
        # A time before the start belongs to another boot of the machine: that move is long over.
        return self.started_s <= now_s < self.ends_s

    def progress(self, now_s: float) -> float:
        """Return how much of the way is done, 0 to 1, along a minimum-jerk profile."""
        if not self.moving(now_s):
            return 1.0
        part = (now_s - self.started_s) / self.duration_s
        return part * part * part * (10.0 + part * (6.0 * part - 15.0))

    def encoder(self, now_s: float) -> Axes:
        """Return where the encoders are, without their noise."""
        done = self.progress(now_s)
        if done >= 1.0:
            return self.goal
        return tuple(a + (b - a) * done for a, b in zip(self.origin, self.goal, strict=True))  # type: ignore[return-value]

    def play(self, now_s: float) -> Pair:
        """Return the part of the backlash that is taken up now in x and y, um."""
        done = self.progress(now_s)
        (ax, ay), (bx, by) = self.play_from, self.play_to
        return ax + (bx - ax) * done, ay + (by - ay) * done

    def pack(self) -> bytes:
        """Return the motion as bytes for the world's file."""
        return _LAYOUT.pack(
            self.moves,
            self.stuck_moves,
            self.missed_moves,
            self.slow_moves,
            self.lost_origins,
            self.started_s,
            self.duration_s,
            *self.target,
            *self.origin,
            *self.goal,
            *self.play_from,
            *self.play_to,
            *self.zero,
            self.slow,
            self.rate,
            self.stopped,
        )

    @classmethod
    def unpack(cls, payload: bytes) -> Motion:
        """Return the motion that `pack` made."""
        v = _LAYOUT.unpack(payload)
        return cls(
            v[0],
            v[1],
            v[2],
            v[3],
            v[4],
            v[5],
            v[6],
            v[7:12],
            v[12:17],
            v[17:22],
            v[22:24],
            v[24:26],
            v[26:28],
            v[28],
            v[29],
            v[30],
        )


CAPACITY: Final = 256


def move_duration_s(config: StageConfig, origin: Axes, goal: Axes) -> float:
    """Return how long a move takes: overhead, then acceleration and speed, or the tilt if that is slower."""
    distance_um = max(math.hypot(goal[0] - origin[0], goal[1] - origin[1]), abs(goal[2] - origin[2]))
    tilt_deg = max(abs(goal[3] - origin[3]), abs(goal[4] - origin[4]))
    ramp_um = config.speed_um_s**2 / config.acceleration_um_s2
    if distance_um <= ramp_um:
        travel_s = 2.0 * math.sqrt(distance_um / config.acceleration_um_s2)
    else:
        travel_s = 2.0 * config.speed_um_s / config.acceleration_um_s2
        travel_s += (distance_um - ramp_um) / config.speed_um_s
    return config.move_overhead_s + max(travel_s, tilt_deg / config.tilt_speed_deg_s)


def _play(config: StageConfig, play_um: float, step_um: float) -> float:
    half = config.backlash_um / 2
    return min(max(play_um - step_um, -half), half)


def _landing(config: StageConfig, last: Motion, target: Axes, axis: int, miss_um: float) -> float:
    if target[axis] == last.target[axis]:
        # an axis that is not asked to move does not, unless it is far from there; a move to where the whole
        # stage was sent already is a correction
        near = config.step_noise_um * (1.0 if target == last.target else 4.0)
        if abs(last.goal[axis] - target[axis]) <= near:
            return last.goal[axis]
    return target[axis] + miss_um


def next_motion(
    config: StageConfig,
    last: Motion,
    target: Axes,
    *,
    seed: int,
    now_s: float,
    delay_factor: float,
    miss_um: float = 0.0,
    slow: float = 0.0,
) -> Motion:
    """Return the motion from where the stage is to ``target``, with the miss of this move.

    ``delay_factor`` scales the time it takes (0: at once). The miss depends on the seed and on the number of
    the move alone; a fault adds ``miss_um`` to it, and creep after the arrival: ``slow`` from 0 to 1.
    """
    origin, play = last.encoder(now_s), last.play(now_s)
    chance = random.Random(seed * 1_000_003 + last.moves)
    landed = [
        _landing(config, last, target, axis, chance.gauss(0.0, config.step_noise_um)) for axis in (0, 1)
    ]
    if miss_um:
        angle = chance.uniform(0.0, 2.0 * math.pi)
        landed = [landed[0] + miss_um * math.cos(angle), landed[1] + miss_um * math.sin(angle)]
    goal = (landed[0], landed[1], *target[2:])
    duration_s = move_duration_s(config, origin, goal) * delay_factor
    return Motion(
        moves=last.moves + 1,
        stuck_moves=last.stuck_moves,
        missed_moves=last.missed_moves + (miss_um > 0.0),
        slow_moves=last.slow_moves + (slow > 0.0),
        lost_origins=last.lost_origins,
        started_s=now_s,
        duration_s=duration_s,
        target=target,
        origin=origin,
        goal=goal,
        play_from=play,
        play_to=(_play(config, play[0], goal[0] - origin[0]), _play(config, play[1], goal[1] - origin[1])),
        zero=last.zero,
        slow=slow,
        rate=1.0 / delay_factor if delay_factor else 1.0,
    )


def stuck_motion(last: Motion, target: Axes, now_s: float) -> Motion:
    """Return a motion towards ``target`` that never gets anywhere."""
    where, play = last.encoder(now_s), last.play(now_s)
    return replace(
        last, moves=last.moves + 1, stuck_moves=last.stuck_moves + 1, started_s=now_s, duration_s=math.inf,
        target=target, origin=where, goal=where, play_from=play, play_to=play, slow=0.0, stopped=False,
    )  # fmt: skip


def reset_motion(last: Motion, shift_um: Pair) -> Motion:
    """Return the motion of a stage that has lost its reference: it is where it was and reads something else.

    What it read as p it reads as ``p - shift_um`` from now on.
    """
    dx, dy = shift_um

    def moved(axes: Axes) -> Axes:
        return axes[0] - dx, axes[1] - dy, *axes[2:]

    return replace(
        last, lost_origins=last.lost_origins + 1, target=moved(last.target), origin=moved(last.origin),
        goal=moved(last.goal), zero=(last.zero[0] + dx, last.zero[1] + dy),
    )  # fmt: skip


def stopped_motion(last: Motion, now_s: float) -> Motion:
    """Return the motion of a stage that is stopped where it is."""
    where, play = last.encoder(now_s), last.play(now_s)
    return replace(
        last, started_s=now_s, duration_s=0.0, target=where, origin=where, goal=where,
        play_from=play, play_to=play, slow=0.0, stopped=True,
    )  # fmt: skip


def true_position(config: StageConfig, motion: Motion, now_s: float, *, settled: bool) -> StagePosition:
    """Return where the stage really is, um and deg.

    A lost reference, backlash, cyclic error and the angle between the axes are in it, and after a move creep
    and ringing along its direction (when ``settled``, only the creep that a fault adds).
    """
    x_um, y_um, z_um, alpha_deg, beta_deg = motion.encoder(now_s)
    x_um, y_um = x_um + motion.zero[0], y_um + motion.zero[1]
    play_x, play_y = motion.play(now_s)
    period_x, period_y = config.cyclic_period_um
    true_x = x_um + play_x + math.tan(math.radians(config.skew_deg)) * y_um
    true_y = y_um + play_y
    true_x += config.cyclic_amplitude_um * math.sin(2 * math.pi * x_um / period_x)
    true_y += config.cyclic_amplitude_um * math.sin(2 * math.pi * y_um / period_y)
    ring_um, creep_um, slow_um = _after_arrival(config, motion, now_s, settled=settled)
    along_x, along_y = _direction(motion)
    true_x += (ring_um + creep_um + slow_um) * along_x
    true_y += (ring_um + creep_um + slow_um) * along_y
    return StagePosition(true_x, true_y, z_um, alpha_deg, beta_deg)


def readback(config: StageConfig, motion: Motion, now_s: float, *, settled: bool) -> Axes:
    """Return what the encoders read, without their noise: of what happens after a move they see a part."""
    x_um, y_um, *others = motion.encoder(now_s)
    ring_um, _, slow_um = _after_arrival(config, motion, now_s, settled=settled)
    if ring_um or slow_um:
        along_x, along_y = _direction(motion)
        seen_um = RING_SEEN * ring_um + SLOW_SEEN * slow_um
        x_um, y_um = x_um + seen_um * along_x, y_um + seen_um * along_y
    return x_um, y_um, *others  # type: ignore[return-value]


def _direction(motion: Motion) -> Pair:
    dx, dy = motion.goal[0] - motion.origin[0], motion.goal[1] - motion.origin[1]
    length_um = math.hypot(dx, dy)
    return (dx / length_um, dy / length_um) if length_um > 1e-6 else (0.0, 0.0)


def _after_arrival(
    config: StageConfig, motion: Motion, now_s: float, *, settled: bool
) -> tuple[float, float, float]:
    """Return vibration, creep, and the creep that a fault adds, along the direction of the move, um."""
    since_s = (now_s - motion.ends_s) * motion.rate
    if since_s < 0.0 or motion.moves == 0 or (settled and not motion.slow):
        return 0.0, 0.0, 0.0
    length_um = math.hypot(motion.goal[0] - motion.origin[0], motion.goal[1] - motion.origin[1])
    # short steps shake the stage less
    part = min(1.0, length_um / 5.0)
    creep_um = config.drift_nm_s * 1e-3 * config.drift_decay_s
    slow_um = 0.0
    if motion.slow:
        decay = 1.0 + SLOW_DECAY * motion.slow
        slow_um = -part * creep_um * SLOW_SPEED * motion.slow * decay
        slow_um *= math.exp(-since_s / (decay * config.drift_decay_s))
    if settled:
        return 0.0, 0.0, slow_um
    ring_um = config.ring_um * math.exp(-since_s / config.ring_decay_s)
    ring_um *= math.sin(2 * math.pi * config.ring_hz * since_s)
    return part * ring_um, -part * creep_um * math.exp(-since_s / config.drift_decay_s), slow_um
