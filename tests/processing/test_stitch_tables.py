"""Places of tiles as other programs read them: each file is read back and compared with the solution."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import mdocfile  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import pytest

from processing.kernels._legendre import degrees
from processing.kernels.field import FieldModel
from processing.stitching.mdoc import aligned
from processing.stitching.offline import Stitched
from processing.stitching.solution import StitchSolution, TileRecord
from processing.stitching.sources import read_source
from processing.stitching.tables import polynomial, render_specs, write_positions, write_tables
from tests.processing.tile_folders import HEIGHT, STEP, WIDTH, cut, write_folder, write_mdoc

POINTS = np.array([[0.0, 0.0], [WIDTH - 1, 0], [100, 200], [WIDTH - 1, HEIGHT - 1]])
MIDDLE = np.array([WIDTH - 1, HEIGHT - 1]) / 2


def bent() -> FieldModel:
    coefficients = np.random.default_rng(3).normal(0, 0.5, (2, len(degrees(5))))
    return FieldModel(WIDTH, HEIGHT, 5, coefficients)


def solved(source: Path, field: FieldModel) -> Stitched:
    """Return a solution that moves tiles by (3, -2) px more each, turns and bends them."""
    tiles = read_source(source, pixel_size_nm=4.0)
    records = tuple(
        TileRecord(
            one.tile.key,
            0,
            one.tile.nominal_px,
            (one.tile.nominal_px[0] + 3.2 * k, one.tile.nominal_px[1] - 2.3 * k),
            ((1.001, 0.002 * k), (-0.003, 0.999)),
            k > 0,
            "" if k else "prior-only: blank",
        )
        for k, one in enumerate(tiles.tiles)
    )
    solution = StitchSolution(
        (WIDTH, HEIGHT),
        records,
        (),
        field,
        "calibrated",
        None,
        ((1, 0, 0), (0, 1, 0)),
        5.0,
        *[float("nan")] * 4,
    )
    return Stitched(tiles, solution, ())


@pytest.fixture
def done(tmp_path: Path) -> Stitched:
    write_folder(tmp_path / "in", cut(2, 2)[0], 2)
    return solved(tmp_path / "in", bent())


def affine(numbers: list[float]) -> npt.NDArray[np.float64]:
    """Return (2, 3) of an affine's numbers as Java's programs write them, columns first."""
    return np.array(numbers).reshape(3, 2).T


def applied(matrix: npt.NDArray[np.float64], points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


def test_every_tile_has_a_line_in_the_list_of_positions(tmp_path: Path, done: Stitched) -> None:
    write_tables(done, tmp_path)

    with (tmp_path / "positions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))

    assert [line["file"] for line in lines] == ["s_1_1.png", "s_1_2.png", "s_2_1.png", "s_2_2.png"]
    assert [(int(line["row"]), int(line["column"])) for line in lines] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    places = [(float(line["x_px"]), float(line["y_px"])) for line in lines]
    assert np.allclose(places, done.solution.positions_px)
    assert [line["matched"] for line in lines] == ["0", "1", "1", "1"]
    assert lines[0]["reason"] == "prior-only: blank"


def test_what_was_left_out_has_a_line_and_is_left_out_again(tmp_path: Path, done: Stitched) -> None:
    fewer = replace(done.tiles, left_out=(("s_9_9.png", "damaged"), ("s_2_2.png", "no place")))
    fewer = replace(fewer, tiles=fewer.tiles[:3])
    solution = replace(done.solution, tiles=done.solution.tiles[:3])
    write_positions(replace(done, tiles=fewer, solution=solution), tmp_path / "p.csv")

    again = read_source(tmp_path / "in", positions=tmp_path / "p.csv")

    assert [one.name for one in again.tiles] == ["s_1_1.png", "s_1_2.png", "s_2_1.png"]
    assert {name for name, _ in again.left_out} == {"s_9_9.png", "s_2_2.png"}


def test_positions_can_be_stitched_again_from(tmp_path: Path, done: Stitched) -> None:
    write_tables(done, tmp_path)

    again = read_source(tmp_path / "in", positions=tmp_path / "positions.csv")

    assert np.allclose(
        [one.tile.nominal_px for one in again.tiles], [one.position_px for one in done.solution.tiles]
    )
    text = (tmp_path / "solution.json").read_text()
    assert np.allclose(StitchSolution.from_json(text).positions_px, done.solution.positions_px)


def test_trakem2_places_pixels_as_the_solution_does(tmp_path: Path, done: Stitched) -> None:
    write_tables(done, tmp_path)

    root = ElementTree.parse(tmp_path / "trakem2.xml").getroot()

    patches = root.findall("./t2_layer_set/t2_layer/t2_patch")
    shifts = []
    for patch, tile in zip(patches, done.solution.tiles, strict=True):
        assert Path(patch.attrib["file_path"]).is_file()
        assert (patch.attrib["width"], patch.attrib["height"]) == (str(WIDTH), str(HEIGHT))
        numbers = [
            float(one) for one in patch.attrib["transform"].removeprefix("matrix(").rstrip(")").split(",")
        ]
        own = (POINTS - MIDDLE) @ np.array(tile.matrix).T + tile.position_px
        shifts.append(applied(affine(numbers), POINTS) - own)
    assert np.ptp(np.array(shifts).reshape(-1, 2), axis=0) == pytest.approx(0, abs=1e-6)
    assert {(one.attrib["type"], one.attrib["max"]) for one in patches} == {("0", "255.0")}
    calibration = root.find("./t2_layer_set/t2_calibration")
    assert calibration is not None
    assert (calibration.attrib["unit"], calibration.attrib["pixelWidth"]) == ("nm", "4")


def test_render_places_pixels_as_the_solution_does_with_distortion(tmp_path: Path, done: Stitched) -> None:
    write_tables(done, tmp_path)

    specs = json.loads((tmp_path / "render.json").read_text())

    for spec, tile in zip(specs, done.solution.tiles, strict=True):
        lens, matrix = spec["transforms"]["specList"]
        terms = np.array([float(one) for one in lens["dataString"].split()]).reshape(2, -1)
        x, y = POINTS.T
        # the order of PolynomialTransform2D: 1, x, y, x^2, xy, y^2, ...
        powers = [x ** (n - q) * y**q for n in range(6) for q in range(n + 1)]
        ideal = (terms @ np.array(powers)).T
        found = applied(affine([float(one) for one in matrix["dataString"].split()]), ideal)
        assert found == pytest.approx(done.solution.to_mosaic(tile.key, POINTS - MIDDLE), abs=1e-6)
    assert len({spec["tileId"] for spec in specs}) == 4
    assert all(spec["mipmapLevels"]["0"]["imageUrl"].startswith("file:///") for spec in specs)


def test_without_distortion_render_has_an_affine_alone(tmp_path: Path, done: Stitched) -> None:
    straight = solved(tmp_path / "in", FieldModel.identity(WIDTH, HEIGHT))

    assert [len(spec["transforms"]["specList"]) for spec in render_specs(straight)] == [1] * 4
    assert polynomial(FieldModel.identity(WIDTH, HEIGHT)) == pytest.approx(
        np.array([[0, 1, 0], [0, 0, 1]]), abs=1e-9
    )


def test_feabas_coordinates_name_files_and_corners(tmp_path: Path, done: Stitched) -> None:
    write_tables(done, tmp_path)

    lines = [line.split("\t") for line in (tmp_path / "feabas.txt").read_text().splitlines()]

    head = {line[0]: line[1:] for line in lines[:3]}
    assert head["{TILE_SIZE}"] == [str(HEIGHT), str(WIDTH)]
    assert head["{RESOLUTION}"] == ["4"]
    for (name, x, y), tile in zip(lines[3:], done.solution.tiles, strict=True):
        assert (Path(head["{ROOT_DIR}"][0]) / name).is_file()
        assert np.abs(np.array([int(x), int(y)]) - (np.array(tile.position_px) - MIDDLE)).max() <= 0.5


def test_an_mdoc_gets_aligned_coordinates(tmp_path: Path) -> None:
    path = write_mdoc(tmp_path, cut(2, 2)[0], 2, 2)
    done = solved(path, FieldModel.identity(WIDTH, HEIGHT))
    (tmp_path / "out").mkdir()

    write_tables(done, tmp_path / "out")

    copy = tmp_path / "out" / "map.st.aligned.mdoc"
    assert path.read_text().count("Aligned") == 0
    table = mdocfile.read(copy)
    assert len(table) == 4
    lines = [line.split("=")[1].split() for line in copy.read_text().splitlines() if "AlignedPiece" in line]
    # the first row of tiles is the upper one, of the higher y; solved y is down
    assert [[int(one) for one in line] for line in lines] == [
        [0, STEP[1], 0],
        [STEP[0] + 3, STEP[1] + 2, 0],
        [6, 5, 0],
        [STEP[0] + 10, 7, 0],
    ]


def test_old_aligned_coordinates_are_replaced(test_data: Path) -> None:
    text = (test_data / "serialem" / "montage_section_multiple.mdoc").read_text()

    fresh = aligned(text, {(0, 1758, 0): (4.0, -7.0)})

    assert fresh.count("AlignedPieceCoords =") == text.count("AlignedPieceCoords =")
    assert "AlignedPieceCoords = 4 1765 0" in fresh
    assert "AlignedPieceCoords = -26 1816 0" not in fresh
    assert "AlignedPieceCoords = 25 101 0" in fresh
