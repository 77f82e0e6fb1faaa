"""A scientist's session: a RunEngine, the devices of a laboratory, and what listens to its documents."""

from __future__ import annotations

import getpass
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import tango
from bluesky.run_engine import RunEngine, call_in_bluesky_event_loop

from devices._tango.errors import from_devfailed
from montango.config import load_config
from montango.fence import EngineBusy, EngineLock
from montango.lab import LabInfo
from montango.offers import Plan, bind, offered_plans
from montango.suspended_signals import make_suspenders
from plans.calibrations import CalibrationStore
from plans.specs.montage import MontageSpec
from plans.tango_control import TangoControl, engine_name, host_of
from processing.callbacks._worker import QueuedCallback
from processing.callbacks.catalog import CatalogWriter
from processing.callbacks.journal import Journal
from processing.callbacks.live_mosaic import LiveMosaic
from processing.callbacks.overview import Overview
from processing.callbacks.summary import MontageSummary
from processing.callbacks.tile_qc import QCThresholds, TileQC

logger = logging.getLogger(__name__)


class SessionDevices(Protocol):
    """What a session needs of a profile's devices."""

    @property
    def facility(self) -> Any:
        """Signals to read before and after a run."""

    @property
    def column(self) -> Any:
        """The column, whose signals may hold a montage."""

    @property
    def sequencer(self) -> Any:
        """The sequencer, whose owner a session is."""

    def named(self) -> dict[str, Any]:
        """Return the devices by their names."""


DevicesT = TypeVar("DevicesT", bound=SessionDevices)


class Session(AbstractContextManager["Session[DevicesT]"], Generic[DevicesT]):
    """RunEngine, devices and callbacks, ready for `montage`: the one engine that drives the laboratory.

    Parameters
    ----------
    lab
        The laboratory.
    make_devices
        Returns its devices, connected; called when there is a RunEngine, whose event loop they use.
    engine
        A RunEngine of the caller's; None makes one. A process has one: Tango's client knows one event loop.
    thresholds
        Of the verdict on a tile; None takes those of the laboratory's configuration.
    metadata
        Goes into every start document: sample, proposal, ...
    minimum_free_gb
        What must stay free on the disk of the frames, in GB; None takes that of the configuration.

    Raises
    ------
    EngineBusy
        Another session drives this laboratory.
    """

    def __init__(
        self,
        lab: LabInfo,
        make_devices: Callable[[LabInfo], DevicesT],
        *,
        engine: RunEngine | None = None,
        thresholds: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        minimum_free_gb: float | None = None,
    ) -> None:
        self.lab = lab
        self.config = load_config(lab.config)
        self.lock = EngineLock(lab.state_dir)
        self.lock.acquire()
        self._closed = False
        self._ending = ExitStack()
        self._ending.callback(self.lock.release)
        try:
            self._open(engine, make_devices, thresholds, {**(metadata or {})}, minimum_free_gb)
        except BaseException:
            self.close()
            raise

    def _open(
        self,
        engine: RunEngine | None,
        make_devices: Callable[[LabInfo], DevicesT],
        thresholds: Mapping[str, Any] | None,
        metadata: dict[str, Any],
        minimum_free_gb: float | None,
    ) -> None:
        lab, config = self.lab, self.config
        self.minimum_free_gb = config.paths.minimum_free_gb if minimum_free_gb is None else minimum_free_gb
        self.RE = engine or RunEngine({})
        known = {"instrument": lab.name, "operator": getpass.getuser()}
        self.RE.md.update({**known, "simulated": config.simulation is not None, **metadata})
        self.devices = make_devices(lab)
        self._take_lease()
        journal_dir = Path(lab.journal_dir)
        self.calibrations = CalibrationStore(Path(lab.state_dir) / "calibrations")
        self.control = TangoControl(f"tango://{lab.tango_host}/{lab.devices['control']}")
        self._ending.callback(self.control.close)
        self.suspenders = make_suspenders(config.suspenders, self.devices, lab, self.RE.loop)
        self._ending.callback(self.suspenders.close)
        self.control.hold_by(self.suspenders.holds)
        self.suspenders.start()
        self.journal = Journal(journal_dir).queued()
        self.catalog_writer = CatalogWriter(lab.tiled["uri"], lab.tiled["api_key"], journal_dir)
        self._writers = [self.catalog_writer]
        if "mongo" in lab.tiled:
            from tiled_server.mongo.store import mongo_writer

            self._writers.append(mongo_writer(lab.tiled["mongo"], journal_dir))
        self.thresholds = QCThresholds(**(config.qc if thresholds is None else thresholds))
        references = self.calibrations.folder
        self.qc = TileQC(self.thresholds, calibrations=references)
        self.overview = Overview(Path(lab.data_dir) / "overviews", self.emit, calibrations=references)
        self.summary = MontageSummary()
        self._queued: list[QueuedCallback] = [
            self.qc.queued(),
            self.overview.queued(),
            self.summary.queued(),
        ]
        self.live_mosaic = self._make_live_mosaic() if config.processing.live_mosaic else None
        if self.live_mosaic is not None:
            self._queued.append(self.live_mosaic.queued())
        self._ending.callback(self._close_queues)
        for callback in (self.emit, *self._queued):
            self._ending.callback(self.RE.unsubscribe, self.RE.subscribe(callback))

    def emit(self, name: str, doc: dict[str, Any]) -> None:
        """Record a document: in the journal, and from there in the catalog and in MongoDB if there is one."""
        self.journal(name, doc)
        for writer in self._writers:
            writer(name, doc)

    @property
    def plans(self) -> dict[str, Plan]:
        """The plans of Montango by their names; what the caller does not give is this session's own.

        Verdicts, control, calibrations, facility signals, disk reserve, journal.
        """
        return {name: bind(plan, self._offers()) for name, plan in offered_plans().items()}

    @property
    def montage(self) -> Plan:
        """The plan `montage` with this session's verdicts, control, calibrations, signals, disk reserve."""
        return self.plans["montage"]

    def spec(self, **fields: Any) -> MontageSpec:
        """Return the specification of a montage: the defaults of the configuration, and ``fields`` on top.

        Raises
        ------
        pydantic.ValidationError
            A field is unknown, or its value not allowed.
        """
        return MontageSpec(**{**self.config.montage, **fields})

    def drain(self, timeout_s: float = 60.0) -> bool:
        """Wait until every document so far is worked off; return whether it is."""
        queues: list[QueuedCallback | CatalogWriter] = [*self._queued, self.journal, *self._writers]
        drained = [queue.drain(timeout_s) for queue in queues]  # each, even if one is not
        return all(drained)

    def close(self) -> None:
        """Let go of the RunEngine, work off what is queued, end threads, and let another session drive."""
        if not self._closed:
            self._closed = True
            self._ending.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make_live_mosaic(self) -> LiveMosaic:
        return LiveMosaic(
            Path(self.lab.data_dir) / "mosaics",
            self.emit,
            calibrations=self.calibrations.folder,
            journal_dir=self.lab.journal_dir,
            report=self.qc.report,
            minimum_free_gb=self.minimum_free_gb,
            blending=self.config.processing.live_mosaic_blending,
            match_brightness=self.config.processing.live_mosaic_match_brightness,
        )

    def _offers(self) -> dict[str, Callable[[], Any]]:
        return {
            "verdicts": lambda: self.qc,
            "baseline": self._baseline,
            "minimum_free_gb": lambda: self.minimum_free_gb,
            "calibrations": lambda: self.calibrations,
            "store": lambda: self.calibrations,
            "control": lambda: self.control,
            "report_dir": lambda: Path(self.lab.state_dir) / "reports",
            "journal_dir": lambda: Path(self.lab.journal_dir),
            "thresholds": lambda: self.thresholds,
        }

    def _baseline(self) -> Sequence[Any]:
        if self.devices.facility.connected:
            return (self.devices.facility,)
        logger.warning("the facility's signals are not connected; the montage goes on without them")
        return ()

    def _take_lease(self) -> None:
        """Make this session the sequencer's owner; the lock says that an owner on this host is gone.

        Raises
        ------
        EngineBusy
            An engine on another host owns it.
        """
        sequencer, name = self.devices.sequencer, engine_name()
        (owner,) = call_in_bluesky_event_loop(sequencer.read_now("owner"))
        if owner and host_of(owner) != host_of(name):
            raise EngineBusy(
                f"the sequencer belongs to {owner}; end that session, or, if it is dead, take the lease away "
                f"with the sequencer's command Release({owner!r})"
            )
        if owner:
            call_in_bluesky_event_loop(sequencer.call("Stop"))  # whatever it had queued is nobody's any more
            call_in_bluesky_event_loop(sequencer.release(owner))
        call_in_bluesky_event_loop(sequencer.acquire(name))
        self._ending.callback(self._end_lease, name)

    def _end_lease(self, name: str) -> None:
        """End the lease by a plain client: when the interpreter ends, the threads of asyncio have ended."""
        sequencer = self.devices.sequencer
        try:
            tango.DeviceProxy(sequencer.get_trl()).command_inout("Release", name)
        except tango.DevFailed as failure:
            error = from_devfailed(failure, sequencer.trl)
            logger.warning("the lease of the sequencer ends with its server: %s", error)
        sequencer.owner_token = 0

    def _close_queues(self) -> None:
        queues: list[QueuedCallback | CatalogWriter] = [*self._queued, self.journal, *self._writers]
        for queue in queues:
            if queue.close(30.0):
                continue
            if isinstance(queue, QueuedCallback) and queue.callback is self.live_mosaic:
                logger.warning("the live mosaic is not complete; `montango stitch` makes one of the run")
            else:
                logger.warning("%s did not finish; `montango journal replay` completes the catalog", queue)
