"""A catalog of many montages, made fast: one is written as every run is, the others are copies of its rows.

A run in the catalog is a few nodes, where its arrays lie, and rows of a table of events. Of a montage that
the normal writer wrote these are copied, with other documents and verdicts. The rows of the index are made
by the functions of the indexer itself. Some runs have no row in the index at first: the server reads these
the normal way when it starts, and what it makes of them is compared (`spot_check`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np

from montango.bench._catalog_bulk import Bulk, PostgresBulk, Row, SqliteBulk
from montango.bench._catalog_made import FRAME_PX, Made, documents, tile_numbers, write_frames
from montango.bench._catalog_server import Place, Running, wait_for_index
from processing.callbacks._catalog_run import connect, disconnect, write_run
from tiled_server.index.reading import stamp_of
from tiled_server.index.rows import ByTile, RunTiles, montage_row, run_row
from tiled_server.index.schema import montages, runs, tiles
from tiled_server.own_tables import SCHEMA

LARGE: Final = 2772
"""Tiles of the one large montage."""
CHECKED: Final = 5
"""Montages that the server reads the normal way, of each filling."""
_UPDATED: Final = datetime(2026, 1, 1)
_BLOCK: Final = 200


@dataclass
class Catalog:
    """A catalog that is filled.

    Attributes
    ----------
    place
        Where it lies.
    seed, tiles, large_tiles
        What its montages follow from; tiles of each, and of the large one.
    count
        Montages that it has beside the large one.
    left
        Numbers of those that the server reads the normal way at its next start.
    """

    place: Place
    seed: int
    tiles: int
    large_tiles: int = LARGE
    count: int = 0
    left: list[int] = field(default_factory=list)

    def made(self, number: int) -> Made:
        """Return a montage."""
        return Made(self.seed, number, self.tiles)

    @property
    def large(self) -> Made:
        """The large montage, of the last number that there is."""
        return Made(self.seed, 999_999, self.large_tiles)


def begin(catalog: Catalog, running: Running) -> None:
    """Write the first montage and the large one, as a lab does, to a server of the catalog."""
    client = connect(running.uri, running.key)
    try:
        for made in (catalog.made(0), catalog.large):
            path = catalog.place.data / f"{made.montage_id}.h5"
            write_frames(path, made.tiles, np.full((FRAME_PX, FRAME_PX), 900, np.uint16))
            write_run(client, list(documents(made, path)))
    finally:
        disconnect(client)
    wait_for_index(running)
    catalog.count = 1


def fill(catalog: Catalog, count: int) -> None:
    """Add montages until there are ``count``; a server sees all of them when it is started anew."""
    numbers = range(catalog.count, count)
    place = catalog.place
    main: Bulk = PostgresBulk(place.database) if place.database else _file(place, "catalog.db")
    tables: Bulk = PostgresBulk(place.tables) if place.tables else _file(place, "tables.db")
    index: Bulk = PostgresBulk(place.database) if place.database else _file(place, "index.db")
    with closing(main), closing(tables), closing(index):
        copier = _Copier(catalog, main, tables, postgres=place.database is not None)
        step = max(1, len(numbers) // CHECKED)
        catalog.left = list(numbers[step // 2 :: step])[:CHECKED]
        for first in range(0, len(numbers), _BLOCK):
            block = [catalog.made(number) for number in numbers[first : first + _BLOCK]]
            nodes = copier.add(block)
            _index(index, catalog, block, nodes)
        copier.end()
        for bulk in (main, tables, index):
            bulk.execute("ANALYZE")
    catalog.count = count


def _file(place: Place, name: str) -> SqliteBulk:
    return SqliteBulk(place.state_dir / "catalog" / name)


class _Copier:
    """Copies the rows of the first montage."""

    def __init__(self, catalog: Catalog, main: Bulk, tables: Bulk, *, postgres: bool) -> None:
        self._main, self._tables, self._postgres = main, tables, postgres
        (root,) = main.rows(f"SELECT * FROM nodes WHERE key = '{catalog.made(0).uid}'")
        self._nodes = self._below(root)
        ids = ", ".join(str(one["id"]) for one in self._nodes)
        self._sources = main.rows(f"SELECT * FROM data_sources WHERE node_id IN ({ids})")
        ids = ", ".join(str(one["id"]) for one in self._sources)
        self._assets = main.rows(
            f"SELECT * FROM data_source_asset_association WHERE data_source_id IN ({ids})"
        )
        self._table, dataset = next(
            (found["table_name"], found["dataset_id"])
            for one in self._sources
            if "table_name" in (found := json.loads(one["parameters"]))
        )
        self._events = tables.rows(
            f'SELECT * FROM "{self._table}" WHERE _dataset_id = {dataset} ORDER BY seq_num'
        )
        self._next = {
            "node": 1 + main.rows("SELECT max(id) AS id FROM nodes")[0]["id"],
            "source": 1 + main.rows("SELECT max(id) AS id FROM data_sources")[0]["id"],
            "dataset": 1 + tables.rows(f'SELECT max(_dataset_id) AS id FROM "{self._table}"')[0]["id"],
        }

    def _below(self, root: Row) -> list[Row]:
        found, at = [root], 0
        while at < len(found):
            found += self._main.rows(f"SELECT * FROM nodes WHERE parent = {found[at]['id']}")
            at += 1
        return found

    def add(self, block: Sequence[Made]) -> list[int]:
        """Add montages; return the ids of the nodes of their runs."""
        nodes: list[Row] = []
        sources: list[Row] = []
        assets: list[Row] = []
        events: list[Sequence[Any]] = []
        roots = []
        for made in block:
            of = {one["id"]: self._next["node"] + k for k, one in enumerate(self._nodes)}
            root = {"key": made.uid, "metadata": json.dumps({"start": made.start(), "stop": made.stop()})}
            roots.append(self._next["node"])
            for k, one in enumerate(self._nodes):
                changed = {"id": of[one["id"]], "parent": of.get(one["parent"], one["parent"])}
                nodes.append({**one, **changed, **(root if k == 0 else {}), **self._updated()})
            of_source = {one["id"]: self._next["source"] + k for k, one in enumerate(self._sources)}
            for one in self._sources:
                parameters = json.loads(one["parameters"])
                if "dataset_id" in parameters:
                    parameters["dataset_id"] = self._next["dataset"]
                sources.append(
                    {**one, "id": of_source[one["id"]], "node_id": of[one["node_id"]],
                     "parameters": json.dumps(parameters)}
                )  # fmt: skip
            assets += [{**one, "data_source_id": of_source[one["data_source_id"]]} for one in self._assets]
            events += self._rows(made)
            self._next["node"] += len(self._nodes)
            self._next["source"] += len(self._sources)
            self._next["dataset"] += 1
        for table, rows in (
            ("nodes", nodes), ("data_sources", sources), ("data_source_asset_association", assets),
        ):  # fmt: skip
            self._main.insert(table, list(rows[0]), (list(one.values()) for one in rows))
        self._tables.insert(self._table, list(self._events[0]), events)
        return roots

    def _updated(self) -> Row:
        return {"time_updated": _UPDATED if self._postgres else f"{_UPDATED}.000000"}

    def _rows(self, made: Made) -> Iterator[Sequence[Any]]:
        verdicts = {name: values.tolist() for name, values in made.verdicts().items()}
        for position, event in enumerate(self._events):
            new = {name: values[position] for name, values in verdicts.items()}
            yield list({**event, **new, "_dataset_id": self._next["dataset"]}.values())

    def end(self) -> None:
        """Let the databases count on from here."""
        if self._postgres:
            for table, last in (("nodes", self._next["node"]), ("data_sources", self._next["source"])):
                self._main.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), {last})")
            self._tables.execute(f"SELECT setval('_dataset_id_counter', {self._next['dataset']})")
        else:
            self._tables.execute(f"UPDATE _dataset_id_counter SET value = {self._next['dataset']}")


def index_rows(made: Made, node_id: int) -> tuple[Row, list[Row], Row]:
    """Return what the index has of a montage, made as the indexer makes it: run, tiles, montage."""
    run = run_row({"start": made.start(), "stop": made.stop()})
    run |= {"uid": made.uid, "node_id": node_id, "stamp": stamp_of(node_id, _UPDATED, 0, ()), "tags": []}
    found = RunTiles(
        made.uid, made.montage_id, made.tiles, tile_numbers(made.tiles), ByTile(made.verdicts()), {}
    )
    rows = found.rows(0, made.tiles)
    states = [row["qc_state"] for row in rows]
    counts = {name: states.count(state) for name, state in _STATES.items()}
    counts |= {"exposures": len(rows), "acquired": len(rows)}
    montage = montage_row(made.montage_id, [run], counts)
    assert montage is not None
    return run, rows, montage


_STATES: Final = {"passed": "pass", "failed": "fail", "needs_review": "needs_review", "pending": "pending"}


def _index(index: Bulk, catalog: Catalog, block: Sequence[Made], nodes: Sequence[int]) -> None:
    """Add the rows of montages to the index, but those that the server shall read."""
    found = [
        index_rows(made, node)
        for made, node in zip(block, nodes, strict=True)
        if made.number not in catalog.left
    ]
    for table, rows in (
        (runs, [run for run, _, _ in found]),
        (tiles, [row for _, some, _ in found for row in some]),
        (montages, [montage for _, _, montage in found]),
    ):
        names = [str(column.name) for column in table.c]
        index.insert(f"{SCHEMA}.{table.name}", names, ([_plain(row[name]) for name in names] for row in rows))


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


def spot_check(catalog: Catalog) -> list[str]:
    """Return in what the rows that the server made differ from those of the fast way; call it afterwards."""
    place, faults = catalog.place, []
    index: Bulk = PostgresBulk(place.database) if place.database else _file(place, "index.db")
    schema = f'"{SCHEMA}".' if place.database else ""
    with closing(index):
        for made in map(catalog.made, catalog.left):
            _, rows, montage = index_rows(made, 0)
            where = f"WHERE montage_id = '{made.montage_id}'"
            stored = index.rows(f"SELECT * FROM {schema}tiles {where} ORDER BY tile_index")
            if [_comparable(one) for one in stored] != [_comparable(one) for one in rows]:
                faults.append(f"{made.montage_id}: the rows of its tiles differ")
            found = index.rows(f"SELECT * FROM {schema}montages {where}")
            if [_comparable(one) for one in found] != [_comparable(montage)]:
                faults.append(f"{made.montage_id}: its row differs")
    return faults


def _comparable(row: Row) -> Row:
    """Return a row as both ways have it: JSON as text, booleans as numbers."""
    return {
        name: json.loads(value) if name in ("runs", "results", "access_tags") and isinstance(value, str)
        else int(value) if isinstance(value, bool) else value
        for name, value in row.items()
    }  # fmt: skip
