"""`montango preview`, on the configuration; with a laboratory: tests/system."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from devices.errors import ConfigurationError, LimitError
from montango.circumstances import configured, with_frame
from montango.cli.app import app
from montango.config import load_config
from montango.lab.state import STATE_VARIABLE
from montango.spec_file import read_spec
from plans.specs.montage import MontageSpec
from plans.specs.view import View

SITE = """AdocVersion = 2.00
[Item = s1]
StageXYZ = 5 5 0
NumPts = 4
Regis = 1
Type = 1
Color = 0
PtsX = 0 30 30 0
PtsY = 0 0 20 20
"""


@pytest.fixture(autouse=True)
def _no_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "no-lab"))


def run(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["preview", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def write(path: Path, **fields: Any) -> Path:
    path.write_text(yaml.safe_dump(fields))
    return path


def test_figures_and_picture(tmp_path: Path) -> None:
    spec = write(tmp_path / "spec.yaml", rows=3, columns=4, centre_um=[0, 0])
    status, text = run(spec, "--png", tmp_path / "out.png")
    assert status == 0
    assert "12 (3 rows x 4 columns)" in text
    assert "pixel 4 nm, turned by 1.5 deg" in text
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_json_with_another_frame(tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"width_um": 100, "height_um": 50, "overlap": 0.2}))
    frame = ("--width-px", "1000", "--height-px", "500", "--pixel-size-nm", "10", "--rotation-deg", "-20")
    status, text = run(spec, "--json", *frame)
    found = json.loads(text)
    assert status == 0
    assert found["tile_um"] == pytest.approx([10.0, 5.0])
    assert found["rotation_deg"] == pytest.approx(-20)
    assert (found["columns"], found["rows"]) == (13, 13)
    assert found["refusals"] == []


def test_place_from_a_navigator_and_from_a_list(tmp_path: Path) -> None:
    spec = write(tmp_path / "spec.yaml", rows=3, columns=4, centre_um=[0, 0], supertile=[2, 1])
    (tmp_path / "grid.nav").write_text(SITE)
    status, text = run(spec, "--nav", tmp_path / "grid.nav", "--item", "s1", "--json")
    assert (status, json.loads(text)["rois"].keys()) == (0, {"s1"})
    (tmp_path / "places.csv").write_text("x_um,y_um\n0,0\n50,50\n")
    found = json.loads(run(spec, "--rois", tmp_path / "places.csv", "--json")[1])
    assert found["tiles"] == 24  # 3 rows x 4 columns at each


def test_what_would_be_refused_ends_with_status_1(tmp_path: Path) -> None:
    spec = write(tmp_path / "spec.yaml", rows=3, columns=4, centre_um=[989, 0])
    status, text = run(spec, "--json")
    assert status == 1
    assert "-990 to 990 um" in json.loads(text)["refusals"][0]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--item", "s1"), "give the file with --nav"),
        (("--nav", "grid.nav", "--rois", "r.csv"), "give one of them"),
        (("--nav", "grid.nav", "--item", "s2"), "no item 's2'; the nearest is 's1'"),
    ],
)
def test_contradicting_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], match: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("grid.nav").write_text(SITE)
    write(Path("spec.yaml"), rows=3, columns=4)
    with pytest.raises(ConfigurationError, match=match):
        run("spec.yaml", *words)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("rows: 3\ncolums: 4\n", r"spec.yaml, line 2: colums is not a key.*nearest is 'columns'"),
        ("rows: 3\ncolumns: 4\noverlap: 1\n", r"spec.yaml, line 3: overlap = 1: overlap is a fraction"),
        ("rows: 3\ncolumns: 4\noverlap: 0\n", r"spec.yaml: overlap = 0 along camera x"),
        ("rows: 3\n", r"spec.yaml: the size of the montage is given by rows; give"),
        ("", r"spec.yaml: the size of the montage is given by nothing"),
        ("3\n", r"spec.yaml: a specification holds keys"),
        ("rows: [\n", r"spec.yaml, line 2: this is not YAML"),
        (
            "rois:\n- name: a\n  polygon_um: [[0, 0], [9, 9], [9, 0], [0, 9]]\n",
            r"spec.yaml, line 2: rois.0: the outline of ROI 'a' crosses .*\(4.5, 4.5\)",
        ),
    ],
)
def test_a_wrong_specification_is_refused_in_one_line(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "spec.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=match) as caught:
        read_spec(tmp_path / "spec.yaml")
    assert "\n" not in str(caught.value)


def test_a_specification_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_spec(tmp_path / "none.yaml")


def test_supertile_out_of_reach(tmp_path: Path) -> None:
    with pytest.raises(LimitError, match="largest that fits is"):
        run(write(tmp_path / "spec.yaml", rows=9, columns=9, supertile=[9, 9]))


def test_the_magnification_of_the_specification_counts() -> None:
    config = load_config()
    found = configured(config, MontageSpec(rows=1, columns=1, magnification=2500, binning=2))
    assert found.view is not None
    assert (found.view.pixel_size_nm, found.view.width_px) == pytest.approx((16.0, 1024))
    assert found.limits.x_um == (-990, 990)
    with pytest.raises(ConfigurationError, match="80000 has no calibrated pixel size"):
        configured(config, MontageSpec(rows=1, columns=1, magnification=80_000))


def test_a_frame_must_be_known() -> None:
    config = load_config().model_copy(update={"simulation": None})
    found = configured(config, MontageSpec(rows=1, columns=1))
    with pytest.raises(ConfigurationError, match="give --height-px, --rotation-deg"):
        with_frame(found, pixel_size_nm=4.0, width_px=1000)
    whole = with_frame(found, pixel_size_nm=4.0, width_px=1000, height_px=500, rotation_deg=0.0)
    assert whole.view == View.from_nominal(1000, 500, 4.0, 0.0)


def test_the_command_is_there() -> None:
    assert "preview" in typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group
