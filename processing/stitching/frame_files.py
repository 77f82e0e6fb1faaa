"""Frames in files of any common kind, read when they are needed and named by where they are."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from devices.errors import MontangoError

Image = npt.NDArray[np.number[Any]]
PICTURES: Final = (".png", ".jpg", ".jpeg", ".bmp")
TIFFS: Final = (".tif", ".tiff")
STACKS: Final = (".mrc", ".st", ".map")
HDF5: Final = (".h5", ".hdf5", ".nxs")
SUFFIXES: Final = (*PICTURES, *TIFFS, *STACKS, *HDF5)


class FrameError(MontangoError):
    """A frame cannot be read; the message names file and reason."""


class Frame(Protocol):
    """A frame that is read when it is needed; it can be sent to another process, and be read there."""

    def __hash__(self) -> int:
        """Return a hash: equal ones are the same frame."""
        ...

    @property
    def where(self) -> str:
        """Where it is, for messages and for readers of other files."""
        ...

    def size_px(self) -> tuple[int, int]:
        """Return width and height. Raises FrameError."""
        ...

    def read(self) -> Image:
        """Return the frame, (y, x) uint8, uint16 or float32, counts. Raises FrameError."""
        ...

    def absent(self) -> bool:
        """Return whether there is nothing at all where it should be."""
        ...

    def stamp(self) -> tuple[int, ...]:
        """Return numbers that change when the frame does."""
        ...

    def corrected(self, dark: Path, bright: Path) -> Frame:
        """Return it with a dark and a bright reference to be taken out."""
        ...


@dataclass(frozen=True, slots=True)
class FrameFile:
    """Where a frame is: it can be sent to another process, and be read there.

    Attributes
    ----------
    path
        The file.
    page
        Which image of a stack, or page of a TIFF.
    dataset
        Of an HDF5 file, (frame, y, x).
    dark, bright
        Files with the references to take out, of any of these kinds, or both the ``.npz`` of calibrations;
        None: none. Both or neither.
    """

    path: Path
    page: int = 0
    dataset: str = ""
    dark: Path | None = None
    bright: Path | None = None

    @property
    def where(self) -> str:
        """The file, from the root on."""
        return str(self.path.resolve())

    def absent(self) -> bool:
        """Return whether there is no such file."""
        return not self.path.exists()

    def stamp(self) -> tuple[int, ...]:
        """Return size and time of the last change of the file, 0 where there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return (0, 0)
        return found.st_size, found.st_mtime_ns

    def corrected(self, dark: Path, bright: Path) -> FrameFile:
        """Return it with a dark and a bright reference to be taken out."""
        return replace(self, dark=dark, bright=bright)

    def size_px(self) -> tuple[int, int]:
        """Return width and height without reading the pixels where the file allows that.

        Raises
        ------
        FrameError
            The file cannot be read.
        """
        with explained(self.path):
            if self.path.suffix.lower() in PICTURES:
                import PIL.Image

                with PIL.Image.open(self.path) as image:
                    return image.size
            height, width = _read(self, pixels=False).shape[:2]
            return width, height

    def read(self) -> Image:
        """Return the frame, (y, x) uint8, uint16 or float32, counts; row 0 is at the top.

        Colours become grey; other numbers than uint8 and uint16 become float32.

        Raises
        ------
        FrameError
            The file cannot be read, or is no image.
        """
        with explained(self.path):
            image = plain(_read(self, pixels=True))
            if self.dark is None or self.bright is None:
                return image
            return np.asarray(reference(self.dark, self.bright).apply(image))


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise whatever reading a file raises as a `FrameError` that names the file."""
    try:
        yield
    except FrameError:
        raise
    # readers of broken files raise anything
    except Exception as error:
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise FrameError(f"{path} cannot be read: {reason}") from error


def _read(frame: FrameFile, *, pixels: bool) -> npt.NDArray[Any]:
    """Return what the file has; without ``pixels`` only its shape and type matter."""
    path, suffix = frame.path, frame.path.suffix.lower()
    if suffix in PICTURES:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_GRAYSCALE) if len(data) else None
        if image is None:
            raise FrameError(f"{path} is no image, or damaged")
        return np.asarray(image)
    if suffix in TIFFS:
        import tifffile

        with tifffile.TiffFile(path) as file:
            page = file.pages[frame.page]
            return np.asarray(page.asarray()) if pixels else np.broadcast_to(page.dtype.type(0), page.shape)
    if suffix in STACKS:
        return _mrc(path, frame.page)
    if suffix in HDF5:
        from processing.callbacks._frame_file import read_parts

        return np.asarray(read_parts(path, [frame.dataset], frame.page)[0])
    raise FrameError(f"{path} is of no kind that is read: {', '.join(SUFFIXES)}")


def _mrc(path: Path, page: int) -> npt.NDArray[Any]:
    """Return an image of an MRC file, whose rows begin at the bottom."""
    import mrcfile

    with mrcfile.mmap(path, mode="r", permissive=True) as file:
        data = file.data
        if data is None:
            raise FrameError(f"{path} is no MRC file, or damaged")
        stack = data if data.ndim == 3 else data[None]
        if not 0 <= page < len(stack):
            raise FrameError(f"{path} has {len(stack)} images, and image {page} is asked for")
        return np.array(stack[page][::-1])


def plain(image: npt.NDArray[Any]) -> Image:
    """Return an image as (y, x) uint8, uint16 or float32; colours become grey.

    Raises
    ------
    FrameError
        It is no image.
    """
    if image.ndim == 3 and image.shape[-1] in (3, 4):
        image = cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_RGB2GRAY)
    if image.ndim != 2:
        raise FrameError(f"an array of shape {image.shape} is no image (y, x)")
    if image.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(image, image.dtype.newbyteorder("="))
    if image.dtype.kind not in "buif":
        raise FrameError(f"pixels of type {image.dtype} are no counts")
    return np.ascontiguousarray(image, np.float32)


@functools.lru_cache(maxsize=2)
def reference(dark: Path, bright: Path) -> Any:
    """Return the correction by a dark and a bright reference; see `FrameFile`."""
    if dark.suffix == ".npz":
        from processing.references import load_reference

        return load_reference(dark, bright)
    from processing.kernels.reference import Reference

    return Reference.of(*(FrameFile(path).read() for path in (dark, bright)))


class FrameCache:
    """Reads frames, and keeps the last ones up to a size, 10^6 bytes; several threads may use it."""

    def __init__(self, keep_mb: float = 512.0) -> None:
        self._most = keep_mb * 1e6
        self._frames: OrderedDict[tuple[Frame, tuple[int, ...]], Image] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, frame: Frame) -> Image:
        """Return a frame. Raises as `Frame.read` does."""
        key = frame, frame.stamp()
        with self._lock:
            image = self._frames.pop(key, None)
        if image is None:
            image = frame.read()
        with self._lock:
            self._frames[key] = image
            while len(self._frames) > 1 and sum(one.nbytes for one in self._frames.values()) > self._most:
                self._frames.popitem(last=False)
        return image

    def clear(self) -> None:
        """Let go of all frames."""
        with self._lock:
            self._frames.clear()
