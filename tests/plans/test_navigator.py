from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from devices.errors import ConfigurationError
from plans.specs.importers.navigator import NavItem, NavKind, place_of, read_nav
from plans.specs.montage import MontageSpec

NAV = """AdocVersion = 2.00
LastSavedAs = D:\\data\\grid.nav

[Item = 1]
Color = 0
StageXYZ = 10.5 -20.25 3.5
NumPts = 1
Regis = 1
Type = 0
Note = a [good] one = yes
PtsX = 10.5
PtsY = -20.25

[Item = 2]
Color = 1
StageXYZ = 5 5 3.5
NumPts = 5
Regis = 1
Type = 1
PtsX = 0 10 10 0 0
PtsY = 0 0 10 10 0

[Item = 3]
Color = 0
StageXYZ = 40 0 3.5
NumPts = 1
Corner = 1
Regis = 1
Type = 0
PtsX = 40
PtsY = 0

[Item = 4]
Color = 0
StageXYZ = 60 30 3.5
NumPts = 1
Corner = 1
Regis = 1
Type = 0
PtsX = 60
PtsY = 30
"""


def read(folder: Path, text: str) -> list[NavItem]:
    path = folder / "grid.nav"
    path.write_text(text, encoding="utf-8")
    return read_nav(path)


def test_points_and_polygons(tmp_path: Path) -> None:
    items = read(tmp_path, NAV)
    assert [(item.label, item.kind, item.line) for item in items] == [
        ("1", NavKind.POINT, 4),
        ("2", NavKind.POLYGON, 14),
        ("3", NavKind.POINT, 23),
        ("4", NavKind.POINT, 33),
    ]
    assert items[0].points_um == ((10.5, -20.25),)
    assert (items[0].note, items[0].stage_z_um) == ("a [good] one = yes", 3.5)
    polygon = MontageSpec.model_validate(place_of(items, ["2"])).rois[0]
    assert polygon.name == "2"
    assert polygon.shape().area == pytest.approx(100)


def test_points_are_positions_and_corner_points_corners(tmp_path: Path) -> None:
    items = read(tmp_path, NAV)
    assert place_of(items, ["1", "3"]) == {"positions_um": [(10.5, -20.25), (40.0, 0.0)]}
    assert MontageSpec.model_validate(place_of(items, ["3", "4"])).corners_um == ((40, 0), (60, 30))


def test_xml_says_the_same(tmp_path: Path) -> None:
    root = ElementTree.Element("navigator")
    item = ElementTree.SubElement(root, "PreData")
    for line in NAV.splitlines():
        key, _, value = line.partition(" = ")
        if key == "[Item":
            item = ElementTree.SubElement(root, "Item", name=value.rstrip("]"))
        elif key:
            ElementTree.SubElement(item, key).text = value
    ElementTree.indent(root)
    (tmp_path / "grid.xml").write_bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
    plain, marked = read(tmp_path, NAV), read_nav(tmp_path / "grid.xml")
    assert [place_of(marked, [item.label]) for item in marked] == [
        place_of(plain, [item.label]) for item in plain
    ]


def test_recorded_map(test_data: Path) -> None:
    """A map of a file that SerialEM wrote: its outline is a region, in the order around it."""
    path = test_data / "serialem" / "pyserialem_nav.nav"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    (item,) = read_nav(path)
    assert (item.label, item.kind, item.stage_z_um) == ("17-1-A", NavKind.MAP, 44.77)
    spec = MontageSpec.model_validate(place_of([item], ["17-1-A"]))
    assert spec.rois[0].shape().centroid.coords[0] == pytest.approx((-495.956, 436.348), abs=1e-3)
    # MapScaleMat, 26.6 px/um on a map of 4096 px, says 154 um a side
    assert spec.rois[0].shape().area == pytest.approx(154**2, rel=0.01)
    with pytest.raises(ConfigurationError, match="name a map with its label"):
        place_of([item])


def test_metadata_of_images_are_no_navigator(test_data: Path) -> None:
    paths = list((test_data / "serialem").glob("*.mdoc"))
    if not paths:
        pytest.skip("there are no .mdoc files in the test data")
    for path in paths:
        with pytest.raises(ConfigurationError, match="is no navigator file: its sections are"):
            read_nav(path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("PtsX = 0 10 10 0 0", "PtsX = 0 10 10 0", r"line 20: item '2' has 4 numbers in PtsX, not 5"),
        ("PtsX = 0 10 10 0 0", "PtsX = 0 10 ten 0 0", r"line 20: item '2' has PtsX = .*not numbers"),
        ("PtsX = 0 10 10 0 0", "PtsX = 0 10 nan 0 0", r"line 20: item '2' has PtsX that are not finite"),
        ("PtsX = 0 10 10 0 0\n", "", r"line 14: item '2' has no PtsX"),
        ("StageXYZ = 10.5 -20.25 3.5", "StageXYZ = 10.5 -20.25", r"line 6: item '1' has 2 numbers"),
        ("StageXYZ = 10.5 -20.25 3.5\n", "", r"line 4: item '1' has no StageXYZ"),
        ("Type = 1", "Type = 7", r"line 19: item '2' has Type = 7; 0 is a point"),
        ("Type = 1", "Type = polygon", r"line 19: item '2' has Type = 'polygon'"),
        ("Type = 1\n", "", r"line 14: item '2' has no Type"),
        ("[Item = 2]", "[Item = 2", r"line 14: the bracket of a section is not closed"),
        ("Regis = 1\nType = 1", "Regis\nType = 1", r"line 18: this is not 'key = value': 'Regis'"),
        ("StageXYZ = 5 5 3.5", "CoordsInMap = 5 5 3.5", r"line 16: item '2' has pixels of a map"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in NAV
    with pytest.raises(ConfigurationError, match=words):
        read(tmp_path, NAV.replace(old, new, 1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "neither AdocVersion nor items"),
        ("hello\n", "line 1: this is not 'key = value'"),
        ("1\t10\t20\t3\n", "before SerialEM 3.6"),
        ("<navigator><Item name='1'>\n</navigator>", r"line 2: this is not XML \(mismatched tag\)"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><navigator/>", "line 1: a navigator file has no DOCTYPE"),
        ("a\0b", "not text"),
    ],
)
def test_what_is_no_navigator_file(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        read(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_nav(tmp_path / "none.nav")


def test_a_file_cut_at_any_byte_is_read_or_refused(tmp_path: Path) -> None:
    whole = read(tmp_path, NAV)
    for length in range(len(NAV)):
        try:
            items = read(tmp_path, NAV[:length])
        except ConfigurationError as error:
            lines = str(error).splitlines()
        else:
            lines = ["read"]
            assert [item.label for item in items] == [item.label for item in whole][: len(items)]
        assert len(lines) == 1


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["12"], r"no item '12'; the nearest is '[12]'; its items: 1, 2, 3, 4"),
        (["1", "2"], "item '1' is a point and '2' a polygon"),
        ([], "item '1' is a point and '2' a polygon"),
    ],
)
def test_choices_that_make_no_montage(tmp_path: Path, labels: list[str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        place_of(read(tmp_path, NAV), labels, "grid.nav")


def test_a_label_twice_and_another_registration(tmp_path: Path) -> None:
    twice = read(tmp_path, NAV.replace("[Item = 4]", "[Item = 3]"))
    with pytest.raises(ConfigurationError, match=r"2 items have the label '3' \(lines 23, 33\)"):
        place_of(twice, ["3"])
    turned = read(tmp_path, NAV.replace("Corner = 1\nRegis = 1", "Corner = 1\nRegis = 2", 1))
    with pytest.raises(ConfigurationError, match="registrations 1 and 2"):
        place_of(turned, ["3", "4"])
