"""What the index answers, on SQLite and on PostgreSQL: against numpy, and against what was written."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection
from tiled.access_control.access_policies import ALL_ACCESS, NO_ACCESS, DummyAccessPolicy
from tiled.queries import AccessTagsFilter, FullText

from tests.tiled_server.own_index import FOCUS, Index
from tests.tiled_server.postgres import Postgres
from tiled_server.index import maps, queries
from tiled_server.index.access import Tags, tags_of
from tiled_server.index.queries import Scope, Search
from tiled_server.index.schema import METRICS, about
from tiled_server.index.writing import delete_run

DAY_S = 86_400.0


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Three montages: two of a session, with an attempt that was repeated; one of another proposal."""
    if request.param == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        made = Index(postgres.database("queries"))
    else:
        made = Index(tmp_path_factory.mktemp("index") / "index.db")
    assert made.prepare()
    assert not made.prepare()
    grid = [(i // 4, i % 4, 0, "fail" if i == 5 else "pass") for i in range(12)]
    made.add(
        "a1", grid, montage_id="m-a", time=10 * DAY_S, sample="Mouse 7", operator="ada", proposal="p1",
        data_session="s1", notes="Vessel at the edge", tags=("p1", "lab"),
    )  # fmt: skip
    made.add("a2", [(1, 1, 1, "pass")], montage_id="m-a", time=11 * DAY_S, proposal="p1", tags=("p1",))
    rest = [(0, 0, 0, "needs_review"), (0, 1, 0, "pending"), (-1, -1, 0, "pass")]
    made.add(
        "b1", rest, montage_id="m-b", time=20 * DAY_S, sample="mouse 70%_x", operator="grace", proposal="p1",
        data_session="s1", tags=("p1",),
    )  # fmt: skip
    made.add(
        "c1",
        [(3, 5, 0, "pass"), (4, 7, 0, "fail")],
        montage_id="m-c",
        time=30 * DAY_S,
        proposal="p2",
        tags=("p2",),
    )
    return made


def found(index: Index, search: Search, tags: Tags = None) -> list[str]:
    count, rows = index.ask(queries.find_montages, search, tags, 0, 10)
    assert count == len(rows)
    return [row["montage_id"] for row in rows]


@pytest.mark.parametrize(
    ("search", "montages"),
    [
        (Search({}), ["m-c", "m-b", "m-a"]),
        (Search({}, sort="started"), ["m-a", "m-b", "m-c"]),
        (Search({}, sort="sample"), ["m-a", "m-b", "m-c"]),
        (Search({}, sort="-sample"), ["m-b", "m-a", "m-c"]),
        (Search({"sample": "Mouse 7"}), ["m-a"]),
        (Search({"sample": "mouse 7"}), []),
        (Search({"sample": "mouse*"}), ["m-b"]),
        (Search({"sample": "*ouse 7*"}), ["m-b", "m-a"]),
        (Search({"sample": "*%_x"}), ["m-b"]),
        (Search({"sample": "m*[a-z]*"}), []),
        (Search({"proposal": "p1", "operator": "grace"}), ["m-b"]),
        (Search({"session": "s1"}), ["m-b", "m-a"]),
        (Search({"session": "' or 1=1 --"}), []),
        (Search({}, since=20 * DAY_S), ["m-c", "m-b"]),
        (Search({}, since=10 * DAY_S, until=30 * DAY_S), ["m-b", "m-a"]),
        (Search({}, qc="good"), ["m-a"]),
        (Search({}, qc="fail"), ["m-c"]),
        (Search({}, qc="pending"), ["m-b"]),
        (Search({}, qc="needs_review"), ["m-b"]),
        (Search({}, words="edge VESSEL"), ["m-a"]),
        (Search({}, words="vessel mouse 8"), []),
        (Search({}, words="70%_"), ["m-b"]),
    ],
)
def test_montages_are_found(index: Index, search: Search, montages: list[str]) -> None:
    assert found(index, search) == montages


def test_pages_of_a_search_are_parts_of_the_whole(index: Index) -> None:
    pages = [index.ask(queries.find_montages, Search({}), None, offset, 2) for offset in (0, 2, 4)]
    assert [count for count, _ in pages] == [3, 3, 3]
    assert [row["montage_id"] for _, rows in pages for row in rows] == ["m-c", "m-b", "m-a"]


def test_a_montage_counts_the_attempts_that_count(index: Index) -> None:
    row = index.ask(queries.montage, "m-a", None)
    assert row is not None
    assert (row["runs"], row["exposures"], row["acquired"]) == (["a1", "a2"], 13, 12)
    assert (row["passed"], row["failed"], row["pending"]) == (12, 0, 0)
    tiles = index.ask(lambda connection: _rows(connection, "m-a", best=True))
    assert len(tiles) == 12
    assert [(one["run_uid"], one["attempt"]) for one in tiles if (one["row"], one["column"]) == (1, 1)] == [
        ("a2", 1)
    ]
    other = index.ask(queries.montage, "m-b", None)
    assert other is not None
    assert (other["exposures"], other["acquired"], other["needs_review"], other["pending"]) == (3, 2, 1, 1)


async def _rows(connection: AsyncConnection, montage_id: str, *, best: bool) -> list[dict[str, Any]]:
    statement = queries.tile_rows(montage_id, best=best)
    return [dict(row) for row in (await connection.execute(statement)).mappings()]


def test_a_heatmap_is_the_grid(index: Index) -> None:
    (region,) = index.ask(maps.heatmap, "m-a", "focus_score", None)
    expected = FOCUS.copy()
    expected[5] = FOCUS[0]  # of the attempt that counts
    np.testing.assert_allclose(np.array(region["values"], float), expected.reshape(3, 4))
    (region,) = index.ask(maps.heatmap, "m-c", "focus_score", 0)
    assert (region["row0"], region["column0"]) == (3, 5)
    assert region["values"] == [[FOCUS[0], None, None], [None, None, FOCUS[1]]]
    assert index.ask(maps.heatmap, "m-c", "focus_score", 1) == []
    assert index.ask(maps.heatmap, "m-b", "focus_score", None)[0]["values"] == [[FOCUS[0], None]]


def test_the_worst_are_at_the_bad_end(index: Index) -> None:
    worst = index.ask(queries.worst, Scope(texts={"session": "s1"}), "focus_score", 3, None)
    values = [*(value for i, value in enumerate(FOCUS) if i != 5), FOCUS[0], FOCUS[0]]
    assert [row["value"] for row in worst] == sorted(values)[:3]
    faulty = index.ask(queries.worst, Scope(), "severity", 9, None)
    first, *others = faulty
    assert (first["run_uid"], first["value"], first["faults"]) == ("c1", 0.01, "blurred")
    # the others have no fault: by focus
    scores = [row["focus_score"] for row in others]
    assert len(others) == 8
    assert scores == sorted(scores)
    assert {row["value"] for row in others} == {None}
    of_one = index.ask(queries.worst, Scope(montage_id="m-a"), "severity", 2, None)
    known = index.ask(queries.worst, Scope(montage_id="m-a"), "focus_score", 2, None)
    assert [row["tile_index"] for row in of_one] == [row["tile_index"] for row in known]


@pytest.mark.parametrize(
    ("scope", "names"),
    [
        (Scope("m-a"), ["m-a"]),
        (Scope(texts={"session": "s1"}), ["m-a", "m-b"]),
        (Scope(texts={"session": "s1", "sample": "Mouse 7"}), ["m-a"]),
        (Scope(texts={"session": "s*", "sample": "mouse 70%_*"}), ["m-b"]),
        (Scope(texts={"session": "s1", "sample": "mouse 7"}), []),
        (Scope(), ["m-a", "m-b", "m-c"]),
        (Scope("none"), []),
    ],
)
def test_statistics_are_those_of_numpy(index: Index, scope: Scope, names: list[str]) -> None:
    every = {
        "m-a": [*np.delete(FOCUS, 5), FOCUS[0]],
        "m-b": [FOCUS[0]],
        "m-c": [FOCUS[0], FOCUS[1]],
    }  # fmt: skip
    values = np.array([value for name in names for value in every[name]])
    found = index.ask(queries.statistics, scope, "focus_score", None)
    assert found["count"] == len(values)
    if not len(values):
        assert found["mean"] is found["std"] is found["median"] is None
        assert found["states"] == found["faults"] == {}
        return
    expected = {"mean": values.mean(), "std": values.std(), "min": values.min(), "max": values.max()}
    expected |= dict(zip(("p05", "median", "p95"), np.quantile(values, [0.05, 0.5, 0.95]), strict=True))
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert sum(found["states"].values()) == len(values) + ("m-b" in names)
    assert found["faults"] == ({"blurred": 1} if "m-c" in names else {})


@pytest.mark.parametrize(
    ("tags", "montages"),
    [
        (None, ["m-c", "m-b", "m-a"]),
        ({"p1"}, ["m-b", "m-a"]),
        ({"p2", "p3"}, ["m-c"]),
        ({"lab"}, []),  # not on every run of m-a
        (set(), []),
    ],
)
def test_a_caller_sees_what_the_tags_let_through(index: Index, tags: Tags, montages: list[str]) -> None:
    assert found(index, Search({}), tags) == montages
    for name in ("m-a", "m-b", "m-c"):
        assert (index.ask(queries.montage, name, tags) is not None) == (name in montages)
    worst = index.ask(queries.worst, Scope(), "focus_score", 100, tags)
    assert {row["montage_id"] for row in worst} == set(montages)
    assert index.ask(queries.worst, Scope(texts={"session": "s1"}), "focus_score", 100, {"p2"}) == []
    assert (
        index.ask(queries.statistics, Scope(), "x_um", tags)["count"]
        == {3: 16, 2: 14, 1: 2, 0: 0}[len(montages)]
    )


def test_deleting_a_run_takes_its_rows_along(index: Index) -> None:
    index.add("d1", [(0, 0, 0, "fail")], montage_id="m-d", time=1.0, tags=("p1",))
    index.add("d2", [(0, 0, 1, "pass")], montage_id="m-d", time=2.0, tags=("p1",))
    row = index.ask(queries.montage, "m-d", {"p1"})
    assert row is not None
    assert (row["passed"], row["exposures"]) == (1, 2)
    index.write(lambda connection: delete_run(connection, "d2"))
    row = index.ask(queries.montage, "m-d", {"p1"})
    assert row is not None
    assert (row["passed"], row["failed"], row["exposures"], row["runs"]) == (0, 1, 1, ["d1"])
    index.write(lambda connection: delete_run(connection, "d1"))
    assert index.ask(queries.montage, "m-d", None) is None
    assert index.ask(lambda connection: _rows(connection, "m-d", best=False)) == []


def test_a_run_that_changes_its_montage_leaves_the_old_one(index: Index) -> None:
    index.add("e1", [(0, 0, 0, "fail"), (0, 1, 0, "pass")], montage_id="m-e", time=1.0)
    index.add("e1", [(0, 0, 0, "pass")], montage_id="m-f", time=1.0)
    assert index.ask(queries.montage, "m-e", None) is None
    row = index.ask(queries.montage, "m-f", None)
    assert row is not None
    assert (row["exposures"], row["passed"]) == (1, 1)
    index.write(lambda connection: delete_run(connection, "e1"))


def test_an_index_of_another_version_is_made_anew(
    request: pytest.FixtureRequest, index: Index, tmp_path: Path
) -> None:
    postgresql = isinstance(index.uri, str)
    old = Index(request.getfixturevalue("postgres").database("old") if postgresql else tmp_path / "old.db")
    assert old.prepare()
    old.add("a", [(0, 0, 0, "pass")], montage_id="m-a", time=1.0)
    old.write(lambda connection: connection.execute(update(about).values(value="other")))
    assert old.prepare()
    assert found(old, Search({})) == []


class Policy(DummyAccessPolicy):
    """A policy with fixed answers."""

    def __init__(self, filters: Any, allowed: tuple[str, ...] = ("read:metadata",)) -> None:
        self._filters, self._allowed = filters, allowed

    async def allowed_scopes(self, *_: Any) -> Any:
        return set(self._allowed)

    async def filters(self, *_: Any) -> Any:
        return self._filters


@pytest.mark.parametrize(
    ("policy", "tags"),
    [
        (None, None),
        (DummyAccessPolicy(), None),
        (Policy(ALL_ACCESS), None),
        (Policy(NO_ACCESS), set()),
        (Policy(ALL_ACCESS, ()), set()),
        (Policy([AccessTagsFilter(frozenset({"p1", "p2"}))]), {"p1", "p2"}),
        (Policy([AccessTagsFilter(frozenset({"p1"})), AccessTagsFilter(frozenset({"p2"}))]), set()),
        (Policy([FullText("anything")]), set()),
    ],
)
def test_the_access_policy_is_asked_as_tiled_asks_it(policy: Any, tags: Tags) -> None:
    found = asyncio.run(tags_of(policy, object(), None, None, {"read:metadata"}))
    assert (None if found is None else set(found)) == tags


def test_only_metrics_with_a_bad_end_can_be_worst() -> None:
    assert METRICS["focus_score"].better == "higher"
    assert METRICS["severity"].better == "lower"
    assert not METRICS["smear_deg"].better
