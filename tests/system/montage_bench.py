"""A laboratory with real tissue in fast time, and montages on it: what the tests of the loop share."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import tango
from bluesky.run_engine import RunEngine
from bluesky.utils import RunEngineInterrupted

from devices.errors import MontangoError
from montango.lab import Lab
from plans.montage import montage
from plans.specs.montage import MontageSpec
from plans.stubs.snap import snap
from processing.callbacks.tile_qc import TileQC
from sim.faults import inject, make_fault
from sim.world import World

if TYPE_CHECKING:
    from profiles.simulated.devices import Devices


class Ended(NamedTuple):
    """A montage that has ended: its documents by name, its error."""

    documents: list[tuple[str, dict[str, Any]]]
    error: Exception | None
    exposures: int

    def events(self, key: str) -> list[dict[str, Any]]:
        """Return the events that have a key, in their order."""
        return [doc["data"] for name, doc in self.documents if name == "event" and key in doc["data"]]

    @property
    def stop(self) -> dict[str, Any]:
        """The stop document."""
        return self.documents[-1][1]

    @property
    def verdict(self) -> dict[str, Any]:
        """The event of stream verdict."""
        (verdict,) = self.events("montage_verdict")
        return verdict

    @property
    def decisions(self) -> list[tuple[str, str]]:
        """Kinds of fault and decision of the verdicts that were not plainly good."""
        return [
            (",".join(fault["kind"] for fault in json.loads(event["faults"])), event["qc_decision"])
            for event in self.events("qc_decision")
            if event["qc_decision"] != "keep" or event["qc_state"] != "pass"
        ]

    def tiles(self) -> Counter[tuple[int, ...]]:
        """Return how often each (roi, row, column, attempt) is in the file."""
        uri = next(doc["uri"] for name, doc in self.documents if name == "stream_resource")
        with h5py.File(uri.removeprefix("file://localhost"), "r", libver="latest", swmr=True) as file:
            table = [file[f"/entry/tiles/{name}"][:] for name in ("roi", "row", "column", "attempt")]
        return Counter(tuple(int(value) for value in tile) for tile in zip(*table, strict=True))

    def all_once(self, count: int) -> bool:
        """Whether the file has so many tiles, and each but once."""
        tiles = self.tiles()
        return len(tiles) == count and set(tiles.values()) == {1}


class Bench:
    """A laboratory with real tissue in fast time, and a way to run montages on it."""

    def __init__(self, lab: Lab, devices: Devices, engine: RunEngine) -> None:
        self.engine, self.devices = engine, devices
        self.world = World.open(str(lab.info().world))
        self.qc = TileQC()
        self.queued = self.qc.queued()
        assert lab.config is not None
        self.ring_slots = lab.config.instruments.camera.ring_slots
        host = f"tango://{lab.info().tango_host}/"
        self.column, self.stage, self.camera = (
            tango.DeviceProxy(f"{host}em/{one}/1") for one in ("column", "stage", "camera")
        )

    @property
    def instruments(self) -> tuple[Any, Any, Any, Any]:
        """The devices in the order that plans take them."""
        return self.devices.sequencer, self.devices.camera, self.devices.column, self.devices.stage

    def arm(self, name: str, tile: int, **options: Any) -> None:
        """Inject a fault at a frame to come, counted from now."""
        inject(self.world, make_fault(name, at_exposure=self.world.exposures() + tile, **options))

    def clear(self) -> None:
        """Let the faults pass that are armed for frames and moves to come."""
        last = max((fault.at_exposure + fault.count for fault in self.world.faults.all()), default=0)
        for _ in range(last - self.world.exposures()):
            self.engine(snap(self.devices.camera, self.devices.column, 0.001, binning=8, dark=True))

    def run(
        self,
        spec: MontageSpec,
        watch: Callable[[str, dict[str, Any]], None] | None = None,
        *,
        judged: bool = True,
        paused: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> Ended:
        """Acquire a montage; go on after every pause of the RunEngine."""
        documents: list[tuple[str, dict[str, Any]]] = []

        def keep(name: str, doc: dict[str, Any]) -> None:
            documents.append((name, doc))
            if watch is not None:
                watch(name, doc)

        tokens = [self.engine.subscribe(keep), self.engine.subscribe(self.queued)]
        verdicts = self.qc if judged else None
        plan = montage(*self.instruments, spec, verdicts=verdicts, minimum_free_gb=0.1, **options)
        before, error = self.world.exposures(), None
        try:
            self._through(plan, paused)
        except MontangoError as raised:
            error = raised
        finally:
            for token in tokens:
                self.engine.unsubscribe(token)
        assert self.column.beam_blanked
        assert self.stage.stage_state == "READY"
        return Ended(documents, error, self.world.exposures() - before)

    def _through(self, plan: Any, paused: Callable[[], None]) -> None:
        try:
            self.engine(plan)
        except RunEngineInterrupted:
            while self.engine.state == "paused":
                paused()
                try:
                    self.engine.resume()
                except RunEngineInterrupted:
                    continue


def after(frames: int, act: Callable[[], None]) -> Callable[[str, dict[str, Any]], None]:
    """Return a callback that acts once so many frames are announced."""
    done = threading.Event()

    def watch(name: str, doc: dict[str, Any]) -> None:
        if name == "stream_datum" and doc["indices"]["stop"] >= frames and not done.is_set():
            done.set()
            act()

    return watch
