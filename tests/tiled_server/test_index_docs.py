"""The page about queries names what there is, and agrees with the page about quality."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tiled_server.index.queries import QC_FILTERS, SORTED
from tiled_server.index.schema import METRICS, MONTAGE_COLUMNS, SCORES, TILE_COLUMNS

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
if not REFERENCE.is_dir():
    pytest.skip("the documentation is in the source tree, not in the wheel", allow_module_level=True)


def test_every_column_is_on_the_page() -> None:
    text = (REFERENCE / "catalog-queries.md").read_text()
    tables = re.findall(r"^\| ([a-z_][a-zA-Z0-9_, ]*) \|", text, re.MULTILINE)
    named = {name for cell in tables for name in cell.split(", ")}
    scores = {one.name for one in SCORES}
    assert {*MONTAGE_COLUMNS, *TILE_COLUMNS} - scores <= named
    for word in (*SORTED, *QC_FILTERS):
        assert f"`{word}`" in text


def test_worse_is_what_the_page_about_quality_says() -> None:
    section = (REFERENCE / "quality.md").read_text().partition("\n## Scores\n")[2].partition("\n## ")[0]
    better: dict[str, str] = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 3:
            better |= {name.strip(): cells[2] for name in cells[0].split(",")}
    for one in SCORES:
        name = one.name.removesuffix("_db").replace("_deg", " direction").replace("_", " ")
        name = name if name in better else name.removesuffix(" counts")
        assert METRICS[one.name].better == better[name], one.name
