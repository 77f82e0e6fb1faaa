"""The world file of a simulated laboratory."""

from __future__ import annotations

from devices.errors import ConfigurationError
from montango.config import MontangoConfig
from montango.lab.errors import LabError
from montango.lab.state import StateDirectory


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
