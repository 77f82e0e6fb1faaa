from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from devices.errors import ConfigurationError
from montango.config import MontangoConfig, config_schema, dump_config, load_config

SITE_TEMPLATE = Path(str(resources.files("profiles.site_template") / "montango.yaml"))
Section = dict[str, Any]


def write(folder: Path, data: Section) -> Path:
    path = folder / "montango.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def line_of(path: Path, text: str) -> int:
    lines = path.read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


@pytest.fixture
def data() -> Section:
    content: Section = yaml.safe_load(dump_config(load_config()))
    return content


def test_default_is_the_simulated_lab() -> None:
    config = load_config()
    assert config.lab.name == "simulated"
    assert config.instruments.stage.driver == "sim.stage:SimulatedStage"
    assert config.instruments.stage.limits.x_um == (-990, 990)
    assert config.simulation is not None
    assert config.source is not None
    assert config.source.name == "montango.yaml"


def test_site_template_is_valid_but_for_its_drivers() -> None:
    config = load_config(SITE_TEMPLATE)
    assert config.simulation is None
    assert config.paths.python_path == (SITE_TEMPLATE.parent / "drivers",)


def test_round_trip(tmp_path: Path, data: Section) -> None:
    data["simulation"]["faults"] = [{"name": "focus_jump", "at_exposure": 3}]
    config = load_config(write(tmp_path, data))
    again = tmp_path / "again.yaml"
    again.write_text(dump_config(config))
    assert load_config(again) == config
    assert load_config() != config


def test_relative_paths_are_taken_from_the_file(tmp_path: Path, data: Section) -> None:
    data["paths"]["data_dir"] = "frames"
    data["simulation"]["specimen"] = {"kind": "image", "file": "tissue.png"}
    config = load_config(write(tmp_path, data))
    assert config.paths.data_dir == tmp_path / "frames"
    assert config.simulation is not None
    assert config.simulation.specimen.file == tmp_path / "tissue.png"


def test_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config().lab.name = "other"


def rename(*path: str, to: str) -> Callable[[Section], None]:
    def change(data: Section) -> None:
        for key in path[:-1]:
            data = data[key]
        data[to] = data.pop(path[-1])

    return change


def put(*path: str, value: object) -> Callable[[Section], None]:
    def change(data: Section) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "line", "parts"),
    [
        pytest.param(
            rename("instruments", "stage", "limits", "x_um", to="x_mu"),
            "x_mu",
            ["instruments.stage.limits.x_mu is not a key", "nearest is 'x_um'", "alpha_deg"],
            id="typo in a key",
        ),
        pytest.param(
            rename("instruments", to="instrument"),
            "instrument:",
            ["instrument is not a key", "nearest is 'instruments'", "1 more mistake"],
            id="typo in a section",
        ),
        pytest.param(
            rename("simulation", "camera", "width_px", to="width"),
            "width:",
            ["simulation.camera.width is not a key", "nearest is 'width_px'"],
            id="typo in the simulation",
        ),
        pytest.param(
            put("simulation", "timing", value="fsat"),
            "timing:",
            ["simulation.timing = 'fsat'", "nearest is 'fast'", "allowed: real, fast"],
            id="typo in a choice",
        ),
        pytest.param(
            put("paths", "minimum_free_gb", value=-1),
            "minimum_free_gb",
            ["paths.minimum_free_gb = -1 is out of range", "a number from 0 to 1000000"],
            id="below the range",
        ),
        pytest.param(
            put("services", "tango", "port", value=80),
            "port: 80",
            ["services.tango.port = 80 is out of range", "from 1024 to 65535"],
            id="privileged port",
        ),
        pytest.param(
            put("instruments", "camera", "ring_slots", value="many"),
            "ring_slots",
            ["instruments.camera.ring_slots = 'many'", "a whole number from 2 to 1024"],
            id="wrong type",
        ),
        pytest.param(
            put("instruments", "stage", "limits", "x_um", value=[10, -10]),
            "x_um",
            ["limits.x_um = [10, -10]", "lower limit comes first"],
            id="limits the wrong way round",
        ),
        pytest.param(
            put("instruments", "stage", "limits", "x_um", value=[10]),
            "x_um",
            ["limits.x_um has too few values", "a list of 2"],
            id="one limit",
        ),
        pytest.param(
            put("instruments", "column", "driver", value="sim.column"),
            "driver: sim.column",
            ["instruments.column.driver = 'sim.column'", "for example sim.stage:SimulatedStage"],
            id="driver without class",
        ),
        pytest.param(
            put("instruments", "column", "device", value="column"),
            "device: column",
            ["instruments.column.device = 'column'", "for example em/stage/1"],
            id="device name with one part",
        ),
        pytest.param(
            put("lab", value=None),
            "lab:",
            ["lab = None is not allowed here", "a section of keys"],
            id="empty section",
        ),
        pytest.param(
            put("simulation", "specimen", value={"kind": "image"}),
            "specimen:",
            ["simulation.specimen: ", "needs file"],
            id="specimen without a file",
        ),
        pytest.param(
            put("simulation", "faults", value=[{"name": "focus_jmup", "at_exposure": 1}]),
            "focus_jmup",
            ["simulation.faults.0.name = 'focus_jmup'", "nearest is 'focus_jump'"],
            id="typo in a list",
        ),
        pytest.param(
            put("qc", value={"min_textur": 5}),
            "min_textur",
            ["qc.min_textur is not a key", "nearest is 'min_texture'"],
            id="typo in a threshold",
        ),
        pytest.param(
            put("qc", value={"max_dark_fraction": 2}),
            "max_dark_fraction",
            ["qc.max_dark_fraction = 2 is out of range", "at most 1"],
            id="threshold out of range",
        ),
        pytest.param(
            put("montage", value={"settle_s": -1}),
            "settle_s: -1",
            ["montage.settle_s = -1 is out of range", "a number from 0 to 60"],
            id="montage default out of range",
        ),
        pytest.param(
            put("suspenders", value=[{"signal": "facility.water_flw_l_min", "low": 3}]),
            "suspenders",
            ["suspenders", "facility.water_flw_l_min", "nearest is 'facility.water_flow_l_min'"],
            id="signal of a suspender that does not exist",
        ),
        pytest.param(
            put("suspenders", value=[{"signal": "column.beam_current_na"}]),
            "column.beam_current_na",
            ["suspenders.0", "neither low nor high"],
            id="suspender without a limit",
        ),
        pytest.param(
            put("suspenders", value=[{"signal": "column.beam_current_na", "lo": 1}]),
            "lo: 1",
            ["suspenders.0.lo is not a key", "nearest is 'low'"],
            id="typo in a suspender",
        ),
        pytest.param(
            put("montage", value={"rows": 3}),
            "rows",
            ["montage.rows is not a key", "settle_s"],
            id="size of a montage as a default",
        ),
    ],
)
def test_mistake_gives_one_line(
    tmp_path: Path, data: Section, change: Callable[[Section], None], line: str, parts: list[str]
) -> None:
    change(data)
    path = write(tmp_path, data)
    with pytest.raises(ConfigurationError) as caught:
        load_config(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line_of(path, line)}: ")
    for part in parts:
        assert part in message
    assert "\n" not in message
    assert "pydantic" not in message


def test_missing_key_says_what_belongs_there(tmp_path: Path, data: Section) -> None:
    del data["instruments"]["stage"]["driver"]
    with pytest.raises(ConfigurationError, match=r"stage\.driver is missing .*; for example sim\.stage"):
        load_config(write(tmp_path, data))


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("", 1, "this file has none"),
        ("- 1", 1, "this file has none"),
        ("lab:\n  name: [", 2, "not YAML"),
        ("lab:\n\tname: a", 2, "not YAML"),
        ("lab:\n  name: a\nlab:\n  name: b", 3, "lab is given twice, first in line 1"),
    ],
)
def test_not_a_configuration(tmp_path: Path, text: str, line: int, part: str) -> None:
    path = tmp_path / "montango.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert part in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.yaml: cannot be read \(No such file.*--config"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_config(tmp_path)


def test_schema_describes_every_key() -> None:
    schema = config_schema()
    assert set(schema["properties"]) == set(MontangoConfig.model_fields)
    assert schema["$defs"]["PathsSection"]["properties"]["minimum_free_gb"]["minimum"] == 0
