from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from devices.errors import ConfigurationError, LimitError
from devices.stage.driver import StageLimits
from plans.preview import Beam, preview
from plans.specs.montage import MontageSpec
from plans.specs.roi import Roi
from plans.specs.view import View

VIEW = View.from_nominal(2000, 1000, 5.0, 30.0)
SQUARE = ((0.0, 0.0), (30.0, 0.0), (30.0, 30.0), (0.0, 30.0))
BEAM = Beam(current_na=1.0, illuminated_area_um=12.0)


def read(path: Path) -> npt.NDArray[np.uint8]:
    """Return a picture, (y, x, 3): red, green, blue."""
    with Image.open(path) as image:
        return np.array(image.convert("RGB"), np.uint8)


def red_pixels(path: Path) -> int:
    picture = read(path)
    return int(((picture[..., 0] > 240) & (picture[..., 1] < 20) & (picture[..., 2] < 20)).sum())


def test_tiles_pixels_bytes() -> None:
    made = preview(MontageSpec(rows=4, columns=5, supertile=(2, 2)), VIEW)
    assert (made.tiles, made.stations) == (20, 6)
    assert made.pixels == 20 * 2_000_000
    assert made.size_bytes == 2 * made.pixels
    assert made.dose_e_per_a2 is None
    assert made.refusals == ()
    assert MontageSpec(rows=4, columns=5).preview(VIEW).tiles == 20


def test_dose_where_discs_overlap() -> None:
    made = preview(MontageSpec(rows=1, columns=3, exposure_time_s=2.0), VIEW, beam=BEAM)
    # 6.2415e9 e/s over pi/4 * (1.2e5 A)^2; discs of 12 um every 9 um: two reach a point
    assert made.dose_e_per_a2 == pytest.approx(2 * 6.2415e9 / 1.13097e10, rel=1e-4)
    assert made.largest_dose_e_per_a2 == pytest.approx(4 * 6.2415e9 / 1.13097e10, rel=1e-4)


def test_what_would_be_refused_is_said_and_drawn(tmp_path: Path) -> None:
    spec = MontageSpec(rows=3, columns=3, max_dose_e_per_a2=0.01)
    narrow = StageLimits(x_um=(-8, 8))
    made = preview(spec, VIEW, limits=narrow, beam=BEAM)
    assert len(made.refusals) == 2
    assert "-8 to 8 um" in made.refusals[0]
    assert "max_dose_e_per_a2 = 0.01" in made.refusals[1]
    text = made.as_text()
    assert all(refusal in text for refusal in made.refusals)
    assert red_pixels(preview(spec, VIEW).draw(tmp_path / "inside.png")) == 0
    assert red_pixels(made.draw(tmp_path / "outside.png")) > 100


def test_over_the_limit_of_image_shift() -> None:
    with pytest.raises(LimitError, match="largest that fits is"):
        preview(MontageSpec(rows=9, columns=9, supertile=(9, 9)), VIEW)


def test_regions_that_share_ground_are_remarked() -> None:
    other = tuple((x + 20, y) for x, y in SQUARE)
    spec = MontageSpec(rois=(Roi(name="a", polygon_um=SQUARE), Roi(name="b", polygon_um=other)))
    made = preview(spec, VIEW)
    assert made.remarks == ("ROIs 'a' and 'b' share 300 um^2, which is exposed for both",)
    assert sum(made.as_dict()["rois"].values()) == made.tiles


def test_figures_are_json_and_words() -> None:
    made = preview(MontageSpec(rois=(Roi(name="a", polygon_um=SQUARE),)), VIEW, beam=BEAM)
    found = json.loads(json.dumps(made.as_dict()))
    assert found["tiles"] == made.tiles
    assert sum(found["time_parts_s"].values()) == pytest.approx(found["time_s"])
    text = made.as_text()
    for word in (f"{made.tiles} (", "2000 x 1000 px", "turned by 30 deg", "readout 0.15 s", "2000 um/s^2"):
        assert word in text


@pytest.mark.parametrize("size", [(1, 1), (3, 2)])
def test_picture(tmp_path: Path, size: tuple[int, int]) -> None:
    """The tiles cover the part of the picture that they cover of the plane."""
    spec = MontageSpec(rois=(Roi(name="a", polygon_um=SQUARE),), supertile=size)
    path = preview(spec, VIEW, limits=StageLimits()).draw(tmp_path / "montage.png")
    image = read(path)
    assert image.shape[:2] == (1080, 1080)
    assert (image.min(axis=2) < 250).mean() > 0.1


def test_picture_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be written"):
        preview(MontageSpec(rows=1, columns=1), VIEW).draw(tmp_path / "none" / "montage.png")
