"""The rows of a Tiled catalog: nodes, what they are made of, their tags and history, table by table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sqlalchemy import Connection, Integer, Table, delete, func, insert, select, text
from tiled.catalog import orm
from tiled.catalog.base import Base
from tiled.graph import orm as graph  # noqa: F401  # its tables belong to the same metadata

from tiled_server.mimetypes import SQL_TABLE
from tiled_server.moving.sums import Compared, Sum, row_bytes

_PAGE: Final = 2_000
_DERIVED: Final = ("nodes_closure", "metadata_fts5")
"""Tables that the database itself keeps: by triggers, or for its text search."""

Renamed = Mapping[str, str]
"""Addresses of data that are others in the copy."""


def tables() -> list[Table]:
    """Return the tables that are copied, those first that others refer to."""
    return [table for table in Base.metadata.sorted_tables if table.name not in _DERIVED]


def table_schemas(connection: Connection) -> dict[str, dict[str, Any]]:
    """Return the structure of each table of events by the table's name, and the addresses where they lie."""
    statement = (
        select(orm.DataSource.parameters, orm.Structure.structure, orm.Asset.data_uri)
        .join(orm.Structure, orm.Structure.id == orm.DataSource.structure_id)
        .join(
            orm.DataSourceAssetAssociation, orm.DataSourceAssetAssociation.data_source_id == orm.DataSource.id
        )
        .join(orm.Asset, orm.Asset.id == orm.DataSourceAssetAssociation.asset_id)
        .where(orm.DataSource.mimetype == SQL_TABLE)
    )
    found: dict[str, dict[str, Any]] = {}
    for parameters, structure, uri in connection.execute(statement):
        one = found.setdefault(parameters["table_name"], {"structure": structure, "addresses": set()})
        one["addresses"].add(uri)
    return found


def is_fresh(connection: Connection) -> bool:
    """Return whether a catalog has nothing but its root."""
    nodes = connection.scalar(select(func.count()).select_from(orm.Node))
    sources = connection.scalar(select(func.count()).select_from(orm.DataSource))
    return nodes in (0, 1) and not sources


def copy_rows(source: Connection, target: Connection, renamed: Renamed) -> int:
    """Copy every row into a fresh catalog, within the target's transaction; return how many."""
    target.execute(delete(orm.Node.__table__))  # its own root, and the tag that comes with it
    target.execute(delete(orm.AccessTag.__table__))
    count = 0
    for table in tables():
        for page in _pages(source, table, renamed):
            target.execute(insert(table), page)
            count += len(page)
        _set_sequence(target, table)
    return count


def compare_rows(source: Connection, target: Connection, renamed: Renamed) -> list[Compared]:
    """Return for each table what both catalogs have, what the database itself keeps included."""
    found = []
    for table in [*tables(), Base.metadata.tables["nodes_closure"]]:
        here = there = Sum()
        for page in _pages(source, table, renamed):
            here = here.plus(map(row_bytes, page))
        for page in _pages(target, table, {}):
            there = there.plus(map(row_bytes, page))
        found.append(Compared(table.name, here, there))
    return found


def _pages(connection: Connection, table: Table, renamed: Renamed) -> Iterator[list[dict[str, Any]]]:
    statement = select(table)
    if table.name == orm.Node.__tablename__:  # no node before its parent
        closure = Base.metadata.tables["nodes_closure"]
        statement = statement.join(
            closure, (closure.c.descendant == table.c.id) & (closure.c.ancestor == 0), isouter=True
        ).order_by(closure.c.depth, table.c.id)
    else:
        statement = statement.order_by(*table.primary_key.columns)
    rows = connection.execution_options(yield_per=_PAGE).execute(statement)
    for page in rows.mappings().partitions(_PAGE):
        found = [dict(row) for row in page]
        if table.name == orm.Asset.__tablename__:
            for row in found:
                row["data_uri"] = renamed.get(row["data_uri"], row["data_uri"])
        yield found


def _set_sequence(target: Connection, table: Table) -> None:
    """Let new rows get numbers that none has."""
    column = table.autoincrement_column
    if column is None or not isinstance(column.type, Integer):
        return
    last = target.scalar(select(func.max(column)))
    if last:
        target.execute(
            text("SELECT setval(pg_get_serial_sequence(:table, :column), :last)"),
            {"table": table.name, "column": column.name, "last": int(last)},
        )
