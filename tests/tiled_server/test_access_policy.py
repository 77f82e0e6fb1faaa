"""What the access policies answer Tiled, asked as Tiled asks them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import yaml
from tiled.access_control.access_policies import ALL_ACCESS, NO_ACCESS
from tiled.queries import AccessTagsFilter
from tiled.server.schemas import Identity, Principal, Role

from tests.tiled_server.access_lab import people_file
from tiled_server.access.policy import KeyPolicy, ProposalPolicy
from tiled_server.access.roles import SCOPES
from tiled_server.access.roles import Role as Kind
from tiled_server.access.source import AccessSource

READ = {"read:metadata"}
PROPOSALS = {"p-1": {"members": ["sam"]}, "p-2": {"members": ["tess"]}, "p-3": {"public": True}}
ROOT = SimpleNamespace(access_tags=frozenset(), node=SimpleNamespace(parent=None), metadata=dict)
BELOW = SimpleNamespace(access_tags=frozenset({"p-2"}), node=SimpleNamespace(parent=7), metadata=dict)
INSIDE_A_FILE = SimpleNamespace(metadata=dict)


def now(answer: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(answer)


def run_of(*tags: str) -> Any:
    return SimpleNamespace(access_tags=frozenset(tags), node=SimpleNamespace(parent=0), metadata=dict)


def user(name: str) -> Principal:
    return Principal(uuid=uuid4(), type="user", identities=[Identity(id=name, provider="lab")])


SERVICE = Principal(uuid=uuid4(), type="service", roles=[Role(name="service", scopes=[])])


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> ProposalPolicy:
    path = tmp_path_factory.mktemp("people") / "people.yaml"
    path.write_text(yaml.safe_dump(people_file(proposals=PROPOSALS)))
    return ProposalPolicy(AccessSource(path, {"LAB_PASSWORD": "x"}))


@pytest.mark.parametrize(
    ("principal", "key_tags", "shown"),
    [
        (user("sam"), None, {"p-1", "p-3"}),
        (user("sam"), frozenset({"p-1", "p-2"}), {"p-1"}),
        (user("opal"), None, None),
        (user("opal"), frozenset({"p-2"}), {"p-2"}),
        (SERVICE, None, None),
        (user("stranger"), None, set()),
        (None, None, {"p-3"}),
    ],
)
def test_what_is_shown(policy: ProposalPolicy, principal: Any, key_tags: Any, shown: Any) -> None:
    found = now(policy.filters(ROOT, principal, key_tags, READ, READ))
    if shown is None:
        assert found == ALL_ACCESS
    else:
        (one,) = found
        assert isinstance(one, AccessTagsFilter)
        assert set(one.tags) == shown


def test_a_key_without_the_scope_is_shown_nothing(policy: ProposalPolicy) -> None:
    for principal in (user("sam"), user("stan"), SERVICE):
        assert now(policy.filters(ROOT, principal, None, READ, {"read:data"})) is NO_ACCESS


@pytest.mark.parametrize(
    ("name", "tags", "allowed"),
    [
        ("sam", {"p-1"}, SCOPES[Kind.SCIENTIST]),
        ("sam", {"p-1", "p-2"}, SCOPES[Kind.SCIENTIST]),
        ("sam", {"p-2"}, set()),
        ("sam", {"p-3"}, {"read:metadata", "read:data", "read:files"}),
        ("sam", set(), set()),
        ("stan", set(), SCOPES[Kind.STAFF]),
        ("opal", {"p-2"}, SCOPES[Kind.OPERATOR]),
        ("stranger", {"p-3"}, set()),
    ],
)
def test_what_may_be_done_with_a_run(policy: ProposalPolicy, name: str, tags: set[str], allowed: Any) -> None:
    who = policy.rules.principal(user(name))
    given = policy.rules.scopes(who)
    assert now(policy.allowed_scopes(run_of(*tags), user(name), None, given)) == set(allowed)
    # no more than the key is for
    some = given & READ
    assert now(policy.allowed_scopes(run_of(*tags), user(name), None, some)) == set(allowed) & some


def test_what_is_in_a_run_is_as_the_run(policy: ProposalPolicy) -> None:
    sam = user("sam")
    for node in (BELOW, INSIDE_A_FILE):
        assert now(policy.allowed_scopes(node, sam, None, READ)) == READ
        assert now(policy.filters(node, sam, None, READ, READ)) == ALL_ACCESS
    assert now(policy.filters(run_of("p-2"), sam, None, READ, READ)) is NO_ACCESS
    assert now(policy.filters(run_of("p-1"), sam, None, READ, READ)) == ALL_ACCESS


def test_tags_of_new_nodes(policy: ProposalPolicy) -> None:
    def made(key_tags: Any, asked: Any) -> Any:
        return now(policy.init_node(SERVICE, key_tags, SCOPES[Kind.SERVICE], access_tags=asked))

    assert made(None, None) == (False, frozenset())
    assert made(None, ["p-1"]) == (False, {"p-1"})
    assert made(None, ["p-1", "user:sam", "public"]) == (True, {"p-1"})
    assert made(frozenset({"p-1"}), ["p-1"]) == (False, {"p-1"})
    for asked in (None, ["p-2"], ["p-1", "p-2"]):
        with pytest.raises(ValueError, match=r"only"):
            made(frozenset({"p-1"}), asked)


def test_tags_that_are_changed(policy: ProposalPolicy) -> None:
    def changed(key_tags: Any, asked: Any) -> Any:
        return now(policy.modify_node(run_of("p-1"), user("stan"), key_tags, SCOPES[Kind.STAFF], asked))

    for nothing in (None, [], ["p-1"]):
        assert changed(None, nothing) == (False, {"p-1"})
    assert changed(None, ["p-2"]) == (False, {"p-2"})
    with pytest.raises(ValueError, match="cannot be an access tag"):
        changed(None, ["service:x"])
    with pytest.raises(ValueError, match="only"):
        changed(frozenset({"p-1"}), ["p-2"])


def test_one_key_opens_everything_and_none_nothing() -> None:
    policy = KeyPolicy()
    every = {"read:metadata", "write:metadata"}
    assert now(policy.allowed_scopes(run_of(), None, None, every)) == every
    assert now(policy.allowed_scopes(run_of(), None, None, set())) == set()
    assert now(policy.filters(ROOT, None, None, every, READ)) == ALL_ACCESS
    assert now(policy.filters(ROOT, None, None, set(), READ)) is NO_ACCESS
    assert now(policy.init_node(None, None, every, access_tags=["p-1"])) == (True, frozenset())
    assert now(policy.modify_node(run_of("a"), None, None, every, frozenset({"b"}))) == (True, {"a"})
