"""Tango device server of a montage's state: what the engine reports, and what operators ask of it.

It also watches over the engine: when one that drives falls silent for ``lost_after_s``, the sequencer's
queue is ended after its tile, the beam blanked and the stage stopped.
"""

from __future__ import annotations

import json
from typing import Any

from tango import DevState
from tango.server import attribute, command, device_property

from devices._tango.errors import translated
from devices._tango.server import InstrumentServer, serve
from devices.errors import LimitError
from devices.montage_control.board import Board, BoardView, Progress, Request
from devices.montage_control.safety import Safety

PERIOD_S = 0.25
MAX_HOLDS = 32
ID = {"dtype_out": "DevLong64", "doc_out": "id of the request; it was taken when requests_done reaches it"}


class ControlServer(InstrumentServer):
    """The state of the montage that runs, and the requests to it."""

    DONE_ATTRIBUTE = "requests_done"

    sequencer_device = device_property(dtype=str, default_value="", doc="Tango name of the sequencer")
    column_device = device_property(dtype=str, default_value="", doc="Tango name of the column")
    stage_device = device_property(dtype=str, default_value="", doc="Tango name of the stage")

    requests_done = attribute(dtype="DevLong64", doc="id of the newest request that the engine has taken")
    montage_id = attribute(dtype=str, doc="montage that runs, or ran last")
    montage_state = attribute(
        dtype=str, doc="idle, started, in_progress, paused, resumed, cancelled, completed or error"
    )
    current_tile = attribute(dtype="DevLong64", doc="tiles exposed so far")
    total_tiles = attribute(dtype="DevLong64", doc="tiles of the montage")
    tiles_reimaged = attribute(dtype="DevLong64", doc="tiles acquired more than once")
    roi = attribute(dtype=str, doc="region of interest that runs")
    avg_cycle_time_s = attribute(dtype=float, unit="s", format="%.4f", doc="mean time of a tile")
    stage_move_time_s = attribute(dtype=float, unit="s", format="%.4f", doc="mean time of a stage move")
    capture_time_s = attribute(dtype=float, unit="s", format="%.4f", doc="mean time of an exposure")
    throughput_per_min = attribute(dtype=float, unit="1/min", format="%.1f", doc="tiles a minute")
    eta_s = attribute(dtype=float, unit="s", format="%.0f", doc="until the last tile")
    qc_verdict = attribute(dtype=str, doc="GOOD, STOP_AT_END or STOP_NOW")
    reason = attribute(dtype=str, doc="why it is paused, cancelled or in error, or of the verdict")
    holds = attribute(dtype=(str,), max_dim_x=MAX_HOLDS, doc="why nothing may be exposed now; empty: go on")
    engine = attribute(dtype=str, doc="user, host and process that drives, or drove last")
    last_seen_s = attribute(dtype=float, unit="s", format="%.1f", doc="since the engine's last report")

    hardware: Board

    def start(self) -> None:
        self._safety = Safety(
            {"sequencer": self.sequencer_device, "column": self.column_device, "stage": self.stage_device}
        )
        self._guarded = False
        self._unsafe: list[str] = []
        self._was_active = self._ended_badly = False
        self.every(PERIOD_S, self._watch, "watch")

    def read_requests_done(self) -> int:
        return self._done_id

    def read_montage_id(self) -> str:
        return str(self._values()["montage_id"])

    def read_montage_state(self) -> str:
        return str(self._values()["montage_state"])

    def read_current_tile(self) -> int:
        return int(self._values()["current_tile"])

    def read_total_tiles(self) -> int:
        return int(self._values()["total_tiles"])

    def read_tiles_reimaged(self) -> int:
        return int(self._values()["tiles_reimaged"])

    def read_roi(self) -> str:
        return str(self._values()["roi"])

    def read_avg_cycle_time_s(self) -> float:
        return float(self._values()["avg_cycle_time_s"])

    def read_stage_move_time_s(self) -> float:
        return float(self._values()["stage_move_time_s"])

    def read_capture_time_s(self) -> float:
        return float(self._values()["capture_time_s"])

    def read_throughput_per_min(self) -> float:
        return float(self._values()["throughput_per_min"])

    def read_eta_s(self) -> float:
        return float(self._values()["eta_s"])

    def read_qc_verdict(self) -> str:
        return str(self._values()["qc_verdict"])

    def read_reason(self) -> str:
        return str(self._values()["reason"])

    def read_holds(self) -> list[str]:
        return list(self._values()["holds"])

    def read_engine(self) -> str:
        return str(self._values()["engine"])

    def read_last_seen_s(self) -> float:
        return float(self._values()["last_seen_s"])

    @command(**ID)
    @translated
    def Pause(self) -> int:
        """Pause after the tile that runs; the beam is blanked."""
        return self._ask(Request.PAUSE)

    @command(**ID)
    @translated
    def PauseNow(self) -> int:
        """Pause now; the exposure that runs is given up."""
        return self._ask(Request.PAUSE_NOW)

    @command(**ID)
    @translated
    def Resume(self) -> int:
        """Go on after a pause."""
        return self._ask(Request.RESUME)

    @command(**ID)
    @translated
    def Abort(self) -> int:
        """End the montage now."""
        return self._ask(Request.ABORT)

    @command(**ID)
    @translated
    def AbortAtEndOfRow(self) -> int:
        """End the montage when the row is done."""
        return self._ask(Request.ABORT_AT_END_OF_ROW)

    @command(**ID)
    @translated
    def AbortAtEndOfRoi(self) -> int:
        """End the montage when the region of interest is done."""
        return self._ask(Request.ABORT_AT_END_OF_ROI)

    @command(**ID)
    @translated
    def SkipRoi(self) -> int:
        """Leave out what is left of the region of interest."""
        return self._ask(Request.SKIP_ROI)

    @command(**ID)
    @translated
    def Retry(self) -> int:
        """Acquire the tile judged last again."""
        return self._ask(Request.RETRY)

    @command(**ID)
    @translated
    def Accept(self) -> int:
        """Keep the tile judged last as it is."""
        return self._ask(Request.ACCEPT)

    @command(
        dtype_in=str,
        doc_in="JSON: engine, progress, holds, taken, boot",
        dtype_out=str,
        doc_out="JSON: boot, requests as [id, name]",
    )
    @translated
    def Report(self, text: str) -> str:
        """Take the report of the engine that drives; for engines only."""
        try:
            report = json.loads(text)
            progress = Progress.from_dict(report["progress"]) if report["progress"] else None
            taken = int(report["taken"]) if report["boot"] == self._boot_id else 0
            waiting = self.hardware.exchange(report["engine"], progress, report["holds"], taken)
        except (ValueError, KeyError, TypeError) as error:
            raise LimitError(f"a report of an engine is JSON with its keys; this is not ({error})") from error
        if taken > self._done_id:
            self.complete(taken)
        return json.dumps({"boot": self._boot_id, "requests": [[one, str(name)] for one, name in waiting]})

    def _ask(self, request: Request) -> int:
        self._newest_id = self.hardware.ask(request)
        return self._newest_id

    def _values(self) -> dict[str, Any]:
        view = self.hardware.view()
        progress = view.progress
        return {
            "montage_id": progress.montage_id,
            "montage_state": "error" if view.lost else progress.state,
            "current_tile": progress.current_tile,
            "total_tiles": progress.total_tiles,
            "tiles_reimaged": progress.reimaged,
            "roi": progress.roi,
            "avg_cycle_time_s": progress.avg_cycle_time_s,
            "stage_move_time_s": progress.move_time_s,
            "capture_time_s": progress.capture_time_s,
            "throughput_per_min": progress.throughput_per_min,
            "eta_s": progress.eta_s,
            "qc_verdict": progress.verdict,
            "reason": self._lost_reason(view) if view.lost else progress.reason,
            "holds": list(view.holds[:MAX_HOLDS]),
            "engine": view.engine,
            "last_seen_s": view.last_seen_s,
        }

    def _lost_reason(self, view: BoardView) -> str:
        safe = "; ".join(self._unsafe) if self._unsafe or not self._guarded else "beam blanked, stage stopped"
        return (
            f"{view.engine} has not reported for {view.last_seen_s:.0f} s ({safe or 'making safe'}); "
            f"go on with `montango resume {view.progress.montage_id}`"
        )

    def _watch(self) -> None:
        view = self.hardware.view()
        self._guard(view)
        state = DevState.ALARM if view.lost else DevState.RUNNING if view.progress.active else DevState.ON
        if state != self.get_state():
            self.enter(state, self._lost_reason(view) if view.lost else "")
        values = self._values()
        values["last_seen_s"] = round(values["last_seen_s"])  # an event a second, not four
        self.publish_changed(**values)

    def _guard(self, view: BoardView) -> None:
        """Make the microscope safe once when the engine is lost; see that a failed run left the beam off."""
        if view.lost:
            if not self._guarded or self._unsafe:
                if not self._guarded:
                    self.warn_stream(f"{view.engine} is silent: ending the sequencer, blanking, stopping")
                    self._safety.begin()
                self._guarded = True
                self._unsafe = self._safety.step()
            return
        self._guarded, self._unsafe = False, []
        if view.progress.active or view.progress.state == "completed":
            self._ended_badly = False
            self._was_active = view.progress.active
        elif self._was_active or self._ended_badly:
            self._was_active, self._ended_badly = False, True
            self._safety.blank_idle_beam()  # `every` logs its failure, and the next round tries again
            self._ended_badly = False


if __name__ == "__main__":
    serve(ControlServer, "MontangoControl")
