"""ophyd-async wrapper of the montage-control server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated as A

from ophyd_async.core import Command, SignalR, StandardReadable
from ophyd_async.core import StandardReadableFormat as Format

from devices._tango.wrapper import InstrumentDevice
from devices.montage_control.board import Request

COMMANDS: dict[Request, str] = {
    request: "".join(word.capitalize() for word in request.split("_")) for request in Request
}
"""Command of the server for each request."""


class MontageControl(InstrumentDevice, StandardReadable):
    """The state of the montage that runs, and the requests to it; see `devices.montage_control.server`."""

    DONE_ATTRIBUTE = "requests_done"

    requests_done: SignalR[int]
    montage_id: A[SignalR[str], Format.UNCACHED_SIGNAL]
    montage_state: A[SignalR[str], Format.UNCACHED_SIGNAL]
    current_tile: SignalR[int]
    total_tiles: SignalR[int]
    tiles_reimaged: SignalR[int]
    roi: SignalR[str]
    avg_cycle_time_s: SignalR[float]
    stage_move_time_s: SignalR[float]
    capture_time_s: SignalR[float]
    throughput_per_min: SignalR[float]
    eta_s: SignalR[float]
    qc_verdict: SignalR[str]
    reason: SignalR[str]
    holds: SignalR[Sequence[str]]
    engine: SignalR[str]
    last_seen_s: SignalR[float]
    Pause: Command[[], int]
    PauseNow: Command[[], int]
    Resume: Command[[], int]
    Abort: Command[[], int]
    AbortAtEndOfRow: Command[[], int]
    AbortAtEndOfRoi: Command[[], int]
    SkipRoi: Command[[], int]
    Retry: Command[[], int]
    Accept: Command[[], int]

    take_timeout_s: float = 10.0

    async def ask(self, request: Request) -> None:
        """Make a request and wait until the engine has taken it.

        Raises
        ------
        MontangoError
            No montage runs, or its engine does not take it.
        """
        await self.run(COMMANDS[request], timeout_s=self.take_timeout_s)
