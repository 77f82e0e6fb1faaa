"""What `montango.bench.kill` does to a laboratory, and how it sees what was lost."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import tango

from devices.camera.counts import CameraCounts
from devices.tiles import IMAGE_DATASET
from montango.lab import Lab
from montango.lab.errors import LabError
from montango.lab.processes import ProcessId, family, kill, left_behind, wait_gone
from montango.lab.programs import TANGO_DATABASE
from montango.lab.readiness import ask
from montango.lab.supervisor import Supervisor
from plans.interrupted import close_interrupted, count_events
from plans.record import MontageRecord
from processing.callbacks.journal import find_runs, read_journal
from processing.stored_frames import stored_frames

POLL_S = 0.05
SAFE_TIMEOUT_S = 60.0


class Damage:
    """Kills parts of a laboratory, and waits until what is left is safe and ready."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def kill_process(self, target: str) -> None:
        """Kill a device server or the Tango database; the supervisor starts it again."""
        name = TANGO_DATABASE if target == "database" else target
        (process,) = (one for one in Supervisor(self.lab.state.socket).processes() if one.name == name)
        found = ProcessId(process.pid, _started(process.pid))
        kill([found])

    def kill_lab(self) -> None:
        """Kill the supervisor: its children must die with it."""
        identity = ProcessId.read(self.lab.state.supervisor_file)
        members = family(identity)
        if identity is not None:
            kill([identity])
        wait_gone(members, 10.0)

    @staticmethod
    def orphans(lab: Lab) -> list[str]:
        """Return what is left of a laboratory that is down, in words."""
        remaining = wait_gone(left_behind(lab.state.root), 5.0)
        return [f"process {one.pid} is left behind" for one in remaining]

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until every instrument answers.

        Raises
        ------
        LabError
            One does not.
        """
        info = self.lab.info()
        names = [one.name for one in Supervisor(self.lab.state.socket).processes() if one.name != "tiled"]
        deadline = time.monotonic() + timeout_s
        while waiting := [name for name in names if not ask(info, name).ready]:
            if time.monotonic() > deadline:
                raise LabError(f"{', '.join(waiting)} did not come back in {timeout_s:g} s")
            time.sleep(POLL_S)

    def wait_safe(self, lost_after_s: float, faults: list[str]) -> None:
        """Wait until the beam is blanked, the stage still and the sequencer idle."""
        began = time.monotonic()
        info = self.lab.info()
        host = f"tango://{info.tango_host}/"
        limit_s = lost_after_s + SAFE_TIMEOUT_S
        while time.monotonic() - began < limit_s:
            with suppress(tango.DevFailed):
                column = tango.DeviceProxy(host + info.devices["column"])
                stage = tango.DeviceProxy(host + info.devices["stage"])
                sequencer = tango.DeviceProxy(host + info.devices["sequencer"])
                idle = sequencer.state() == tango.DevState.ON
                if idle and column.beam_blanked and stage.stage_state == "READY":
                    return
            time.sleep(POLL_S)
        faults.append(f"beam not blanked or stage not still {limit_s:.0f} s after control was lost")


class Montage:
    """One montage of the bench: what the camera counted, and what its files held at the kill."""

    def __init__(self, lab: Lab, montage_id: str, tiles: int) -> None:
        self.montage_id = montage_id
        self._tiles = tiles
        self._journal = lab.state.journal
        self._data = Path(lab.info().data_dir)
        self._counts = CameraCounts(lab.state.root / "camera.json")
        self._before = self._counts.exposures
        self._hashes: dict[tuple[Path, int], str] = {}

    def wait_exposures(self, count: int, over: Callable[[], bool], timeout_s: float) -> None:
        """Wait until the camera has made so many exposures, or the montage is over."""
        deadline = time.monotonic() + timeout_s
        while self._counts.exposures - self._before < count and not over():
            if time.monotonic() > deadline:
                raise LabError(f"{self.montage_id} has no {count} exposures after {timeout_s:g} s")
            time.sleep(0.002)

    def remember(self) -> None:
        """Hash every frame that is in a file now."""
        for path in self._data.rglob(f"{self.montage_id}_*.h5"):
            self._hashes |= frame_hashes(path)

    def complete(self) -> bool:
        """Whether every tile has a good frame in a run that has ended."""
        with suppress(Exception):
            record = MontageRecord.read(self._journal, self.montage_id)
            return record.good == self._tiles and all(run.ended for run in record.runs)
        return False

    def check(self, faults: list[str]) -> None:
        """Append what does not hold."""
        record = MontageRecord.read(self._journal, self.montage_id)
        if record.good != self._tiles:
            faults.append(f"{record.good} of {self._tiles} tiles are good")
        for key, records in record.tiles.items():
            good = [one.attempt for one in records if one.good]
            if good and max(one.attempt for one in records if one.readable) > good[0]:
                faults.append(f"tile {tuple(key)} was exposed again after a good attempt {good[0]}")
            if len({one.attempt for one in records if one.readable}) < sum(one.readable for one in records):
                faults.append(f"tile {tuple(key)} has two frames of one attempt")
        now: dict[tuple[Path, int], str] = {}
        for path in {path for path, _ in self._hashes}:
            now |= frame_hashes(path)
        lost = [
            f"{path.name}[{index}]"
            for (path, index), one in self._hashes.items()
            if now.get((path, index)) != one
        ]
        if lost:
            faults.append(f"{len(lost)} frames lost or changed: {', '.join(lost[:3])}")
        if unended := [run.uid for run in record.runs if not run.ended]:
            faults.append(f"runs without an end: {', '.join(unended)}")

    def extra_exposures(self) -> int:
        """Return how many exposures the camera made more than there are frames."""
        record = MontageRecord.read(self._journal, self.montage_id)
        return self._counts.exposures - self._before - record.exposures


def frame_hashes(path: Path) -> dict[tuple[Path, int], str]:
    """Return a hash of the bytes of every readable frame of a file."""
    readable = [one.index for one in stored_frames(path) if one.readable]
    with h5py.File(path, "r", libver="latest", swmr=True) as file:
        data = file[IMAGE_DATASET]
        return {(path, index): hashlib.blake2b(data[index].tobytes()).hexdigest() for index in readable}


def catalog_differences(lab: Lab) -> list[str]:
    """Complete the catalog from the journal and return where the two differ, in words."""
    from tiled.client import from_uri

    from tiled_server.replay import replay

    info = lab.info()
    lab.up(wait=True)
    close_interrupted(info.journal_dir)
    summary = replay(info.journal_dir, info.tiled["uri"], info.tiled["api_key"], settled_after_s=0.0)
    faults = [f"run {uid} is not in the catalog: {error}" for uid, error in summary.failed.items()]
    client = from_uri(info.tiled["uri"], api_key=info.tiled["api_key"])
    try:
        for run in find_runs(info.journal_dir):
            documents = list(read_journal(run.path))
            node = client.get(run.uid)
            if node is None or node.metadata.get("stop") != documents[-1][1]:
                faults.append(f"run {run.uid} differs: its stop document in the catalog is another")
                continue
            faults += _stream_differences(run.uid, node, documents)
    finally:
        client.context.close()
    return faults


def _stream_differences(uid: str, node: Any, documents: list[tuple[str, dict[str, Any]]]) -> list[str]:
    faults = []
    keys = {doc["name"]: set(doc["data_keys"]) for name, doc in documents if name == "descriptor"}
    for stream, count in count_events(documents).items():
        found = _length(node[stream], keys[stream]) if stream in node else 0
        if found != count:
            faults.append(f"run {uid}: stream {stream} has {count} in the journal and {found} in the catalog")
    return faults


def _length(stream: Any, keys: set[str]) -> int:
    """Return how many events of a stream the catalog has; a mosaic is one of all its levels, or none."""
    if "image" in keys:
        return int(stream["image"].shape[0])
    if "level_0" in keys:
        return int(keys <= set(stream))
    if "time" in stream:
        return len(stream["time"].read())
    return int(stream[min(keys)].shape[0])


def _started(pid: int) -> float:
    import psutil

    return float(psutil.Process(pid).create_time())
