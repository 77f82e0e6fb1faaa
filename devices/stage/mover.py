"""The careful move of a stage server: one-sided approach, arrival within a tolerance, settling."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import astuple

from devices.errors import Aborted, InstrumentFault, LimitError, OperationTimeout
from devices.stage.driver import StageDriver, StagePosition
from devices.stage.moves import MoveRequest, MoveResult, SettleMode
from devices.stage.settling import SAMPLE_S, WINDOW_MAX_S, ReadbackSpeed, settle_floor_nm_s
from devices.stage.travel import Travel

NAN = float("nan")


class StageMover:
    """Moves a stage as `MoveRequest` asks; one move at a time, `stop` from any thread.

    Parameters
    ----------
    driver
        The stage.
    move_timeout_s
        Longest time that one way may take.
    """

    def __init__(self, driver: StageDriver, move_timeout_s: float) -> None:
        self._driver = driver
        self._timeout_s = move_timeout_s
        self._stopped = threading.Event()
        self.travel = Travel()

    @property
    def settle_floor_nm_s(self) -> float:
        """Smallest speed that the read-back can tell, nm/s."""
        return settle_floor_nm_s(self._driver.readback_noise_nm)

    def check(self, request: MoveRequest) -> None:
        """Refuse a move before anything moves.

        Raises
        ------
        LimitError
            The target, or the point from which it is approached, is outside the stage's limits, or the
            settle limit is below what the read-back can tell.
        """
        limits = self._driver.limits
        limits.check({"x_um": request.x_um, "y_um": request.y_um})
        for axis, value, length in (
            ("x_um", request.x_um, request.approach_x_um),
            ("y_um", request.y_um, request.approach_y_um),
        ):
            if length:
                try:
                    limits.check({axis: value - length})
                except LimitError as error:
                    raise LimitError(
                        f"target {axis} = {value:g} um cannot be approached over {length:g} um: {error}; or "
                        f"change approach_um"
                    ) from None
        if request.settle_mode == SettleMode.READBACK:
            check_settle_limit(request.settle_limit_nm_s, self.settle_floor_nm_s)

    def begin(self) -> None:
        """Begin a move: a `stop` that came before counts no more."""
        self._stopped.clear()

    def stop(self) -> None:
        """Stop the stage; the move that runs ends with Aborted, settling too."""
        self._stopped.set()
        self._driver.stop()
        self.travel.forget()

    def interrupt(self) -> None:
        """End the settling that runs; the stage goes on to where it was sent."""
        self._stopped.set()

    def start(self, target: Mapping[str, float], here: Mapping[str, float] | None = None) -> None:
        """Start every named axis towards its target (um, deg) and return at once.

        Raises
        ------
        Aborted
            `stop` came before.
        MontangoError
            As the driver says.
        """
        if self._stopped.is_set():
            raise Aborted("stage move ended by Stop")
        self.travel.note(target, here)
        self._driver.start_move(target)
        if self._stopped.is_set():  # it came while the driver was starting
            self._driver.stop()
            raise Aborted("stage move ended by Stop")

    def move(self, request: MoveRequest) -> MoveResult:
        """Move, arrive, settle, read back.

        Raises
        ------
        InstrumentFault
            The stage missed its target by more than the tolerance, after all retries.
        OperationTimeout
            It did not arrive in time.
        Aborted
            `stop` ended the move.
        """
        started = time.perf_counter()
        try:
            tries = self._arrive(request)
        except BaseException:
            self.travel.forget()
            raise
        arrived = time.perf_counter()
        if request.settle_s > 0.0 and self._stopped.wait(request.settle_s):
            raise Aborted("settling ended by Stop")
        speed_nm_s = NAN
        if request.settle_mode == SettleMode.READBACK:
            speed_nm_s = self._wait_slow(request, arrived)
        position = self._driver.position()
        settled = time.perf_counter()
        x_um, y_um, z_um, alpha_deg, beta_deg = astuple(position)
        move_s, settle_s = arrived - started, settled - arrived
        return MoveResult(x_um, y_um, z_um, alpha_deg, beta_deg, move_s, settle_s, tries, speed_nm_s)

    def _arrive(self, request: MoveRequest) -> int:
        """Go to the target until it is reached within the tolerance, and return how often it took."""
        target = {"x_um": request.x_um, "y_um": request.y_um}
        approach = {"x_um": request.approach_x_um, "y_um": request.approach_y_um}
        one_sided = any(approach.values())
        for tries in range(1, request.retries + 2):
            here = self._here() if one_sided else None
            if here is not None:
                first = self.travel.overshoot(here, target, approach)
                if first:
                    self._go({**target, **first}, here)
                    here = None
            position = self._go(target, here)
            error_um = max(abs(position.x_um - request.x_um), abs(position.y_um - request.y_um))
            if not request.tolerance_um or error_um <= request.tolerance_um:
                return tries
        raise InstrumentFault(
            f"stage missed its target x = {request.x_um:.3f}, y = {request.y_um:.3f} um: it is read back at "
            f"x = {position.x_um:.3f}, y = {position.y_um:.3f} um, {error_um:.3f} um off, over the "
            f"tolerance of {request.tolerance_um:g} um after {tries} moves; look at the stage, or allow a "
            f"larger tolerance_um or more stage_retries"
        )

    def _here(self) -> dict[str, float]:
        position = self._driver.position()
        return {"x_um": position.x_um, "y_um": position.y_um}

    def _go(self, target: Mapping[str, float], here: Mapping[str, float] | None) -> StagePosition:
        self.start(target, here)
        try:
            return self._driver.wait_still(self._timeout_s)
        except OperationTimeout:
            self._driver.stop()
            raise

    def _wait_slow(self, request: MoveRequest, arrived: float) -> float:
        """Wait until the read-back is slower than the limit or the time is over; return the last speed."""
        deadline = arrived + request.settle_timeout_s
        meter = ReadbackSpeed(self._driver.readback_noise_nm, request.settle_limit_nm_s)
        speed_nm_s = NAN
        while True:
            position = self._driver.position()
            now = time.perf_counter()
            speed = meter.add(now, position.x_um, position.y_um)
            if speed is not None:
                speed_nm_s = speed
                if speed <= request.settle_limit_nm_s:
                    return speed
            if now >= deadline and not math.isnan(speed_nm_s):
                return speed_nm_s
            if now >= deadline + WINDOW_MAX_S:
                return speed_nm_s  # the hardware answers too seldom to tell
            if self._stopped.wait(SAMPLE_S):
                raise Aborted("settling ended by Stop")


def check_settle_limit(limit_nm_s: float, floor_nm_s: float) -> None:
    """Refuse a limit of the read-back's speed that is below what it can tell.

    Raises
    ------
    LimitError
        Naming both.
    """
    if not limit_nm_s >= floor_nm_s:
        raise LimitError(
            f"settle_limit_nm_s = {limit_nm_s:g} nm/s is below {floor_nm_s:.3g} nm/s, the smallest speed "
            f"that this stage's read-back can tell from its own noise; choose a larger limit, or settle_mode "
            f'"drift" or "fixed"'
        )
