"""Tango device server of a stage."""

from __future__ import annotations

import math
import queue
import threading
import time
from dataclasses import astuple
from typing import Any

from tango import AutoTangoAllowThreads, DevState
from tango.server import attribute, command, device_property

from devices._tango.errors import translated
from devices._tango.server import InstrumentServer, serve
from devices.errors import InstrumentFault, MontangoError
from devices.stage.driver import AXES, StageDriver, StagePosition, axis_unit
from devices.stage.mover import StageMover
from devices.stage.moves import MoveRequest

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
    settle_floor_nm_s = attribute(
        dtype=float, unit="nm/s", format="%.1f", doc="smallest speed that the read-back can tell"
    )
    moves_done = attribute(dtype="DevLong64", doc="id of the newest move that ended well")

    hardware: StageDriver

    def start(self) -> None:
        self._moves: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._busy = threading.Lock()
        self._moved = threading.Event()
        self._looked = 0.0
        self._mover = StageMover(self.hardware, self.move_timeout_s)
        for axis, (low, high) in zip(AXES, self.hardware.limits.as_tuple(), strict=True):
            properties = self.get_device_attr().get_attr_by_name(axis).get_properties()
            properties.min_value, properties.max_value = str(low), str(high)
            self.get_device_attr().get_attr_by_name(axis).set_properties(properties)
        self.spawn(self._finish_moves, "moves")
        self.every(MOVING_PERIOD_S, self._watch, "watch")

    def wake(self) -> None:
        if hasattr(self, "_moves"):
            self._mover.interrupt()
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

    def read_settle_floor_nm_s(self) -> float:
        return self._mover.settle_floor_nm_s

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
        self.hardware.limits.check(axes)
        self._take()
        try:
            self._mover.start(axes)
        except BaseException:
            self._mover.travel.forget()
            self._busy.release()
            raise
        move = self.begin()
        self.enter(DevState.MOVING)
        self._moves.put(move)
        return move

    def _take(self) -> None:
        """Claim the stage for a move; who calls releases ``self._busy`` when it has ended."""
        if not self._busy.acquire(blocking=False):
            raise InstrumentFault("the stage is already moving; wait for moves_done, or Stop")
        self._mover.begin()
        self._moved.set()

    @command(
        dtype_in=(float,),
        doc_in="devices.stage.moves.MoveRequest: x, y in um, settle in s, then what may be left out",
        dtype_out=(float,),
        doc_out="devices.stage.moves.MoveResult: x, y, z, alpha, beta, times in s, tries, speed in nm/s",
    )
    @translated
    def MoveAndSettle(self, request: Any) -> tuple[float, ...]:
        """Move, arrive within the tolerance, settle, read back; Stop works meanwhile."""
        wanted = MoveRequest.unpack(request)
        self._mover.check(wanted)
        self._take()
        move = self.begin()
        try:
            with AutoTangoAllowThreads(self):
                result = self._mover.move(wanted)
        except MontangoError as error:
            self.fail(move, error)
            raise
        finally:
            self._busy.release()
        self._done_id = max(self._done_id, move)  # its event follows: who asked has the answer already
        self._moved.set()
        return result

    @command(dtype_out="DevLong64", doc_out="id of the newest move")
    @translated
    def Stop(self) -> int:
        """Stop every axis where it is; a move that runs or settles fails with Aborted."""
        self._mover.stop()
        return self._newest_id

    def _finish_moves(self) -> None:
        while (move := self._moves.get()) is not None:
            try:
                position = self.hardware.wait_still(self.move_timeout_s)
            except Exception as error:  # noqa: BLE001  # the thread's edge
                self._mover.stop()
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
