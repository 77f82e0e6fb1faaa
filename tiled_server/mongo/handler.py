"""How databroker reads the frames of runs in MongoDB."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from devices.errors import ConfigurationError
from processing.frame_list import MIMETYPE as FRAME_LIST
from processing.frame_list import unlisted
from tiled_server.mongo.files import read_rows
from tiled_server.mongo.translation import SPEC


class FrameHandler:
    """Reads the frames of one resource; its file is open only while one is read.

    Parameters
    ----------
    path
        The file, or the folder of a Zarr array.
    readable
        Folders whose files may be read; None for any.
    mimetype, parameters, shape
        What the file is, where the data lie in it, the shape of a frame.
    others
        What else a stream resource says; not needed here.

    Raises
    ------
    ConfigurationError
        The file lies in none of the folders.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        mimetype: str,
        shape: Iterable[int],
        parameters: Mapping[str, Any] | None = None,
        readable: Sequence[Path] | None = None,
        **others: object,
    ) -> None:
        self._path = Path(path).resolve()
        if readable is not None and not any(self._path.is_relative_to(one.resolve()) for one in readable):
            raise ConfigurationError(
                f"{self._path} lies in no folder that the catalog may read; name its folder with --readable"
            )
        if mimetype == FRAME_LIST and readable is not None and (others_of := unlisted(self._path, readable)):
            raise ConfigurationError(
                f"{others_of[0]}, that {self._path} lists, lies in no folder that the catalog may read"
            )
        self._about = {"mimetype": mimetype, "shape": tuple(shape), "parameters": dict(parameters or {})}

    def __call__(self, *, index: int) -> npt.NDArray[np.generic]:
        """Return a frame, of the shape that its data key has.

        Raises
        ------
        OSError
            The file is not there.
        ValueError
            It has no such frame.
        """
        frame: npt.NDArray[np.generic] = read_rows(self._about, self._path, index, index + 1)[0]
        return frame


def handlers(readable: Iterable[Path] | None = None) -> dict[str, Callable[..., FrameHandler]]:
    """Return what databroker reads Montango's runs with.

    Parameters
    ----------
    readable
        Folders whose files may be read; None for any, in a program of one's own.
    """
    folders = None if readable is None else tuple(readable)
    return {SPEC: partial(FrameHandler, readable=folders)}
