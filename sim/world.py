"""The state of the virtual microscope: a memory-mapped file that all simulated drivers of a lab share.

The file holds the configuration and three sections with one writer each: stage, column, camera. Beside it
lie ``NAME.faults`` (`sim.faults.FaultFile`, which anyone may append to) and ``NAME.truth``, where the camera
appends what really was at every exposure. No process holds a lock on any of them, so each may be killed at
any moment and the world goes on, as hardware does.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from devices.errors import ConfigurationError
from sim.config import SimulationConfig
from sim.faults import FAULT_NAMES, FaultFile
from sim.lenses import Lenses
from sim.motion import CAPACITY as STAGE_CAPACITY
from sim.motion import Motion
from sim.section import Section

MAGIC: Final = b"MONTANGOWORLD\x00\x00\x01"
_CONFIG_AT: Final = 64
_CONFIG_CAPACITY: Final = 256 * 1024 - _CONFIG_AT
COLUMN_CAPACITY: Final = 4096
CAMERA_CAPACITY: Final = 64
_STAGE_AT: Final = _CONFIG_AT + _CONFIG_CAPACITY
_COLUMN_AT: Final = _STAGE_AT + 4096
_CAMERA_AT: Final = _COLUMN_AT + 12288
_SIZE: Final = _CAMERA_AT + 4096
_LENGTH = struct.Struct("<Q")
_TRUTH = struct.Struct("<Qd8dI?3x")


@dataclass(frozen=True, slots=True)
class TrueExposure:
    """What really was at one exposure.

    ``index`` counts the exposures of the world from 0; ``time_s`` is its start in Unix time; ``x_um`` and
    ``y_um`` the specimen point at the middle of the image (stage and image shift with all their errors),
    ``z_um`` the height of the stage; ``defocus_um`` that of the objective (underfocus negative);
    ``drift_x_um`` and ``drift_y_um`` how far the specimen ran during the exposure; ``pixel_size_nm`` and
    ``dose_e_nm2`` those of the middle of the beam; ``beam_on`` whether electrons reached the camera.
    """

    index: int
    time_s: float
    x_um: float
    y_um: float
    z_um: float
    defocus_um: float
    drift_x_um: float
    drift_y_um: float
    pixel_size_nm: float
    dose_e_nm2: float
    faults: tuple[str, ...]
    beam_on: bool

    def pack(self) -> bytes:
        """Return the record as bytes of fixed length."""
        bits = 0
        for name in self.faults:
            bits |= 1 << FAULT_NAMES.index(name)
        return _TRUTH.pack(
            self.index,
            self.time_s,
            self.x_um,
            self.y_um,
            self.z_um,
            self.defocus_um,
            self.drift_x_um,
            self.drift_y_um,
            self.pixel_size_nm,
            self.dose_e_nm2,
            bits,
            self.beam_on,
        )

    @classmethod
    def unpack(cls, record: bytes) -> TrueExposure:
        """Return the record that `pack` made."""
        *numbers, bits, beam_on = _TRUTH.unpack(record)
        names = tuple(name for bit, name in enumerate(FAULT_NAMES) if bits >> bit & 1)
        return cls(*numbers, names, beam_on)  # type: ignore[call-arg]


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
        self.faults = FaultFile(path.with_name(path.name + ".faults"))
        self._truth_path = path.with_name(path.name + ".truth")
        self._truth = os.open(self._truth_path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self._motion: tuple[int, Motion] = (0, Motion())
        self._lenses: tuple[int, Lenses] = (0, Lenses.first(self.config.column))

    @classmethod
    def create(cls, path: Path | str, config: SimulationConfig) -> World:
        """Make a world (in place of one that is there) with the stage at the origin, and open it.

        Raises
        ------
        ConfigurationError
            The specimen cannot be read, or the description is too long to store.
        """
        from sim.specimen.sources import check_source

        check_source(config.specimen)
        text = config.model_dump_json().encode()
        if len(text) > _CONFIG_CAPACITY - _LENGTH.size:
            raise ConfigurationError(
                f"the description of the simulation has {len(text)} bytes, too many to store"
            )
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".faults", ".truth"):
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
        for section in (self.stage, self.column, self.camera):
            section.release()
        self._memory.close()
        self.faults.close()
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

    def exposures(self) -> int:
        """Return how many exposures the camera has made in this world: the index of the next one."""
        _, payload = self.camera.read()
        return _LENGTH.unpack(payload)[0] if payload else 0

    def count_exposure(self, index: int) -> None:
        """Record that exposure ``index`` has been made; for the camera alone."""
        self.camera.write(_LENGTH.pack(index + 1))

    def record(self, exposure: TrueExposure) -> None:
        """Append what really was at an exposure; for the camera alone."""
        os.write(self._truth, exposure.pack())

    def truth(self) -> list[TrueExposure]:
        """Return what really was at each exposure so far."""
        data = os.pread(self._truth, os.fstat(self._truth).st_size, 0)
        size = _TRUTH.size
        return [TrueExposure.unpack(data[at : at + size]) for at in range(0, len(data) - size + 1, size)]
