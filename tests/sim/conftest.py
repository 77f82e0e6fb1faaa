"""Fixtures of the simulation's tests: small worlds, drawn in no time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sim.config import SimulationConfig
from sim.world import World

WorldFactory = Callable[..., World]


@pytest.fixture(scope="session", autouse=True)
def texture_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the textures of the tests out of the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[WorldFactory]:
    """Return a function that makes a world: fast, a 64-pixel camera, a small texture, and changes."""
    made: list[World] = []

    def make(name: str = "world", **changes: Any) -> World:
        settings: dict[str, Any] = {"timing": "fast", **changes}
        settings["camera"] = {"width_px": 64, "height_px": 64, **settings.get("camera", {})}
        settings["specimen"] = {"texture_px": 512, **settings.get("specimen", {})}
        world = World.create(tmp_path / name, SimulationConfig.model_validate(settings))
        made.append(world)
        return world

    yield make
    for world in made:
        world.close()
