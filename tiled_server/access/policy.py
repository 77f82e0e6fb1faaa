"""What Tiled asks of each request: which runs are shown, and what may be done with a node.

The tags of a run hold for everything in it: a node below a run is reached through the run, which was shown.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from tiled.access_control.access_policies import ALL_ACCESS, NO_ACCESS
from tiled.access_control.protocols import AccessPolicy, normalize_access_tags
from tiled.queries import AccessTagsFilter

from tiled_server.access.roles import READ, WITHOUT_PROPOSAL
from tiled_server.access.rules import Rules, Who
from tiled_server.access.source import AccessSource
from tiled_server.access.tags import usable
from tiled_server.access.tree import ROOT

_CLOSED: Final = ("databroker",)
"""Packages whose nodes know no tags: they are for those who see every run."""

Tags = frozenset[str]


class ProposalPolicy(AccessPolicy):  # type: ignore[misc]  # Tiled is untyped
    """Access by proposals.

    Parameters
    ----------
    source
        People and proposals.
    """

    def __init__(self, source: AccessSource) -> None:
        self._source = source

    @property
    def rules(self) -> Rules:
        """What the file says now."""
        return self._source.rules

    async def init_node(
        self, principal: Any, authn_access_tags: Any, authn_scopes: Any, access_tags: Any = None
    ) -> tuple[bool, Tags]:
        """Return whether the tags of a new node are others than asked for, and the tags.

        Raises
        ------
        ValueError
            The key is only for other tags.
        """
        asked = normalize_access_tags(access_tags or ())
        tags = usable(asked)
        if authn_access_tags is not None and not (tags and tags <= set(authn_access_tags)):
            raise ValueError(f"This key is for runs with the tags {sorted(authn_access_tags)} only.")
        return tags != asked, tags

    async def modify_node(
        self, node: Any, principal: Any, authn_access_tags: Any, authn_scopes: Any, access_tags: Any
    ) -> tuple[bool, Tags]:
        """Return whether the tags are others than asked for, and the tags; none asked for: no change.

        Raises
        ------
        ValueError
            The key is only for other tags, or a tag cannot be one.
        """
        asked = normalize_access_tags(access_tags or ())
        if not asked or asked == node.access_tags:
            return False, node.access_tags
        if usable(asked) != asked:
            raise ValueError(f"One of {sorted(asked)} cannot be an access tag.")
        if authn_access_tags is not None and not asked <= set(authn_access_tags):
            raise ValueError(f"This key is for runs with the tags {sorted(authn_access_tags)} only.")
        return False, asked

    async def allowed_scopes(
        self, node: Any, principal: Any, authn_access_tags: Any, authn_scopes: Any
    ) -> set[str]:
        """Return what may be done with a node."""
        who = self.rules.principal(principal)
        given = _names(authn_scopes)
        all_of_it = self.rules.sees_all(who) and authn_access_tags is None
        if not hasattr(node, "access_tags"):
            return given if all_of_it or not _closed(node) else set()
        if all_of_it or _is_root(node) or _is_below_run(node):
            return given
        tags = set(node.access_tags)
        if authn_access_tags is not None:
            tags &= set(authn_access_tags)
        if self.rules.sees_all(who) or tags & self.rules.own_tags(who):
            return given if tags else set()
        return given & WITHOUT_PROPOSAL if tags & self.rules.readable_tags(who) else set()

    async def filters(
        self, node: Any, principal: Any, authn_access_tags: Any, authn_scopes: Any, scopes: Any
    ) -> Any:
        """Return what the nodes in a node must have to be shown."""
        if not _names(scopes) <= _names(authn_scopes):
            return NO_ACCESS
        who = self.rules.principal(principal)
        if self.rules.sees_all(who) and authn_access_tags is None:
            return ALL_ACCESS
        if not hasattr(node, "access_tags"):
            return NO_ACCESS if _closed(node) else ALL_ACCESS
        if not _is_root(node) and not _is_bare(node):
            # what is in a run is as the run, which says itself whether it is shown
            shown = await self.allowed_scopes(node, principal, authn_access_tags, authn_scopes)
            return ALL_ACCESS if _names(scopes) <= shown else NO_ACCESS
        tags = self.visible_tags(who, authn_access_tags, scopes)
        return [AccessTagsFilter(tags)]

    def visible_tags(self, who: Who, key_tags: Collection[str] | None, scopes: Collection[str]) -> Tags:
        """Return the tags of which a run must have one.

        Parameters
        ----------
        who
            Who asks.
        key_tags
            Those that their key is for; None: any.
        scopes
            What they want to do.
        """
        reading = _names(scopes) <= READ
        tags = self.rules.readable_tags(who) if reading else self.rules.own_tags(who)
        if key_tags is None:
            return tags
        return normalize_access_tags(key_tags) if self.rules.sees_all(who) else tags & set(key_tags)


class KeyPolicy(AccessPolicy):  # type: ignore[misc]  # Tiled is untyped
    """Access by the one key: everything with it, nothing without.

    Tiled 0.2.20 asks for no key at its Zarr routes and in its graph, unless there is a policy.
    """

    async def init_node(
        self, principal: Any, authn_access_tags: Any, authn_scopes: Any, access_tags: Any = None
    ) -> tuple[bool, Tags]:
        """Return no tags: there is nobody to tell apart."""
        return bool(access_tags), frozenset()

    async def modify_node(
        self, node: Any, principal: Any, authn_access_tags: Any, authn_scopes: Any, access_tags: Any
    ) -> tuple[bool, Tags]:
        """Return the tags that a node has already."""
        return access_tags != node.access_tags, node.access_tags

    async def allowed_scopes(
        self, node: Any, principal: Any, authn_access_tags: Any, authn_scopes: Any
    ) -> set[str]:
        """Return what the key allows."""
        return _names(authn_scopes)

    async def filters(
        self, node: Any, principal: Any, authn_access_tags: Any, authn_scopes: Any, scopes: Any
    ) -> Any:
        """Return that everything is shown with the key, and nothing without."""
        return ALL_ACCESS if _names(scopes) <= _names(authn_scopes) else NO_ACCESS


def _names(scopes: Collection[Any]) -> set[str]:
    return {str(getattr(one, "value", one)) for one in scopes}


def _is_root(node: Any) -> bool:
    """Return whether a node is the one above all runs."""
    inner = getattr(node, "node", None)
    return inner is not None and getattr(inner, "parent", ROOT) is None


def _is_bare(node: Any) -> bool:
    """Return whether a node is but its tags, as those of Tiled's graph."""
    return not hasattr(node, "metadata")


def _is_below_run(node: Any) -> bool:
    inner = getattr(node, "node", None)
    return inner is not None and getattr(inner, "parent", ROOT) not in (None, ROOT)


def _closed(node: Any) -> bool:
    return type(node).__module__.partition(".")[0] in _CLOSED
