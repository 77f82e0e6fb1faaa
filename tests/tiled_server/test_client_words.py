"""Times and names that analysts give: understood in one way, or refused with what to do."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest

from devices.errors import ConfigurationError
from devices.tiles import TILE_COLUMNS
from tiled_server.client.metrics import find_metric, find_ranked
from tiled_server.client.tiles import COLUMNS, SCORE_NAMES
from tiled_server.client.times import unix_s

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "catalog.md"
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "given",
    [
        NOON,
        NOON.astimezone(timezone(timedelta(hours=5))),
        NOON.astimezone().replace(tzinfo=None),  # as the clock here shows it
        "2026-11-21T12:00Z",
        "2026-11-21 13:00:00+01:00",
        "20261121T120000Z",
    ],
)
def test_one_moment_in_many_ways(given: datetime | str) -> None:
    assert unix_s(given, "since") == NOON.timestamp()


def test_a_day_begins_at_midnight_here() -> None:
    midnight = datetime(2026, 11, 21).timestamp()
    assert unix_s(date(2026, 11, 21), "until") == midnight
    assert unix_s("2026-11-21", "until") == midnight


@pytest.mark.parametrize("given", ["2 days ago", "21.11.2026", "20261121", "", 1795262400, None])
def test_what_may_mean_something_else_is_refused(given: object) -> None:
    with pytest.raises(ConfigurationError, match=r"since = .* is not understood .*'2026-11-21T14:30'"):
        unix_s(given, "since")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "name"),
    [("focus", "focus_score"), ("Residual", "residual_px"), ("dose_e_per_a2", "dose_e_per_A2")],
)
def test_numbers_of_tiles_have_short_names(given: str, name: str) -> None:
    assert find_metric(given).name == name


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("zzz", "is no number of a tile; there are mean_counts"),
        ("sharpnes_", "did you mean 'sharpness'"),
        ("sh", "may be sharpness, shading"),
    ],
)
def test_other_names_are_refused(given: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        find_metric(given)


def test_only_numbers_with_a_bad_end_rank_tiles() -> None:
    assert find_ranked("shading").better == "higher"
    with pytest.raises(
        ConfigurationError, match=r"neither .* mean_counts is bad by itself; rank by one of sat"
    ):
        find_ranked("mean")


@pytest.mark.skipif(not PAGE.exists(), reason="the documentation is in the source tree, not in the wheel")
def test_every_column_of_a_tile_is_documented() -> None:
    section = PAGE.read_text().split("\n## Tiles\n")[1].split("\n## ")[0]
    cells = [row.split("|")[1] for row in re.findall(r"^\| [a-z].*$", section, re.MULTILINE)]
    named = {name for cell in cells if "..." not in cell for name in re.findall(r"\w+", cell)}
    spans = [cell.split(" ... ") for cell in cells if "..." in cell]
    names = list(COLUMNS)
    for first, last in ([end.strip() for end in span] for span in spans):
        named |= set(names[names.index(first) : names.index(last) + 1])
    assert named - {"column"} == set(names) - {"column"}
    assert {column.name for column in TILE_COLUMNS} | set(SCORE_NAMES) <= set(names)
