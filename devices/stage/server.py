"""Tango device server of a stage."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

from tango import AutoTangoAllowThreads, DevState
from tango.server import attribute, command, device_property

from devices._tango.errors import translated
from devices._tango.server import InstrumentServer, serve
from devices.errors import Aborted, InstrumentFault, MontangoError
from devices.stage.driver import AXES, StageDriver, StagePosition, axis_unit

IDLE_PERIOD_S = 1.0
MOVING_PERIOD_S = 0.02


def _axis(name: str, what: str) -> attribute:
    return attribute(dtype=float, unit=axis_unit(name), format="%.4f", doc=f"{what}, read back")


class StageServer(InstrumentServer):
    """A stage: moves with ids, `moves_done`, read-backs, limits."""

    DONE_ATTRIBUTE = "moves_done"

    move_timeout_s = device_property(dtype=float, default_value=30.0, doc="longest time a move may take")

    x_um = _axis("x_um", "stage x")
    y_um = _axis("y_um", "stage y")
    z_um = _axis("z_um", "stage z")
    alpha_deg = _axis("alpha_deg", "tilt alpha")
    beta_deg = _axis("beta_deg", "tilt beta")
    position = attribute(dtype=(float,), max_dim_x=5, unit="um, deg", doc="x, y, z, alpha, beta, read back")
    lower_limits = attribute(dtype=(float,), max_dim_x=5, unit="um, deg", doc="of x, y, z, alpha, beta")
    upper_limits = attribute(dtype=(float,), max_dim_x=5, unit="um, deg", doc="of x, y, z, alpha, beta")
    stage_state = attribute(dtype=str, doc="READY, DISABLED, NOT_READY, GOING, MOVING or WOBBLING")
    moves_done = attribute(dtype="DevLong64", doc="id of the newest move that ended well")

    hardware: StageDriver

    def start(self) -> None:
        self._moves: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._busy = threading.Lock()
        self._moved = threading.Event()
        self._looked = 0.0
        for axis, (low, high) in zip(AXES, self.hardware.limits.as_tuple(), strict=True):
            properties = self.get_device_attr().get_attr_by_name(axis).get_properties()
            properties.min_value, properties.max_value = str(low), str(high)
            self.get_device_attr().get_attr_by_name(axis).set_properties(properties)
        self.spawn(self._finish_moves, "moves")
        self.every(MOVING_PERIOD_S, self._watch, "watch")

    def wake(self) -> None:
        if hasattr(self, "_moves"):
            self._moves.put(None)

    def read_x_um(self) -> float:
        return self.hardware.position().x_um

    def read_y_um(self) -> float:
        return self.hardware.position().y_um

    def read_z_um(self) -> float:
        return self.hardware.position().z_um

    def read_alpha_deg(self) -> float:
        return self.hardware.position().alpha_deg

    def read_beta_deg(self) -> float:
        return self.hardware.position().beta_deg

    def read_position(self) -> tuple[float, ...]:
        return astuple(self.hardware.position())

    def read_lower_limits(self) -> list[float]:
        return [low for low, _ in self.hardware.limits.as_tuple()]

    def read_upper_limits(self) -> list[float]:
        return [high for _, high in self.hardware.limits.as_tuple()]

    def read_stage_state(self) -> str:
        return str(self.hardware.state())

    def read_moves_done(self) -> int:
        return self._done_id

    @command(
        dtype_in=(float,),
        doc_in="x, y[, z, alpha, beta] in um and deg; NaN leaves an axis where it is",
        dtype_out="DevLong64",
        doc_out="id of the move; it has ended when moves_done reaches it",
    )
    @translated
    def MoveTo(self, target: Any) -> int:
        """Start a move and return its id."""
        axes = {
            axis: float(value) for axis, value in zip(AXES, target, strict=False) if not math.isnan(value)
        }
        self._start(axes)
        move = self.begin()
        self.enter(DevState.MOVING)
        self._moves.put(move)
        return move

    def _start(self, target: Mapping[str, float]) -> None:
        """Start a move if none runs; who calls releases ``self._busy`` when it has ended."""
        self.hardware.limits.check(target)
        if not self._busy.acquire(blocking=False):
            raise InstrumentFault("the stage is already moving; wait for moves_done, or Stop")
        try:
            self.hardware.start_move(target)
        except BaseException:
            self._busy.release()
            raise
        self._moved.set()

    @command(
        dtype_in=(float,),
        doc_in="x, y in um, settle in s",
        dtype_out=(float,),
        doc_out="x, y, z, alpha, beta read back after settling, then move time and settle time in s",
    )
    @translated
    def MoveAndSettle(self, request: Any) -> tuple[float, ...]:
        """Move, wait until the stage is still, wait the settle time; Stop works meanwhile."""
        x_um, y_um, settle_s = (float(value) for value in request)
        started = time.perf_counter()
        self._start({"x_um": x_um, "y_um": y_um})
        move = self.begin()
        try:
            with AutoTangoAllowThreads(self):
                self.hardware.wait_still(self.move_timeout_s)
                arrived = time.perf_counter()
                if settle_s > 0 and self._quit.wait(settle_s):
                    raise Aborted("the stage server is stopping")
                position = self.hardware.position()
        except MontangoError as error:
            self.fail(move, error)
            raise
        finally:
            self._busy.release()
        settled = time.perf_counter()
        self._done_id = max(self._done_id, move)  # its event follows: who asked has the answer already
        self._moved.set()
        return (*astuple(position), arrived - started, settled - arrived)

    @command(dtype_out="DevLong64", doc_out="id of the newest move")
    @translated
    def Stop(self) -> int:
        """Stop every axis where it is; a move that runs fails with Aborted."""
        self.hardware.stop()
        return self._newest_id

    def _finish_moves(self) -> None:
        while (move := self._moves.get()) is not None:
            try:
                position = self.hardware.wait_still(self.move_timeout_s)
            except Exception as error:  # noqa: BLE001  # the thread's edge
                self.hardware.stop()
                self._busy.release()
                self.enter(DevState.ON)
                self.fail(move, error)
                continue
            self._busy.release()
            self.enter(DevState.ON)
            self.complete(move, **_named(position))

    def _watch(self) -> None:
        """Push the read-backs; called at 50 Hz, asks the hardware once a second while the stage is still."""
        now = time.monotonic()
        if self._busy.locked() or self._moved.is_set() or now - self._looked > IDLE_PERIOD_S:
            self._moved.clear()
            self._looked = now
            position = self.hardware.position()
            self.publish_changed(
                **_named(position),
                position=astuple(position),
                stage_state=str(self.hardware.state()),
                moves_done=self._done_id,
            )


def _named(position: StagePosition) -> dict[str, float]:
    return dict(zip(AXES, astuple(position), strict=True))


if __name__ == "__main__":
    serve(StageServer, "MontangoStage")
