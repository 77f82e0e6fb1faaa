"""The state of the virtual microscope: a memory-mapped file that all simulated drivers of a lab share.

The file holds the configuration and four sections with one writer each: stage, column, camera, loader. Beside
it lie ``NAME.faults`` (`sim.faults.FaultFile`, which anyone may append to), ``NAME.truth``, where the camera
appends what really was at every exposure, and ``NAME.beam`` (`sim.beam_log`). No process holds a lock on any
of them, so each may be killed at any moment and the world goes on, as hardware does.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import time
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from devices.errors import ConfigurationError
from sim.beam_log import BeamEvent, BeamLog, BeamSource
from sim.config import SimulationConfig
from sim.faults import Fault, FaultFile
from sim.lenses import Lenses
from sim.motion import CAPACITY as STAGE_CAPACITY
from sim.motion import Motion
from sim.placement import CAPACITY as LOADER_CAPACITY
from sim.placement import Loading, Placement
from sim.sample import SpecimenConfig
from sim.section import Section
from sim.truth import TrueExposure

__all__ = ["TrueExposure", "World"]

MAGIC: Final = b"MONTANGOWORLD\x00\x00\x03"
_CONFIG_AT: Final = 64
_CONFIG_CAPACITY: Final = 1024 * 1024 - _CONFIG_AT
COLUMN_CAPACITY: Final = 4096
CAMERA_CAPACITY: Final = 64
_STAGE_AT: Final = _CONFIG_AT + _CONFIG_CAPACITY
_COLUMN_AT: Final = _STAGE_AT + 4096
_CAMERA_AT: Final = _COLUMN_AT + 12288
_LOADER_AT: Final = _CAMERA_AT + 4096
_SIZE: Final = _LOADER_AT + 8192
_LENGTH = struct.Struct("<Q")
monotonic_s = time.monotonic
"""The clock of timed faults, s; of the machine, so that all processes agree."""


class World:
    """The shared state; make one with `create` or `open`, and `close` it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("r+b") as file:
            if file.read(len(MAGIC)) != MAGIC or path.stat().st_size != _SIZE:
                raise ConfigurationError(f"{path} is not a world of this version; remove it and start again")
            self._memory = mmap.mmap(file.fileno(), _SIZE)
        self.config = self._read_config()
        self.stage = Section(self._memory, _STAGE_AT, STAGE_CAPACITY)
        self.column = Section(self._memory, _COLUMN_AT, COLUMN_CAPACITY)
        self.camera = Section(self._memory, _CAMERA_AT, CAMERA_CAPACITY)
        self.loader = Section(self._memory, _LOADER_AT, LOADER_CAPACITY)
        self.faults = FaultFile(path.with_name(path.name + ".faults"))
        self._beam = BeamLog(path.with_name(path.name + ".beam"))
        self._truth_path = path.with_name(path.name + ".truth")
        self._truth = os.open(self._truth_path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self._motion: tuple[int, Motion] = (0, Motion())
        self._lenses: tuple[int, Lenses] = (0, Lenses.first(self.config.column))
        first = Loading()
        if self.config.loaded_slot:
            first = first.loaded(self.config.loaded_slot)
        self._loading: tuple[int, Loading] = (0, first)
        self._placed = (first, *self._place(first))

    @classmethod
    def create(cls, path: Path | str, config: SimulationConfig) -> World:
        """Make a world (in place of one that is there) with the stage at the origin, and open it.

        Raises
        ------
        ConfigurationError
            The specimen cannot be read, or the description is too long to store.
        """
        from sim.specimen.sources import check_source

        for specimen in (config.specimen, *map(config.specimen_of, config.samples)):
            check_source(specimen)
        text = config.model_dump_json().encode()
        if len(text) > _CONFIG_CAPACITY - _LENGTH.size:
            raise ConfigurationError(
                f"the description of the simulation has {len(text)} bytes, too many to store"
            )
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".faults", ".truth", ".beam"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        content = bytearray(_SIZE)
        content[: len(MAGIC)] = MAGIC
        _LENGTH.pack_into(content, _CONFIG_AT, len(text))
        content[_CONFIG_AT + _LENGTH.size : _CONFIG_AT + _LENGTH.size + len(text)] = text
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.write_bytes(content)
        fresh.replace(path)
        world = cls(path)
        for fault in config.faults:
            world.faults.append(fault)
        world.begin_faults()
        return world

    @classmethod
    def open(cls, path: Path | str) -> World:
        """Open a world that `create` made.

        Raises
        ------
        ConfigurationError
            There is none at ``path``, or it is of another version.
        """
        path = Path(path)
        if not path.is_file():
            raise ConfigurationError(
                f"there is no simulated world at {path}; start the lab with 'montango up'"
            )
        return cls(path)

    def close(self) -> None:
        """Close the files; the world stays."""
        for section in (self.stage, self.column, self.camera, self.loader):
            section.release()
        self._memory.close()
        self.faults.close()
        self._beam.close()
        os.close(self._truth)

    def __enter__(self) -> World:
        """Return the world itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the world."""
        self.close()

    def _read_config(self) -> SimulationConfig:
        (length,) = _LENGTH.unpack_from(self._memory, _CONFIG_AT)
        start = _CONFIG_AT + _LENGTH.size
        try:
            return SimulationConfig.model_validate_json(self._memory[start : start + length])
        except ValidationError as error:
            raise ConfigurationError(
                f"{self.path} was made by another version of Montango ({error.error_count()} settings do not "
                f"fit); remove it and start again"
            ) from error

    def motion(self) -> Motion:
        """Return the move that runs or ran last."""
        if self._motion[0] != self.stage.version:
            version, payload = self.stage.read()
            self._motion = (version, Motion.unpack(payload) if payload else Motion())
        return self._motion[1]

    def lenses(self) -> Lenses:
        """Return the settings of the column."""
        if self._lenses[0] != self.column.version:
            version, payload = self.column.read()
            self._lenses = (version, Lenses.unpack(payload))
        return self._lenses[1]

    def loading(self) -> Loading:
        """Return which sample lies on the stage, and how often samples have been loaded."""
        if self._loading[0] != self.loader.version:
            version, payload = self.loader.read()
            self._loading = (version, Loading.unpack(payload))
        return self._loading[1]

    def placement(self) -> Placement:
        """Return how the sample lies on the stage."""
        loading = self.loading()
        if self._placed[0] is not loading:
            self._placed = (loading, *self._place(loading))
        return self._placed[1]

    def specimen(self) -> SpecimenConfig:
        """Return the description of the specimen on the stage; that of the simulation where there is none."""
        self.placement()
        return self._placed[2]

    def _place(self, loading: Loading) -> tuple[Placement, SpecimenConfig]:
        placement = Placement.of(self.config, loading)
        return placement, self.config.specimen_of(self.config.sample(placement.slot))

    def exposures(self) -> int:
        """Return how many exposures the camera has made in this world: the index of the next one."""
        _, payload = self.camera.read()
        return _LENGTH.unpack(payload)[0] if payload else 0

    def count_exposure(self, index: int) -> None:
        """Record that exposure ``index`` has been made; for the camera alone."""
        self.camera.write(_LENGTH.pack(index + 1))
        self.begin_faults()

    def begin_faults(self) -> tuple[Fault, ...]:
        """Start the timed faults that are due now and return all faults."""
        armed = self.faults.all()
        if any(fault.seconds is not None and fault.since_s is None for fault in armed):
            return self.faults.begin(self.exposures(), monotonic_s())
        return armed

    def acting(self, exposure: int | None = None) -> tuple[Fault, ...]:
        """Return the faults that act on an exposure made now; left out, on the next one."""
        armed = self.begin_faults()
        if not armed:
            return ()
        index, now_s = self.exposures() if exposure is None else exposure, monotonic_s()
        scale = self.config.time_scale
        return tuple([fault for fault in armed if fault.spoils(index) or fault.lasts(now_s, scale)])

    def severity(self, name: str) -> float:
        """Return how badly a fault acts now, 0 where it does not."""
        return max((fault.severity for fault in self.acting() if fault.name == name), default=0.0)

    def severity_of_move(self, name: str, spoiled: int) -> float:
        """Return how badly a fault of the stage acts on a move that begins now, 0 where it does not.

        A fault by count acts on ``count`` moves begun at or after its exposure, whichever they are:
        ``spoiled`` says how many moves faults of this name have spoiled so far.
        """
        exposures, now_s = self.exposures(), monotonic_s()
        for fault in self.begin_faults():
            if fault.name != name:
                continue
            if fault.lasts(now_s, self.config.time_scale):
                return fault.severity
            if fault.seconds is None and fault.at_exposure <= exposures:
                if spoiled < fault.count:
                    return fault.severity
                spoiled -= fault.count
        return 0.0

    def log_beam(self, source: BeamSource, on: bool, at_most_s: float = math.inf) -> None:
        """Append to the beam's log that a source lets the beam through, or an exposure runs, from now on.

        ``at_most_s`` is when it ends by itself, s on the wall (`sim.beam_log.BeamEvent`).
        """
        self._beam.append(BeamEvent(time.time(), source, on, at_most_s))

    def beam_log(self) -> list[BeamEvent]:
        """Return when the beam was let through and blocked so far; see `sim.beam_log.stray_intervals`."""
        return self._beam.events()

    def record(self, exposure: TrueExposure) -> None:
        """Append what really was at an exposure; for the camera alone."""
        os.write(self._truth, exposure.pack())

    def truth(self) -> list[TrueExposure]:
        """Return what really was at each exposure so far."""
        data = os.pread(self._truth, os.fstat(self._truth).st_size, 0)
        size = TrueExposure.SIZE
        return [TrueExposure.unpack(data[at : at + size]) for at in range(0, len(data) - size + 1, size)]
