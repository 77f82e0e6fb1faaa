"""Each format is read back by a reader of its own and compared with what was acquired."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import blake3
import h5py
import mdocfile  # type: ignore[import-untyped]
import mrcfile
import numpy as np
import ome_types
import pandas as pd
import pyarrow.parquet
import pytest
import tifffile
import zarr
from ome_zarr_models.v05.image import Image
from rocrate.rocrate import ROCrate  # type: ignore[import-untyped]

from devices.errors import ConfigurationError
from processing.mosaic.pyramid import PyramidStore
from processing.stitching.mdoc import read_mdoc
from tests.processing.tile_folders import HEIGHT, STEP, WIDTH
from tests.tiled_server.exported_montage import (
    COLUMNS,
    MONTAGE,
    PIXEL_NM,
    SETTINGS,
    SOLVED_OFF,
    TURN_DEG,
    Made,
    labels,
    make_montage,
)
from tiled_server.exports.export import export
from tiled_server.exports.journal import from_journal
from tiled_server.exports.montage import Montage
from tiled_server.exports.options import ExportOptions, Format

NAMESPACE = {"o": "http://www.openmicroscopy.org/Schemas/OME/2016-06"}
ALL = ExportOptions(attempts="all")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "data").mkdir()
    return make_montage(folder, folder / "data")


@pytest.fixture(scope="module")
def montage(made: Made) -> Montage:
    return from_journal(made.journal, MONTAGE)


def test_csv_has_what_was_recorded(montage: Montage, made: Made, tmp_path: Path) -> None:
    done = export(montage, Format.CSV, tmp_path / "tiles.csv", ALL)

    table = pd.read_csv(tmp_path / "tiles.csv")
    assert done.frames == len(table) == 8
    keys = list(zip(table["roi"], table["row"], table["column"], table["attempt"], strict=True))
    assert keys == labels(made, best=False)
    assert table.loc[~table["best"], ["row", "column", "attempt", "qc_state"]].to_numpy().tolist() == [
        [0, 1, 0, "fail"]
    ]
    for name in ("x_um", "centre_y_um", "dose_e_per_a2", "focus_score", "solved_x_px", "exposure_start_s"):
        np.testing.assert_array_equal(table[name].to_numpy(float), montage.column(name))
    with h5py.File(made.files[1]) as file:
        own = table[table["run_uid"] == made.uids[1]].sort_values("tile_index")
        np.testing.assert_array_equal(own["defocus_um"], file["/entry/tiles/defocus_um"][:])
    assert done.notes == ()


def test_parquet_says_units_and_documents(montage: Montage, made: Made, tmp_path: Path) -> None:
    export(montage, Format.PARQUET, tmp_path / "tiles.parquet")

    table = pyarrow.parquet.read_table(tmp_path / "tiles.parquet")
    assert table.num_rows == 7
    assert table.schema.field("defocus_um").metadata == {b"unit": b"um"}
    about = json.loads(table.schema.metadata[b"montango"])
    assert [run["start"]["uid"] for run in about["runs"]] == made.uids
    assert about["runs"][0]["settings"]["column-magnification"] == 5000.0
    np.testing.assert_array_equal(table.to_pandas()["x_um"], montage.table.loc[montage.table["best"], "x_um"])


def test_mrc_and_mdoc_are_as_serialem_has_them(montage: Montage, made: Made, tmp_path: Path) -> None:
    done = export(montage, Format.MRC, tmp_path / "map.mrc")

    assert done.paths == (tmp_path / "map.mrc", tmp_path / "map.mrc.mdoc")
    assert mrcfile.validate(tmp_path / "map.mrc", print_file=None)
    order = labels(made, best=True)
    with mrcfile.open(tmp_path / "map.mrc") as file:
        assert file.header.mode == 6
        assert file.header.extra2.tobytes()[40:48] == b"IMOD\0\0\0\0"
        for image, key in zip(file.data, order, strict=True):
            np.testing.assert_array_equal(image[::-1], made.frames[key])
        assert file.voxel_size.x == pytest.approx(PIXEL_NM * 10)
        assert file.header.dmean == pytest.approx(file.data.mean())
        assert file.header.rms == pytest.approx(file.data.std())
    table = mdocfile.read(tmp_path / "map.mrc.mdoc")
    rows = montage.table[montage.table["best"]].reset_index(drop=True)
    first = table.iloc[0]
    assert (first["ImageFile"].name, first["ImageSize"], first["DataMode"]) == ("map.mrc", (WIDTH, HEIGHT), 6)
    assert first["Montage"] == 1
    assert table["ZValue"].tolist() == list(range(7))
    region = [2 * STEP[0], STEP[1]]
    # y up from the lower left corner of each region
    expected = [(c * STEP[0], (0 if roi else region[1] - r * STEP[1]), roi) for roi, r, c, _ in order]
    assert table["PieceCoordinates"].tolist() == expected
    same = {
        "StageZ": "z_um", "ExposureDose": "dose_e_per_a2", "PriorRecordDose": "prior_dose_e_per_a2",
        "Defocus": "defocus_um", "ExposureTime": "exposure_time_s",
    }  # fmt: skip
    for word, name in same.items():
        np.testing.assert_allclose(table[word], rows[name], rtol=1e-8)
    stage = np.array(table["StagePosition"].tolist())
    np.testing.assert_allclose(stage, rows[["x_um", "y_um"]], rtol=1e-6)
    offsets = rows[["x_um", "y_um"]].to_numpy() - rows[["x_requested_um", "y_requested_um"]].to_numpy()
    np.testing.assert_allclose(np.array(table["StageOffsets"].tolist()), offsets, atol=1e-6)
    settings = {
        "Magnification": 5000.0, "SpotSize": 3, "MagIndex": 10, "TargetDefocus": -1.0, "Intensity": 0.66,
        "TiltAngle": 1.5, "Binning": 2, "PixelSpacing": PIXEL_NM * 10, "RotationAngle": TURN_DEG - 180,
        "Voltage": 120, "ImageShift": (0.25, -0.125), "DoseRate": 1.25 * 50**2 / 0.5,
    }  # fmt: skip
    assert {name: first[name] for name in settings} == settings
    for (low, high, mean), key in zip(table["MinMaxMean"], order, strict=True):
        frame = made.frames[key]
        assert (low, high) == (frame.min(), frame.max())
        assert mean == pytest.approx(frame.mean(), rel=1e-5)
    when = pd.to_datetime(table["DateTime"], format="%d-%b-%y  %H:%M:%S")
    steps = (when - when[0]).dt.total_seconds()
    np.testing.assert_array_equal(steps, rows["exposure_start_s"] - rows["exposure_start_s"][0])
    aligned = [one for one in table["AlignedPieceCoords"] if isinstance(one, tuple)]
    assert aligned == [tuple(map(float, one)) for one in expected if one[2] == 0]


def test_the_stack_is_read_as_a_montage_again(montage: Montage, made: Made, tmp_path: Path) -> None:
    export(montage, Format.MRC, tmp_path, ExportOptions(roi=0))

    tiles = read_mdoc(tmp_path / f"{MONTAGE}-region-0.mrc.mdoc")
    assert tiles.pixel_size_nm == PIXEL_NM
    assert [one.tile.key for one in tiles.tiles] == [(0, r, c) for r in range(2) for c in range(3)]
    places = np.array([one.tile.nominal_px for one in tiles.tiles])
    np.testing.assert_array_equal(places[4] - places[0], STEP)
    np.testing.assert_array_equal(tiles.tiles[1].frame.read(), made.frames[0, 0, 1, 1])


def test_attempts_are_sections_of_their_own(montage: Montage, tmp_path: Path) -> None:
    export(montage, Format.MRC, tmp_path / "all.mrc", ALL)

    text = (tmp_path / "all.mrc.mdoc").read_text()
    assert "[T = section 1: region 0, attempt 1]" in text
    table = mdocfile.read(tmp_path / "all.mrc.mdoc")
    places = table["PieceCoordinates"].tolist()
    assert len(set(places)) == 8
    assert {z for *_, z in places} == {0, 1, 2}


def test_ome_tiff_has_an_image_a_frame(montage: Montage, made: Made, tmp_path: Path) -> None:
    export(montage, Format.OME_TIFF, tmp_path / "tiles.ome.tif")

    order = labels(made, best=True)
    rows = montage.table[montage.table["best"]].reset_index(drop=True)
    with tifffile.TiffFile(tmp_path / "tiles.ome.tif") as file:
        assert file.is_ome
        assert file.is_bigtiff
        for series, key in zip(file.series, order, strict=True):
            np.testing.assert_array_equal(series.asarray(), made.frames[key])
        text = file.ome_metadata
    # strict: a wrong element or value is an error
    parsed = ome_types.from_xml(text or "")
    assert [one.pixels.planes[0].exposure_time for one in parsed.images] == [0.5] * 7
    root = ElementTree.fromstring(text or "")
    planes = root.findall(".//o:Plane", NAMESPACE)
    for name, column in (("X", "centre_x_um"), ("Y", "centre_y_um"), ("Z", "z_um")):
        assert [float(one.attrib[f"Position{name}"]) for one in planes] == rows[column].tolist()
    assert {one.attrib["PositionXUnit"] for one in planes} == {"µm"}
    pixels = root.find(".//o:Pixels", NAMESPACE)
    assert pixels is not None
    assert (pixels.attrib["PhysicalSizeX"], pixels.attrib["Type"]) == ("10", "uint16")
    values = root.findall(".//o:MapAnnotation/o:Value", NAMESPACE)
    known = {one.attrib["K"]: one.text for one in values[0]}
    assert known["sample"] == "mouse 7 [<&>]"
    assert float(known["defocus_um"] or "nan") == rows["defocus_um"][0]


@pytest.mark.parametrize("level", [0, 1])
def test_the_live_mosaic_is_copied_with_its_levels(
    montage: Montage, made: Made, tmp_path: Path, level: int
) -> None:
    out = tmp_path / "mosaic.ome.zarr"
    export(montage, Format.OME_ZARR, out, ExportOptions(roi=0, level=level))

    group = zarr.open_group(out, mode="r")
    multiscale = Image.from_zarr(group).ome_attributes.multiscales[0]
    paths = [one.path for one in multiscale.datasets]
    original = zarr.open_group(made.mosaic, mode="r")
    assert paths == ["0", "1", "2", "3"][level:][: len(paths)]
    assert len(paths) == len(list(original.array_keys())) - level
    for path in paths:
        copied, own = (zarr.open_array(one / path, mode="r")[:] for one in (out, made.mosaic))
        np.testing.assert_array_equal(copied, own)
    if level:
        with pytest.raises(ConfigurationError, match="no mosaic of Montango"):
            PyramidStore.open(out)


def test_a_region_without_mosaic_is_drawn(montage: Montage, made: Made, tmp_path: Path) -> None:
    done = export(montage, Format.OME_ZARR, tmp_path / "one.ome.zarr", ExportOptions(roi=1))

    assert "drawn from the frames" in done.notes[-1]
    pixels = zarr.open_array(tmp_path / "one.ome.zarr" / "0", mode="r")[:]
    frame = made.frames[1, 0, 0, 0]
    # the stage stopped off whole pixels: the middle is that of the frame, moved by part of one
    inner = np.asarray(pixels)[80:200, 80:200].astype(float)
    seen = np.corrcoef(inner.ravel(), frame[80:200, 80:200].astype(float).ravel())[0, 1]
    assert np.shape(pixels) == pytest.approx((HEIGHT, WIDTH), abs=1)
    assert seen > 0.9


def test_a_drawn_mosaic_has_its_tiles_where_they_were_solved(
    montage: Montage, made: Made, tmp_path: Path
) -> None:
    alone = replace(montage, mosaics=())
    export(alone, Format.OME_ZARR, tmp_path / "drawn.ome.zarr", ExportOptions(roi=0))

    with PyramidStore.open(tmp_path / "drawn.ome.zarr") as store:
        x0, y0 = store.geometry.origin_px
        # the middle of tile (1, 2), which lies whole in the mosaic
        x, y = 2 * STEP[0] + SOLVED_OFF[0] - x0, STEP[1] + SOLVED_OFF[1] - y0
        found = store.read(0, round(y) - 40, round(x) - 40, round(y) + 40, round(x) + 40).astype(float)
    frame = made.frames[0, 1, 2, 0].astype(float)
    middle = frame[HEIGHT // 2 - 40 : HEIGHT // 2 + 40, WIDTH // 2 - 40 : WIDTH // 2 + 40]
    assert np.corrcoef(found.ravel(), middle.ravel())[0, 1] > 0.9


def test_an_ome_zarr_is_of_one_region(montage: Montage, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"regions 0, 1, .* give --roi"):
        export(montage, Format.OME_ZARR, tmp_path / "m.ome.zarr")
    with pytest.raises(ConfigurationError, match="has levels 0 to"):
        export(montage, Format.OME_ZARR, tmp_path / "m.ome.zarr", ExportOptions(roi=0, level=9))
    assert list(tmp_path.iterdir()) == []


def test_trakem2_finds_its_images_beside_it(montage: Montage, made: Made, tmp_path: Path) -> None:
    export(montage, Format.TRAKEM2, tmp_path / "project", ExportOptions(roi=0))

    root = ElementTree.parse(tmp_path / "project" / "trakem2.xml").getroot()
    patches = root.findall(".//t2_patch")
    places = []
    for patch, key in zip(patches, labels(made, best=True, roi=0), strict=True):
        image = tifffile.imread(tmp_path / "project" / patch.attrib["file_path"])
        np.testing.assert_array_equal(image, made.frames[key])
        a, b, c, d, e, f = map(float, patch.attrib["transform"][7:-1].split(","))
        middle = np.array([WIDTH - 1, HEIGHT - 1]) / 2
        places.append(np.array([[a, c], [b, d]]) @ middle + (e, f))
    np.testing.assert_allclose(places[COLUMNS] - places[0], (0, STEP[1]), atol=1e-6)


def test_render_has_addresses_and_the_distortion(montage: Montage, made: Made, tmp_path: Path) -> None:
    export(montage, Format.RENDER, tmp_path / "project", ExportOptions(roi=0))

    specs = json.loads((tmp_path / "project" / "render.json").read_text())
    assert len(specs) == 6
    url = specs[1]["mipmapLevels"]["0"]["imageUrl"]
    assert url.startswith("file:///")
    np.testing.assert_array_equal(tifffile.imread(url.removeprefix("file://")), made.frames[0, 0, 1, 1])
    kinds = [one["className"].rpartition(".")[2] for one in specs[1]["transforms"]["specList"]]
    assert kinds == ["PolynomialTransform2D", "AffineModel2D"]


def test_a_crate_has_a_checksum_of_every_file(montage: Montage, made: Made, tmp_path: Path) -> None:
    done = export(montage, Format.RO_CRATE, tmp_path / "m.zip")

    assert done.notes == ("left out: 1 earlier or failed attempts (--attempts all has them)",)
    with zipfile.ZipFile(tmp_path / "m.zip") as archive:
        assert archive.testzip() is None
        assert {one.compress_type for one in archive.infolist()} == {zipfile.ZIP_STORED}
        names = set(archive.namelist())
        manifest = archive.read("manifest-blake3.txt").decode().splitlines()
        sums = {line[66:]: line[:64] for line in manifest}
        assert set(sums) == names - {"manifest-blake3.txt"}
        for name, checksum in sums.items():
            assert blake3.blake3(archive.read(name)).hexdigest() == checksum
        archive.extractall(tmp_path / "crate")
    crate = ROCrate(tmp_path / "crate")
    assert crate.root_dataset["identifier"] == MONTAGE
    parts = {one.id for one in crate.root_dataset["hasPart"]}
    folders = ("frames/region-0/", "frames/region-1/", "mosaic/region-0.ome.zarr/")
    assert parts == {"tiles.csv", "tiles.parquet", "montage.json", "manifest-blake3.txt", *folders}
    assert all((tmp_path / "crate" / part).exists() for part in parts)
    for key in labels(made, best=True):
        roi, row, column, attempt = key
        name = f"frames/region-{roi}/row-{row:04d}_column-{column:04d}_attempt-{attempt}.tif"
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "crate" / name), made.frames[key])
    copied = zarr.open_array(tmp_path / "crate" / folders[2] / "0", mode="r")[:]
    np.testing.assert_array_equal(copied, zarr.open_array(made.mosaic / "0", mode="r")[:])
    about = json.loads((tmp_path / "crate" / "montage.json").read_text())
    assert about["runs"][1]["settings"].items() >= SETTINGS.items()


def lacking(group: Any, element: ElementTree.Element) -> list[str]:
    """Return what a group of a file lacks of what its definition requires, all the way down.

    Of a name with ``nameType`` partial the lower case part must agree.
    """
    missing = []
    for child in element:
        kind, name = child.tag.rpartition("}")[2], child.get("name", "")
        if kind not in ("group", "field"):
            continue
        partial = child.get("nameType") in ("partial", "any")
        stem = "".join(one for one in name if not one.isupper()) if partial else name
        same = [
            one
            for key, one in group.items()
            if (key.startswith(stem) if partial else key == name)
            and (kind == "field" or one.attrs.get("NX_class") == child.get("type"))
        ]
        optional = (
            "true" in (child.get("optional"), child.get("recommended")) or child.get("minOccurs") == "0"
        )
        if not same and not optional:
            missing.append(f"{group.name}/{name}")
        if kind == "group":
            missing += [line for one in same for line in lacking(one, child)]
    return missing


def test_nxem_has_what_the_definition_requires(montage: Montage, made: Made, tmp_path: Path) -> None:
    export(montage, Format.NXEM, tmp_path / "m.nxs")

    definitions = files("nexusformat") / "definitions" / "applications" / "NXem.nxdl.xml"
    entry = next(
        one for one in ElementTree.fromstring(definitions.read_text()) if one.get("type") == "NXentry"
    )
    with h5py.File(tmp_path / "m.nxs") as file:
        assert lacking(file["entry"], entry) == []
        assert file["entry/definition"][()] == b"NXem"
        assert file["entry/sample1/name"][()] == b"mouse 7 [<&>]"
        order = labels(made, best=True)
        seen = {}
        for number, uid in enumerate(made.uids, 1):
            event = file[f"entry/measurement/event{number}"]
            assert event["uid"][()].decode() == uid
            assert event["instrument/ebeam_column/electron_source/voltage"][()] == 120e3
            assert event["instrument/optics/magnification"][()] == 5000
            tiles, stack = event["image1/tiles"], event["image1/stack_2d"]
            assert stack["real"].dtype == np.dtype("<u2")
            assert stack["axis_i"].attrs["units"] == "nm"
            keys = zip(
                *(tiles[name][:].astype(int) for name in ("roi", "row", "column", "attempt")), strict=True
            )
            for index, key in enumerate(keys):
                seen[tuple(map(int, key))] = stack["real"][index]
            np.testing.assert_array_equal(event["instrument/stage1/position"][:, 0], tiles["x_um"][:])
        assert sorted(seen) == order
        for key in order:
            np.testing.assert_array_equal(seen[key], made.frames[key])
        # what a NeXus reader shows first
        group = file
        while "default" in group.attrs:
            group = group[group.attrs["default"]]
        assert group.attrs["signal"] == "real"


def test_the_validator_of_nexus_has_no_other_complaint(montage: Montage, tmp_path: Path) -> None:
    import nexusformat.nexus as nexus  # type: ignore[import-untyped]

    export(montage, Format.NXEM, tmp_path / "m.nxs")
    with nexus.nxload(str(tmp_path / "m.nxs")) as root:
        _, errors = root["entry"].validate(level="error")
    # it asks for a group "sampleID" to the letter, of which the definition says that ID is a placeholder
    assert errors == 1
