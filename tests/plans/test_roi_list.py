from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from devices.errors import ConfigurationError
from plans.specs.importers.roi_list import read_roi_list
from plans.specs.montage import MontageSpec

CSV = """name, x_um, y_um, rotation_deg
a, 0, 0, 15
a, 10, 0,
a, 10, 10,
b, 50, 50,
b, 60, 50,
b, 60, 60,
"""


def read(folder: Path, name: str, text: str) -> dict[str, Any]:
    path = folder / name
    path.write_text(text)
    return read_roi_list(path)


def test_csv_of_corners(tmp_path: Path) -> None:
    spec = MontageSpec.model_validate(read(tmp_path, "r.csv", CSV))
    assert [(roi.name, roi.rotation_deg, len(roi.polygon_um)) for roi in spec.rois] == [
        ("a", 15.0, 3),
        ("b", 0.0, 3),
    ]


def test_csv_of_positions(tmp_path: Path) -> None:
    assert read(tmp_path, "p.csv", "y_um,x_um\n1,2\n3,4\n") == {"positions_um": [(2.0, 1.0), (4.0, 3.0)]}


@pytest.mark.parametrize("text", ["[{}]", '{{"rois": [{}]}}'])
def test_json(tmp_path: Path, text: str) -> None:
    roi = '{"name": "a", "polygon_um": [[0, 0], [10, 0], [10, 10]], "dilation_um": 2}'
    spec = MontageSpec.model_validate(read(tmp_path, "r.json", text.format(roi)))
    assert spec.rois[0].dilation_um == 2


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("r.csv", CSV.replace("60, 50", "sixty, 50"), r"line 6: x_um = 'sixty' is not a number"),
        ("r.csv", CSV.replace("b, 60, 50,", "b, 60"), r"line 6: has not 4 values"),
        ("r.csv", CSV + "a, 1, 1,\n", r"line 8: region 'a' was listed before"),
        ("r.csv", CSV.replace("rotation_deg", "rotation"), r"line 1: columns name, x_um, y_um, rotation;"),
        ("r.csv", "name,x_um,y_um\n", "has no lines after the first"),
        ("r.csv", "", "columns none"),
        ("r.json", '{"rois": [\n{"name": }]}', r"line 2: this is not JSON"),
        ("r.json", '{"regions": []}', r"has 'regions'; it is a list of regions, or has one of rois"),
        ("r.json", '{"positions_um": []}', "positions_um is no list, or an empty one"),
        ("r.txt", CSV, r"is a \.json or \.csv file"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        read(tmp_path, name, text)
