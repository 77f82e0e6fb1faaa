"""The world file of a simulated laboratory, and the folder of its frame rings."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from devices.errors import ConfigurationError
from montango.config import MontangoConfig
from montango.lab.errors import LabError
from montango.lab.state import StateDirectory

SHARED_MEMORY = Path("/dev/shm")
RING_MARGIN = 1.2


def ensure_world(config: MontangoConfig, state: StateDirectory) -> str | None:
    """Make the world that the configuration describes, unless the one there is already that.

    Returns a sentence when a world was made. No driver may have the file open.
    """
    if config.simulation is None:
        return None
    from sim.world import World

    reason = "created"
    if state.world.exists():
        try:
            with World.open(state.world) as world:
                same = world.config == config.simulation
        except ConfigurationError:
            same = False
        if same:
            return None
        reason = "created anew: it was another than the configuration describes"
    try:
        World.create(state.world, config.simulation).close()
    except OSError as error:
        raise LabError(
            f"the virtual microscope's file {state.world} cannot be written ({error.strerror})"
        ) from None
    return f"world {state.world} {reason}"


def ring_size_bytes(config: MontangoConfig) -> int:
    """Return the size of the camera's ring with the largest frames; 0 where only the hardware knows."""
    if config.simulation is None:
        return 0
    camera = config.simulation.camera
    return int(RING_MARGIN * camera.width_px * camera.height_px * 2 * config.instruments.camera.ring_slots)


def ring_folder(config: MontangoConfig, state: StateDirectory) -> Path:
    """Return the folder for this laboratory's frame rings: in shared memory where that is large enough."""
    if config.paths.ring_dir is not None:
        return config.paths.ring_dir / f"montango-{state.digest}"
    if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > ring_size_bytes(config):
        return SHARED_MEMORY / f"montango-{os.getuid()}-{state.digest}"
    return state.root / "ring"


def make_ring_folder(folder: Path) -> None:
    """Make the folder of the rings, empty.

    Raises
    ------
    LabError
        It cannot be made, or is another user's.
    """
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise LabError(
            f"folder {folder} for the frame rings cannot be made ({error.strerror or error})"
        ) from None
