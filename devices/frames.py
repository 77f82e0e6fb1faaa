"""Frames in shared memory, from the camera server to whoever looks at them live.

A ring is a memory-mapped file of a few slots, its pages touched beforehand (a fresh page costs ten times a
used one). Nothing that reads can slow the camera: a reader that comes too late is told which frame it missed
and reads it from the HDF5 file. Pages of 4096 bytes: the header, the slot headers, then one frame a slot::

    header  magic 8s, version u4, slots u4, height u4, width u4, dtype 8s, offset of frame 0 u8, stride u8
    slot    sequence u8 (odd while it is written), epoch u8, index u8, crc32 u8

``epoch`` counts the files that the camera opened, ``index`` is the frame's index in that file, from 0. A
frame goes to slot ``index % slots``.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import sys
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from devices.errors import ConfigurationError, InstrumentFault, MontangoError

_MAGIC: Final = b"MTGRING\0"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sIIII8sQQ")
_PAGE: Final = 4096
_SLOT_WORDS: Final = 4
_SEQUENCE, _EPOCH, _INDEX, _CRC = range(_SLOT_WORDS)
_UNUSED: Final = 2
"""References to an array that only a list, and the one who counts, have."""


class FrameMissed(MontangoError):
    """A frame is not (or no longer, or not yet) in the ring; read it from the file."""

    def __init__(self, epoch: int, index: int, reason: str) -> None:
        super().__init__(
            f"frame {index} of epoch {epoch} is not in the ring: {reason}; read it from the HDF5 file"
        )
        self.epoch = epoch
        self.index = index


def _round_up(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


class _Layout:
    """Where things lie in a mapped ring.

    The arrays hold the mapping; it goes when the last of them does (closing it under an array that a
    traceback still holds would be an error).
    """

    def __init__(
        self, memory: mmap.mmap, slots: int, shape: tuple[int, int], dtype: np.dtype[np.generic]
    ) -> None:
        self.slots, self.shape, self.dtype = slots, shape, dtype
        self.first, self.stride = self.offsets(slots, shape, dtype)
        self.heads: npt.NDArray[np.uint64] = np.frombuffer(
            memory, np.uint64, slots * _SLOT_WORDS, offset=_PAGE
        ).reshape(slots, _SLOT_WORDS)
        self.frames: list[npt.NDArray[np.generic]] = [
            np.frombuffer(memory, dtype, shape[0] * shape[1], offset=self.first + i * self.stride).reshape(
                shape
            )
            for i in range(slots)
        ]

    @staticmethod
    def offsets(slots: int, shape: tuple[int, int], dtype: np.dtype[np.generic]) -> tuple[int, int]:
        """Return the offset of frame 0 and the distance of frames, in bytes."""
        first = _PAGE + _round_up(slots * _SLOT_WORDS * 8)
        return first, _round_up(shape[0] * shape[1] * dtype.itemsize)


class FrameRing:
    """The camera's side of a ring: one writer, one thread.

    Use `create`; `put` copies a frame in; `close` unmaps and `unlink` removes the file.
    """

    def __init__(self, path: Path, layout: _Layout) -> None:
        self.path = path
        self._layout: _Layout | None = layout

    @classmethod
    def create(
        cls,
        path: str | Path,
        slots: int,
        frame_shape: tuple[int, int],
        dtype: npt.DTypeLike = np.uint16,
    ) -> FrameRing:
        """Make a ring at ``path``, taking the place of one that is there.

        Readers of the old one see the change at their next `FrameRingReader.get`.

        Parameters
        ----------
        path
            The file; on a memory file system (``/dev/shm``) where there is one.
        slots
            How many frames it holds, at least 2.
        frame_shape
            ``(height, width)`` of a frame in pixels.
        dtype
            Type of a pixel.

        Raises
        ------
        ConfigurationError
            Fewer than 2 slots or an empty frame.
        InstrumentFault
            No memory for it.
        """
        path, pixel = Path(path), np.dtype(dtype)
        if slots < 2 or min(frame_shape) < 1:
            raise ConfigurationError(
                f"ring_slots = {slots} with frames of {frame_shape} px: a ring needs at least 2 slots and "
                f"frames of at least 1 x 1 px; change ring_slots of the camera in montango.yaml"
            )
        first, stride = _Layout.offsets(slots, frame_shape, pixel)
        size = first + slots * stride
        fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            memory = _allocate(fresh, size)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            if error.errno not in (errno.ENOSPC, errno.ENOMEM):
                raise
            raise InstrumentFault(
                f"no memory for a ring of {slots} frames ({size / 1e6:.0f} MB) at {path}: {error.strerror}; "
                f"lower ring_slots of the camera in montango.yaml, or free memory there"
            ) from error
        memory[_HEADER.size : size] = bytes(size - _HEADER.size)  # touches every page
        dtype_text = pixel.str.encode().ljust(8, b"\0")
        _HEADER.pack_into(memory, 0, _MAGIC, _VERSION, slots, *frame_shape, dtype_text, first, stride)
        fresh.rename(path)
        return cls(path, _Layout(memory, slots, frame_shape, pixel))

    @property
    def slots(self) -> int:
        """How many frames the ring holds."""
        return self._open().slots

    def put(self, data: npt.NDArray[np.generic], epoch: int, index: int) -> None:
        """Copy one frame into its slot.

        Raises
        ------
        InstrumentFault
            The frame has not the shape and type of the ring.
        """
        layout = self._open()
        if data.shape != layout.shape or data.dtype != layout.dtype:
            raise InstrumentFault(
                f"frame {index} is {data.shape} {data.dtype}, the ring {self.path} holds {layout.shape} "
                f"{layout.dtype}; arm the camera again after its region or binning changed"
            )
        slot = index % layout.slots
        head, target = layout.heads[slot], layout.frames[slot]
        sequence = int(head[_SEQUENCE])
        sequence += 1 - sequence % 2
        head[_SEQUENCE] = sequence
        head[_EPOCH], head[_INDEX] = epoch, index
        np.copyto(target, data)
        head[_CRC] = zlib.crc32(target)  # type: ignore[arg-type]  # an array is a buffer
        head[_SEQUENCE] = sequence + 1

    def close(self) -> None:
        """Let go of the ring; readers keep what they have mapped. Closing twice is harmless."""
        self._layout = None

    def unlink(self) -> None:
        """Close the ring and remove its file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _open(self) -> _Layout:
        if self._layout is None:
            raise InstrumentFault(f"the ring {self.path} is closed; arm the camera again")
        return self._layout


def _touched(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> npt.NDArray[np.generic]:
    """Return memory for a frame that is there, and not only promised."""
    memory = np.empty(shape, dtype)
    memory.fill(0)
    return memory


class FrameRingReader:
    """A reader of a ring, in another process or thread. One thread at a time.

    The file is opened at the first `get`, and again whenever another ring has taken its place (the camera
    server restarted, or armed with another frame size). Fresh memory costs ten times the copying: frames that
    nobody refers to any more lend theirs to the next, and where all are kept the next is made ahead.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._layout: _Layout | None = None
        self._inode: tuple[int, int] | None = None
        self._given: list[npt.NDArray[np.generic]] = []
        self._maker: ThreadPoolExecutor | None = None
        self._ahead: Future[npt.NDArray[np.generic]] | None = None

    def get(self, epoch: int, index: int, verify: bool = True) -> npt.NDArray[np.generic]:
        """Return a copy of one frame, ``(y, x)`` in counts.

        Parameters
        ----------
        epoch, index
            Which frame: the camera's count of files, and its index in that file.
        verify
            Check the frame's crc32 (1 ms a megapixel or so).

        Raises
        ------
        FrameMissed
            It was overwritten, is not there yet, is damaged, or there is no ring.
        ConfigurationError
            The file is not a ring of this version.
        """
        layout = self._attach(epoch, index)
        slot = index % layout.slots
        head = layout.heads[slot]
        sequence = int(head[_SEQUENCE])
        held_epoch, held_index, crc = int(head[_EPOCH]), int(head[_INDEX]), int(head[_CRC])
        if sequence == 0:
            raise FrameMissed(epoch, index, "it is not there yet")
        if (held_epoch, held_index) != (epoch, index):
            late = (held_epoch, held_index) > (epoch, index)
            what = "overwritten by" if late else "not there yet, its slot holds"
            raise FrameMissed(epoch, index, f"{what} frame {held_index} of epoch {held_epoch}")
        if sequence % 2:
            raise FrameMissed(epoch, index, "it is being written")
        frame = self._memory(layout.frames[slot])
        np.copyto(frame, layout.frames[slot])
        if int(head[_SEQUENCE]) != sequence:
            raise FrameMissed(epoch, index, "overwritten while it was read")
        if verify and zlib.crc32(frame) != crc:  # type: ignore[arg-type]  # an array is a buffer
            raise FrameMissed(epoch, index, "its checksum is wrong")
        return frame

    def close(self) -> None:
        """Let go of the ring; the next `get` opens it again."""
        self._layout = self._inode = self._ahead = None
        self._given.clear()
        if self._maker is not None:
            self._maker.shutdown()
            self._maker = None

    def _memory(self, frame: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Return memory for a copy of a frame: that of one that was given and that nobody refers to."""
        found = None
        for k in reversed(range(len(self._given))):
            if sys.getrefcount(self._given[k]) <= _UNUSED:
                # one that fits is enough: others are given back
                one = self._given.pop(k)
                fits = (one.shape, one.dtype) == (frame.shape, frame.dtype)
                found = one if found is None and fits else found
        if found is None:
            ahead = None if self._ahead is None else self._ahead.result()
            fits = ahead is not None and (ahead.shape, ahead.dtype) == (frame.shape, frame.dtype)
            found = ahead if ahead is not None and fits else np.empty_like(frame)
            self._maker = self._maker or ThreadPoolExecutor(1, "frame-memory")
            self._ahead = self._maker.submit(_touched, frame.shape, frame.dtype)
        self._given.append(found)
        return found

    def _attach(self, epoch: int, index: int) -> _Layout:
        """Return the ring that is at the path now."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            if self._layout is not None:
                return self._layout  # removed by a camera that ended in order: its frames stay mapped
            raise FrameMissed(epoch, index, f"there is no ring at {self.path}") from None
        if self._layout is None or (stat.st_dev, stat.st_ino) != self._inode:
            self._layout = _map_ring(self.path)
            self._inode = (stat.st_dev, stat.st_ino)
        return self._layout


def _allocate(path: Path, size: int) -> mmap.mmap:
    """Map a new file whose pages are reserved, so that writing can never fail later."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


def _map_ring(path: Path) -> _Layout:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < _PAGE:
            raise ConfigurationError(
                f"{path} is too short for a ring of frames; give the path that the camera names"
            )
        memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    magic, version, slots, height, width, dtype, _, _ = _HEADER.unpack_from(memory)
    if magic != _MAGIC or version != _VERSION:
        raise ConfigurationError(
            f"{path} is not a ring of version {_VERSION} (it begins with {magic!r}, version {version}); "
            f"camera server and reader must be of one Montango version"
        )
    return _Layout(memory, slots, (height, width), np.dtype(dtype.rstrip(b"\0").decode()))
