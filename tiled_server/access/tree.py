"""The catalog's tree with access by proposal: a run gets its tags when it is written."""

from __future__ import annotations

from typing import Any, Final

from tiled.catalog import from_uri
from tiled.catalog.adapter import CatalogContainerAdapter

from tiled_server.access.tags import TagTable, tags_of

ROOT: Final = 0
"""Tiled's id of the node above all runs."""


class RunsAdapter(CatalogContainerAdapter):  # type: ignore[misc]  # Tiled is untyped
    """The catalog of all runs. What has been given no tags gets those of its start document."""

    async def create_node(
        self,
        structure_family: Any,
        metadata: Any,
        key: str | None = None,
        specs: Any = None,
        data_sources: Any = None,
        access_tags: Any = None,
    ) -> Any:
        """Add a run."""
        tags = frozenset(access_tags or ()) or tags_of(metadata or {})
        if tags:
            await TagTable(self.context.engine).ensure(tags)
        return await super().create_node(
            structure_family, metadata, key, specs=specs, data_sources=data_sources, access_tags=tags
        )

    async def tag_runs(self) -> None:
        """Give tags to the runs that were written without, before there were any."""
        await TagTable(self.context.engine).tag_runs(ROOT)


def runs_from_uri(uri: str, **options: Any) -> RunsAdapter:
    """Return the catalog of a database; options as of `tiled.catalog.from_uri`."""
    plain = from_uri(uri, **options)
    runs = RunsAdapter(plain.context, plain.node)
    runs.startup_tasks.append(runs.tag_runs)
    return runs
