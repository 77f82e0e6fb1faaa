"""Which rows a caller may see: those of runs that Tiled would show them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from sqlalchemy import ColumnElement, false, select, true
from tiled.access_control.access_policies import NO_ACCESS
from tiled.queries import AccessTagsFilter
from tiled.server.authentication import (
    check_scopes,
    get_current_access_tags,
    get_current_principal,
    get_current_scopes,
)

from tiled_server.index.schema import montage_tags

READ = "read:metadata"

Tags = Collection[str] | None
"""Access tags of which a run must have one to be seen; None: every run may be seen."""


async def readable_tags(
    request: Request,
    principal: Annotated[Any, Depends(get_current_principal)],
    key_tags: Annotated[Any, Depends(get_current_access_tags)],
    scopes: Annotated[Any, Depends(get_current_scopes)],
    _: Annotated[None, Security(check_scopes, scopes=[READ])],
) -> Tags:
    """Return the tags with which the caller may read metadata; None without an access policy."""
    return await tags_of(
        request.app.state.access_policy, request.app.state.root_tree, principal, key_tags, scopes
    )


async def tags_of(policy: Any, tree: Any, principal: Any, key_tags: Any, scopes: Any) -> Tags:
    """Return the tags that an access policy lets through, as Tiled itself asks it.

    A filter of a kind that is not known here lets nothing through.
    """
    if policy is None:
        return None
    if READ not in await policy.allowed_scopes(tree, principal, key_tags, scopes):
        return ()
    filters = await policy.filters(tree, principal, key_tags, scopes, {READ})
    if filters is NO_ACCESS:
        return ()
    tags: set[str] | None = None
    for one in filters:
        allowed = set(one.tags) if isinstance(one, AccessTagsFilter) else set()
        tags = allowed if tags is None else tags & allowed
    return tags


def visible(tags: Tags, montage_id: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return the condition under which a caller may see what belongs to a montage.

    A montage is seen by those who may see all of its acquiring runs by one tag.

    Parameters
    ----------
    tags
        Of the caller, from `readable_tags`.
    montage_id
        The column that says which montage a row belongs to.
    """
    if tags is None:
        return true()
    if not tags:
        return false()
    found = select(montage_tags.c.tag).where(
        montage_tags.c.montage_id == montage_id, montage_tags.c.tag.in_(sorted(tags))
    )
    return found.exists()
