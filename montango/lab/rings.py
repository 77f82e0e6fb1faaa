"""The folder of a laboratory's frame rings, in shared memory where that is large enough."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from montango.config import MontangoConfig
from montango.lab.errors import LabError
from montango.lab.processes import ProcessId
from montango.lab.state import StateDirectory, write_private

SHARED_MEMORY = Path("/dev/shm")
RING_MARGIN = 1.2
SNAP_FRAMES = 3
"""Frames of full size that the rings of snaps come to: two, and some of smaller shapes."""
OWNER_FILE = "owner"
"""Names, in a ring folder, the state directory of the laboratory that it belongs to."""

ABANDONED_AFTER_S = 600


def ring_size_bytes(config: MontangoConfig) -> int:
    """Return the size of the camera's ring with the largest frames; 0 where only the hardware knows."""
    if config.simulation is None:
        return 0
    camera = config.simulation.camera
    frames = config.instruments.camera.ring_slots + SNAP_FRAMES
    return int(RING_MARGIN * camera.width_px * camera.height_px * 2 * frames)


def make_ring_folder(config: MontangoConfig, state: StateDirectory) -> Path:
    """Make and return the folder of this laboratory's rings, empty; free what dead laboratories left.

    Raises
    ------
    LabError
        It cannot be made, or is another user's.
    """
    sweep(SHARED_MEMORY)
    folder = _choose(config, state)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise LabError(
            f"folder {folder} for the frame rings cannot be made ({error.strerror or error}); "
            f"set paths.ring_dir"
        ) from None
    write_private(folder / OWNER_FILE, str(state.root))
    write_private(_note(state), str(folder))
    return folder


def remove_ring_folder(state: StateDirectory) -> None:
    """Remove the folder that `make_ring_folder` made, if there is one."""
    note = _note(state)
    if note.exists():
        shutil.rmtree(note.read_text(), ignore_errors=True)
        note.unlink()


def sweep(folder: Path, abandoned_after_s: float = ABANDONED_AFTER_S) -> list[Path]:
    """Remove the ring folders of this user's laboratories that are dead, and return them.

    Shared memory outlives a kill -9. A young folder may be that of a laboratory that is just starting.
    """
    removed: list[Path] = []
    for candidate in folder.glob(f"montango-{os.getuid()}-*"):
        owner = candidate / OWNER_FILE
        try:
            state = StateDirectory(Path(owner.read_text()))
            age_s = time.time() - owner.stat().st_mtime
        except OSError:
            continue
        supervisor = ProcessId.read(state.supervisor_file)
        if age_s > abandoned_after_s and (supervisor is None or supervisor.process() is None):
            shutil.rmtree(candidate, ignore_errors=True)
            removed.append(candidate)
    return removed


def _choose(config: MontangoConfig, state: StateDirectory) -> Path:
    if config.paths.ring_dir is not None:
        return config.paths.ring_dir / f"montango-{os.getuid()}-{state.digest}"
    if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > ring_size_bytes(config):
        return SHARED_MEMORY / f"montango-{os.getuid()}-{state.digest}"
    return state.root / "ring"


def _note(state: StateDirectory) -> Path:
    return state.run / "ring_dir"
