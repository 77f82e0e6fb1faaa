"""Runs of a MongoDB by their access tags: `tiled_server.access.tags.tags_of` as a query."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from tiled_server.access.tags import PROPOSAL_KEYS

_NOTHING: Final[dict[str, Any]] = {"$in": [None, "", []]}
"""A field that is not there, or says nothing."""


def with_tags(tags: Collection[str]) -> dict[str, Any]:
    """Return what matches the start documents of runs that have one of some tags."""
    one_of = {"$in": sorted(tags)}
    unnamed = {"tiled_access_tags": _NOTHING}
    in_mapping: list[dict[str, Any]] = [
        {f"proposal.{key}": one_of} | {f"proposal.{earlier}": _NOTHING for earlier in PROPOSAL_KEYS[:at]}
        for at, key in enumerate(PROPOSAL_KEYS)
    ]
    without = {"proposal": {"$in": [None, "", {}]}, "data_session": one_of}
    return {
        "$or": [
            {"tiled_access_tags": one_of},
            *({**unnamed, **proposal} for proposal in ({"proposal": one_of}, *in_mapping)),
            {**unnamed, **without},
        ]
    }
