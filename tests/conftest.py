"""Fixtures that many tests share: laboratories, their configuration, the test data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import yaml

from montango.config import MontangoConfig, dump_config, load_config
from montango.lab import Lab, running_lab

if TYPE_CHECKING:
    from bluesky.run_engine import RunEngine

    from profiles.simulated.devices import Devices

# how long an example takes says nothing on a machine that runs laboratories beside it; the same examples
# each time, so that a change alone decides whether it passes
hypothesis.settings.register_profile("montango", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("montango")

DATA_VARIABLE = "MONTANGO_TEST_DATA"
NO_CATALOG = "http://127.0.0.1:9"
"""The address of a catalog that a laboratory does not start: for tests that need none."""

ConfigFactory = Callable[..., MontangoConfig]
LabFactory = Callable[..., Lab]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the long modules where several workers share the tests: so they end together."""
    if not hasattr(config, "workerinput"):
        return
    weight: dict[Path, int] = {}
    for item in items:
        markers = {marker.name for marker in item.iter_markers()}
        here = 2 * ("system" in markers) + ("slow" in markers)
        weight[item.path] = max(here, weight.get(item.path, 0))
    items.sort(key=lambda item: -weight[item.path])


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = (
            _merge(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
        )
    return merged


@pytest.fixture(scope="session")
def make_config(tmp_path_factory: pytest.TempPathFactory) -> ConfigFactory:
    """Return a function that makes the simulated lab's configuration: fast, a small camera, and changes."""

    def make(frame_px: int = 64, catalog: bool = True, **changes: Any) -> MontangoConfig:
        camera = {"width_px": frame_px, "height_px": frame_px}
        fast: dict[str, Any] = {
            "simulation": {"timing": "fast", "camera": camera},
            "paths": {"minimum_free_gb": 0.2},
        }
        if not catalog:
            fast["services"] = {"tiled": {"uri": NO_CATALOG}}
        data = _merge(_merge(yaml.safe_load(dump_config(load_config())), fast), changes)
        path = tmp_path_factory.mktemp("config") / "montango.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        return load_config(path)

    return make


@pytest.fixture(scope="session")
def lab(shared_lab: Lab) -> Lab:
    """Return a laboratory that is up, with its catalog; this process is connected to it.

    It is shared: a test that kills or stops something makes its own with `make_lab`.
    """
    return shared_lab


@pytest.fixture(scope="session")
def shared_lab(make_config: ConfigFactory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Start the laboratory that is `lab` where a module has none of its own."""
    with running_lab(make_config(frame_px=256), tmp_path_factory.mktemp("lab"), wait=True) as running:
        yield running


@pytest.fixture
def make_lab(make_config: ConfigFactory, tmp_path: Path) -> Iterator[LabFactory]:
    """Return a function that makes a laboratory of the test's own, stopped at the end."""
    made: list[Lab] = []

    def make(name: str = "a", *, frame_px: int = 64, catalog: bool = False, **changes: Any) -> Lab:
        made.append(Lab(make_config(frame_px, catalog, **changes), tmp_path / name))
        return made[-1]

    yield make
    for one in made:
        one.down()


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Return the folder of recorded data, or skip the test."""
    folder = _data_folder()
    if not folder.is_dir():
        pytest.skip(f"there is no test data at {folder}; set {DATA_VARIABLE} to its folder")
    return folder


@pytest.fixture(scope="session")
def micrograph() -> Path | None:
    """Return a recorded micrograph, or None where there is no recorded data: for tests that need none."""
    folder = _data_folder()
    return folder / "specimen" / "mussel2_mosaic_u8.jpg" if folder.is_dir() else None


def _data_folder() -> Path:
    default = Path(__file__).parents[2] / "shared" / "data"
    return Path(os.environ.get(DATA_VARIABLE) or default)


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> RunEngine:
    """Return the one RunEngine of the test session: Tango's asyncio client knows one event loop a process.

    Where a test asks for the shared laboratory it is up before: a RunEngine imports ophyd, and Channel Access
    reads its environment then.
    """
    functions = [item for item in request.session.items if isinstance(item, pytest.Function)]
    if any("shared_lab" in function.fixturenames for function in functions):
        request.getfixturevalue("shared_lab")
    from bluesky.run_engine import RunEngine

    return RunEngine({})


@pytest.fixture(scope="session")
def devices(lab: Lab, engine: RunEngine) -> Devices:
    """Return the devices of the shared laboratory, connected."""
    from profiles.simulated.devices import make_devices  # Channel Access reads its environment when imported

    return make_devices(lab.info())
