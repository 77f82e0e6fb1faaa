"""Which dark and bright reference a run used: from its start document and the folder of the calibrations."""

from __future__ import annotations

import functools
import glob
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from devices.errors import ConfigurationError

if TYPE_CHECKING:
    from processing.kernels.reference import Reference

NEEDED: Final[tuple[Literal["dark"], Literal["bright"]]] = ("dark", "bright")


def read_reference(start: Mapping[str, Any], folder: Path | str | None) -> Reference | None:
    """Return the reference that a run's frames are corrected with, or None where it names none.

    A run is corrected where the ``calibration_uids`` of its start document name both a dark and a bright
    reference. Frames in files are always as the camera made them.

    Parameters
    ----------
    start
        Start document of a run.
    folder
        The calibrations of the instrument (`plans.calibrations.CalibrationStore.folder`); None: there are
        none.

    Raises
    ------
    ConfigurationError
        A reference that the run names has damaged or missing arrays, or they do not fit together.
    """
    files = reference_files(start, folder)
    return None if files is None else load_reference(*files)


def reference_files(start: Mapping[str, Any], folder: Path | str | None) -> tuple[Path, Path] | None:
    """Return the files of the dark and the bright reference that a run names, or None where it names none.

    Raises
    ------
    ConfigurationError
        A calibration that the run names cannot be read.
    """
    if folder is None:
        return None
    uids = start.get("calibration_uids") or ()
    named = uids.values() if isinstance(uids, Mapping) else uids
    paths: dict[str, Path] = {}
    for uid in named:
        for kind in NEEDED:
            # a file's name is kind, time and uid: of some hundreds only those few are opened
            for path in Path(folder).glob(f"{kind}-*-{glob.escape(str(uid))}.json"):
                paths[kind] = _arrays(path)
    if len(paths) < len(NEEDED):
        return None
    return paths["dark"], paths["bright"]


@functools.lru_cache(maxsize=2)
def load_reference(dark: Path, bright: Path) -> Reference:
    """Return the reference that two files of arrays hold; the newest two are kept in memory.

    Parameters
    ----------
    dark, bright
        The ``.npz`` of the calibrations ``dark`` and ``bright``, which never change.

    Raises
    ------
    ConfigurationError
        A file is missing or damaged, or they do not fit together.
    """
    from processing.kernels.reference import Reference  # compiled code takes most of a second to import

    try:
        return Reference.of(_array(dark, "dark"), _array(bright, "bright"))
    except ValueError as error:
        raise ConfigurationError(f"{dark.name} and {bright.name}: {error}") from error


def _arrays(path: Path) -> Path:
    try:
        return path.with_name(Path(json.loads(path.read_bytes())["arrays"]).name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} is no calibration with arrays: {error!r}") from error


def _array(path: Path, name: str) -> npt.NDArray[np.float32]:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return np.asarray(file[name], np.float32)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigurationError(
            f"the {name} reference {path} cannot be read ({error}); run calibrate_{name} again"
        ) from error
