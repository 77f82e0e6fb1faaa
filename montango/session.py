"""A scientist's session: a RunEngine, the devices of a laboratory, and what listens to its documents."""

from __future__ import annotations

import functools
import getpass
import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from bluesky.run_engine import RunEngine
from bluesky.utils import Msg

from montango.lab import LabInfo
from plans.montage import montage
from processing.callbacks._worker import QueuedCallback
from processing.callbacks.catalog import CatalogWriter
from processing.callbacks.journal import Journal
from processing.callbacks.overview import Overview
from processing.callbacks.summary import MontageSummary
from processing.callbacks.tile_qc import QCThresholds, TileQC

logger = logging.getLogger(__name__)


class LazyCatalog:
    """The catalog as a Tiled client that connects when it is first used: Tiled takes long to start."""

    def __init__(self, uri: str, api_key: str) -> None:
        self._uri = uri
        self._api_key = api_key

    @functools.cached_property
    def client(self) -> Any:
        """The Tiled client itself."""
        from tiled.client import from_uri

        return from_uri(self._uri, api_key=self._api_key)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.client, name)

    def __getitem__(self, key: Any) -> Any:
        return self.client[key]

    def __len__(self) -> int:
        return len(self.client)

    def __dir__(self) -> list[str]:
        return dir(self.client)

    def __repr__(self) -> str:
        return repr(self.client)


class SessionDevices(Protocol):
    """What a session needs of a profile's devices."""

    @property
    def facility(self) -> Any:
        """Signals to read before and after a run."""

    def named(self) -> dict[str, Any]:
        """Return the devices by their names."""


DevicesT = TypeVar("DevicesT", bound=SessionDevices)


class Session(AbstractContextManager["Session[DevicesT]"], Generic[DevicesT]):
    """RunEngine, devices and callbacks, ready for `montage`.

    Parameters
    ----------
    lab
        The laboratory.
    make_devices
        Returns its devices, connected; called when there is a RunEngine, whose event loop they use.
    engine
        A RunEngine of the caller's; None makes one. A process has one: Tango's client knows one event loop.
    thresholds
        Of the verdict on a tile.
    metadata
        Goes into every start document: sample, proposal, ...
    minimum_free_gb
        What must stay free on the disk of the frames, in GB.
    """

    def __init__(
        self,
        lab: LabInfo,
        make_devices: Callable[[LabInfo], DevicesT],
        *,
        engine: RunEngine | None = None,
        thresholds: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        minimum_free_gb: float = 2.0,
    ) -> None:
        self.lab = lab
        self.minimum_free_gb = minimum_free_gb
        self.RE = engine or RunEngine({})
        self.RE.md.update({"instrument": lab.name, "operator": getpass.getuser(), **(metadata or {})})
        self.devices = make_devices(lab)
        journal_dir = Path(lab.journal_dir)
        self.journal = Journal(journal_dir).queued()
        self.catalog_writer = CatalogWriter(lab.tiled["uri"], lab.tiled["api_key"], journal_dir)
        self.qc = TileQC(QCThresholds(**(thresholds or {})))
        self.overview = Overview(Path(lab.data_dir) / "overviews", self.emit)
        self.summary = MontageSummary()
        self._queued: list[QueuedCallback] = [
            self.qc.queued(),
            self.overview.queued(),
            self.summary.queued(),
        ]
        self._closed = False
        self._tokens = [self.RE.subscribe(callback) for callback in (self.emit, *self._queued)]

    def emit(self, name: str, doc: dict[str, Any]) -> None:
        """Record a document: in the journal, and from there in the catalog."""
        self.journal(name, doc)
        self.catalog_writer(name, doc)

    @property
    def montage(self) -> Callable[..., Generator[Msg, Any, str]]:
        """The plan `montage` with this session's verdicts, facility signals and disk reserve."""

        @functools.wraps(montage)
        def bound(*args: Any, **kwargs: Any) -> Generator[Msg, Any, str]:
            kwargs.setdefault("verdicts", self.qc)
            if self.devices.facility.connected:
                kwargs.setdefault("baseline", (self.devices.facility,))
            else:
                logger.warning("the facility's signals are not connected; the montage goes on without them")
            kwargs.setdefault("minimum_free_gb", self.minimum_free_gb)
            return (yield from montage(*args, **kwargs))

        return bound

    def drain(self, timeout_s: float = 60.0) -> bool:
        """Wait until every document so far is worked off; return whether it is."""
        queues: list[QueuedCallback | CatalogWriter] = [*self._queued, self.journal, self.catalog_writer]
        drained = [queue.drain(timeout_s) for queue in queues]  # each, even if one is not
        return all(drained)

    def close(self) -> None:
        """Work off what is queued, end the callbacks' threads, and let go of the RunEngine."""
        if self._closed:
            return
        self._closed = True
        for token in self._tokens:
            self.RE.unsubscribe(token)
        queues: list[QueuedCallback | CatalogWriter] = [*self._queued, self.journal, self.catalog_writer]
        for queue in queues:
            if not queue.close(30.0):
                logger.warning("%s did not finish; `montango journal replay` completes the catalog", queue)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
