"""The montage: overlapping tiles, judged while it runs; what fails is acquired again as a policy says."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import Readable
from bluesky.utils import Msg, RequestAbort, RequestStop
from ophyd_async.core import DetectorTrigger, TriggerInfo

from devices.camera.device import Camera
from devices.column.device import Column
from devices.errors import Aborted
from devices.sequencer.device import Sequencer
from devices.stage.device import Stage
from plans.beam_guard import BeamGuard
from plans.calibrations import CalibrationStore
from plans.checks import check_montage_id
from plans.control import Control, LocalControl
from plans.preprocessors import cause_of, plain_errors, tolerate, with_baseline
from plans.record import MontageRecord
from plans.specs.focus import FocusSchedule
from plans.specs.montage import MontageSpec
from plans.specs.policy import GOOD, MontageVerdict, RunVerdict
from plans.stubs.acquire import acquire, keep_frames
from plans.stubs.acquisition import Acquisition
from plans.stubs.setup import Prepared, describe_view, prepare, with_settings
from plans.stubs.stage_offset import StageOffset, reference_doses
from plans.unbroken import Flight, unbroken
from plans.verdicts import EventReadable, Verdicts, save_event

SOFTWARE = ("montango", "bluesky", "ophyd-async", "pytango")


class MontageId(str):
    """The id of a montage, with the verdict on the run that has just ended."""

    verdict: MontageVerdict = GOOD


def montage(
    sequencer: Sequencer,
    camera: Camera,
    column: Column,
    stage: Stage,
    spec: MontageSpec,
    md: dict[str, Any] | None = None,
    *,
    verdicts: Verdicts | None = None,
    baseline: Sequence[Readable[Any]] = (),
    minimum_free_gb: float = 2.0,
    calibrations: CalibrationStore | None = None,
    control: Control | None = None,
    resume: MontageRecord | None = None,
    stage_offset: StageOffset | None = None,
) -> Generator[Msg, Any, str]:
    """Acquire a montage.

    Calibrations, limits, disk and dose are checked before anything moves. Lines of tiles run on the
    sequencer, the next stage move overlapping the readout (``spec.mode="stepped"``: the plan moves and
    exposes every tile). Frames and what is recorded of each tile are stream ``tiles``; every verdict and what
    was decided about it is an event of stream ``qc``; focus measured on the way, of ``focus``; pauses,
    holds, requests and devices that failed, of ``incidents``; at the end the verdict on the run is the one
    event of ``verdict``. A tile that failed is acquired again as ``spec.policy`` says, up to
    ``spec.max_attempts`` times in all. However the plan ends, the beam is blanked and the stage still.

    A pause of the RunEngine (Ctrl-C, ``RE.request_pause``) or a suspender strikes at any moment: the
    sequencer ends its tile and keeps the rest, and ``RE.resume`` goes on with it. No tile is exposed twice.

    Parameters
    ----------
    sequencer, camera, column, stage
        The instruments.
    spec
        What to acquire.
    md
        Metadata of the run: sample, operator, purpose, proposal, ... ``montage_id`` is made where absent.
    verdicts
        Who judges the tiles; None acquires every tile once, unjudged.
    baseline
        More devices to read before and after, such as the facility's signals.
    minimum_free_gb
        What must stay free on the disk of the frames, in GB.
    calibrations
        Where calibrations are kept; None takes the column's nominal pixel size and rotation. Frames in the
        file are never corrected: the start document names the references that hold for them.
    control
        Who watches and steers: requests between tiles, reasons to hold, progress. None: nobody.
    resume
        What there is of the montage already: only what is missing or failed is acquired.
    stage_offset
        How the stage reads now against when the montage was begun; None: as in its last run.

    Returns
    -------
    str
        The montage id, a `MontageId` with the verdict on the run.

    Raises
    ------
    ConfigurationError
        A calibration is missing, or ``montage_id`` cannot name files; nothing has moved.
    LimitError
        A tile outside the stage's limits, too little disk, or too much dose; nothing has moved. Also where a
        tile on the way would exceed the dose.
    Aborted
        The operator or the policy ended the montage.
    MontangoError
        An instrument failed; the error names it and says what to do.

    Examples
    --------
    >>> RE(montage(sequencer, camera, column, stage, MontageSpec(rows=3, columns=3)))  # doctest: +SKIP
    """
    run = _Run(sequencer, camera, column, stage, spec, md or {})
    run.verdicts, run.baseline, run.minimum_free_gb = verdicts, tuple(baseline), minimum_free_gb
    run.calibrations, run.control, run.record = calibrations, control or LocalControl(), resume
    run.stage_offset = stage_offset or StageOffset.known(resume)
    plan = unbroken(with_settings(camera, column, spec, run.checked), run.flight)
    return (yield from plain_errors(_not_rewound(plan)))


class _Run:
    """One run of a montage, from the checks to the stop document."""

    verdicts: Verdicts | None
    baseline: tuple[Readable[Any], ...]
    minimum_free_gb: float
    calibrations: CalibrationStore | None
    control: Control
    record: MontageRecord | None
    stage_offset: StageOffset

    def __init__(
        self,
        sequencer: Sequencer,
        camera: Camera,
        column: Column,
        stage: Stage,
        spec: MontageSpec,
        md: dict[str, Any],
    ) -> None:
        self.sequencer, self.camera, self.column, self.stage = sequencer, camera, column, stage
        self.spec, self.md = spec, md
        self.flight = Flight()

    def checked(self) -> Generator[Msg, Any, str]:
        """Check, then acquire with the beam and the stage in safe hands."""
        if "montage_id" in self.md:
            check_montage_id(str(self.md["montage_id"]))
        ready = yield from prepare(
            self.camera,
            self.column,
            self.stage,
            self.spec,
            self.minimum_free_gb,
            self.calibrations,
            self.record,
            self.stage_offset,
        )
        metadata = {**describe_run(self.spec, ready, self.record), **self.stage_offset.metadata(), **self.md}
        state = self._state(ready, str(metadata["montage_id"]))
        self.camera.file_label = state.montage_id
        guarded = bpp.contingency_wrapper(
            bpp.stage_wrapper(self._recorded(state, ready, metadata), [self.camera]),
            except_plan=lambda _: tolerate(bps.stop(self.sequencer), "ending the sequencer"),
        )
        yield from bpp.finalize_wrapper(guarded, lambda: make_safe(self.column, self.stage))
        montage_id = MontageId(state.montage_id)
        montage_id.verdict = state.verdict
        return montage_id

    def _state(self, ready: Prepared, montage_id: str) -> Acquisition:
        state = Acquisition(
            self.sequencer,
            self.camera,
            self.column,
            self.stage,
            self.spec,
            ready.grid,
            ready.view,
            montage_id,
            self.verdicts,
            self.control,
            ready.options,
            ready.beam,
            ready.image_shift_um,
        )
        state.shift_um = ready.image_shift_um
        state.stage_offset = self.stage_offset
        state.calibrations = self.calibrations
        state.attempts.update({item.tile.raster_index: item.attempt for item in ready.items})
        if self.spec.focus is not None:
            state.schedule = FocusSchedule(self.spec.focus)
        if self.record is not None:
            state.take_over(ready.items)
            for disc in reference_doses(self.record, self.stage_offset):
                state.doses.add(*disc)
        return state

    def _recorded(
        self, state: Acquisition, ready: Prepared, metadata: dict[str, Any]
    ) -> Generator[Msg, Any, None]:
        """Acquire within a run that ends with a verdict, and with the status that it deserves."""
        info = TriggerInfo(
            trigger=DetectorTrigger.EXTERNAL_EDGE, number_of_events=0, livetime=self.spec.exposure_time_s
        )
        yield from bps.prepare(self.camera, info, wait=True)
        camera = self.camera
        settings = (camera.exposure_time_s, camera.binning, camera.temperature_degc)
        devices = [self.column, self.stage, *settings, *self.baseline]
        yield from with_baseline(self._run(state, ready, metadata), devices)

    def _run(
        self, state: Acquisition, ready: Prepared, metadata: dict[str, Any]
    ) -> Generator[Msg, Any, None]:
        yield from bps.open_run(metadata)
        try:
            with state.clock("total"):
                yield from self._tiles(state, ready)
        except Exception as failure:
            error = cause_of(failure)
            ended = isinstance(error, Aborted | RequestAbort | RequestStop)
            state.state = "cancelled" if ended else "error"
            if not ended or state.ending:
                state.spoil(MontageVerdict(RunVerdict.STOP_NOW, f"{error}"))
            reason = f"{error}" or type(error).__name__
            state.control.publish(state.progress(reason))
            yield from tolerate(keep_frames(state), "keeping the frames on their way")
            yield from tolerate(save_verdict(state), "saving the verdict")
            stopped = isinstance(error, RequestStop)
            status = "success" if stopped else "abort" if ended else "fail"
            yield from bps.close_run(exit_status=status, reason=reason)
            raise
        state.state = "completed"
        state.control.publish(state.progress())
        yield from save_verdict(state)
        yield from bps.close_run()

    def _tiles(self, state: Acquisition, ready: Prepared) -> Generator[Msg, Any, None]:
        state.control.publish(state.progress())
        if self.spec.defocus_um is not None:
            yield from bps.abs_set(self.column.defocus_um, self.spec.defocus_um, wait=True)
        yield Msg("null", BeamGuard(self.column, self.flight, lambda: bool(state.queued)))
        yield from bps.declare_stream(self.camera, name="tiles", collect=True)
        yield from bps.kickoff(self.camera, wait=True)
        yield from acquire(state, ready.items)


def describe_run(spec: MontageSpec, ready: Prepared, record: MontageRecord | None = None) -> dict[str, Any]:
    """Return the start document's metadata of a montage; the caller's own goes on top."""
    metadata = {
        "plan_name": "montage",
        "technique": "TEM montage",
        "purpose": "montage",
        "montage_id": f"m{datetime.now():%Y%m%d}-{secrets.token_hex(3)}",
        "montage_spec": spec.model_dump(mode="json"),
        "montage_shape": [ready.grid.rows, ready.grid.columns],
        "montage_centre_um": list(ready.centre_um),
        "montage_view": describe_view(ready.view),
        "montage_rois": list(ready.grid.roi_names),
        "montage_extents_px": ready.grid.extents_px(ready.view),
        "num_points": len(ready.items),
        "software": {name: version(name) for name in SOFTWARE},
        "calibration": {
            "pixel_size_nm": ready.view.pixel_size_nm,
            "image_rotation_deg": ready.view.rotation_deg,
        },
        "calibration_uids": ready.calibration_uids,
        "tiled_specs": [{"name": "EMMontage", "version": "1.0"}],
    }
    if record is not None:
        metadata |= {"montage_id": record.montage_id, "resumes": list(record.run_uids)}
    return metadata


def save_verdict(state: Acquisition) -> Generator[Msg, Any, None]:
    """Write the verdict on the run, and where the plan's time went, into stream ``verdict``."""
    yield from save_event(EventReadable("verdict", "plans.montage"), state.report())


def make_safe(column: Column, stage: Stage) -> Generator[Msg, Any, None]:
    """Blank the beam and stop the stage, each even if the other does not answer."""
    yield from tolerate(bps.abs_set(column.beam_blanked, True, wait=True), "blanking the beam")
    yield from tolerate(bps.stop(stage), "stopping the stage")


def _not_rewound(plan: Generator[Msg, Any, str]) -> Generator[Msg, Any, str]:
    """Run a plan that a pause leaves where it is, not at its last checkpoint."""

    def allow() -> Generator[Msg, Any, None]:
        yield Msg("rewindable", None, True)

    yield Msg("rewindable", None, False)
    return (yield from bpp.finalize_wrapper(plan, allow))  # type: ignore[no-any-return]
