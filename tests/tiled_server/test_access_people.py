"""The file of people: what is right, what is said of what is wrong, what follows; it is read again."""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from devices.errors import ConfigurationError
from tests.tiled_server.access_lab import people_file
from tiled_server.access.people import People, load
from tiled_server.access.roles import FILES, NOTES, SCOPES, Role
from tiled_server.access.rules import ANONYMOUS, Rules, Who
from tiled_server.access.source import AccessSource
from tiled_server.configuration import from_environment

ENVIRONMENT = {"LAB_PASSWORD": "secret", "TILED_SINGLE_USER_API_KEY": "ab" * 24}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "people.yaml"
    path.write_text(yaml.safe_dump(people_file(**changes)))
    return path


def read(folder: Path, **changes: Any) -> People:
    return load(write(folder, **changes), ENVIRONMENT)


def test_a_file_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, proposals={7: {"members": ["sam"], "public": True, "embargo_until": "2027-05-01"}})
    assert found.people["sam"].role is Role.SCIENTIST
    assert found.provider_of("sam") == "lab"
    assert found.proposals["7"].embargo_until == datetime(2027, 5, 1, tzinfo=UTC)
    (provider,) = found.authentication.providers
    assert provider.class_name == "tiled.authenticators:DictionaryAuthenticator"
    assert provider.args["users_to_passwords"]["sam"] == "secret"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"people": {"sam": "boss"}}, r"people\.sam\.role = 'boss'.*observer"),
        ({"people": {"sam": "service"}}, r"people\.sam\.role = 'service': service is no role of a person"),
        ({"people": {"sam": {"role": "staff", "x": 1}}}, r"people\.sam\.x is no key"),
        ({"proposals": {"p": {"members": ["joan"]}}}, r"proposals\.p\.members: 'joan' is not among people"),
        ({"proposals": {"p": {"embargo_until": "2027-01-01"}}}, r"proposals\.p.*set public: true"),
        ({"proposals": {"p": {"public": True, "embargo_until": "soon"}}}, r"embargo_until = 'soon'"),
        ({"proposals": {"public": {}}}, r"'public' cannot be a name of a proposal"),
        ({"proposals": {"p": {"sessions": ["user:x"]}}}, r"'user:x' cannot be a name"),
        ({"proposals": {"p": {"sessions": ["s"]}, "s": {}}}, r"'s' is a name of proposal 'p' already"),
        ({"authentication": {"providers": []}}, r"authentication\.providers"),
        ({"others": "all"}, r"others = 'all'"),
        ({"staff": []}, "staff is no key"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        read(tmp_path, **changes)
    assert "people.yaml" in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="give its path with --access"):
        load(tmp_path / "none.yaml", {})
    path = tmp_path / "people.yaml"
    path.write_text("a: [")
    with pytest.raises(ConfigurationError, match=r"people\.yaml, line 1: not YAML"):
        load(path, {})
    path.write_text("")
    with pytest.raises(ConfigurationError, match="empty or no mapping"):
        load(path, {})


def test_passwords_in_clear_are_for_the_owner_of_the_file_alone(tmp_path: Path) -> None:
    args = {"users_to_passwords": {"sam": "xyzzy"}}
    provider = {"name": "lab", "authenticator": "dictionary", "args": args}
    path = write(tmp_path, authentication={"providers": [provider]})
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match=r"users_to_passwords\.sam is in clear.*mode 640") as caught:
        load(path, {})
    assert "xyzzy" not in str(caught.value)
    path.chmod(0o600)
    assert load(path, {}).authentication.providers[0].args == args


def test_a_variable_that_is_not_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="variable LAB_PASSWORD, which is not set"):
        load(write(tmp_path), {})


def test_each_of_several_providers_has_its_people(tmp_path: Path) -> None:
    providers = [
        {"name": "site", "authenticator": "oidc", "args": {"client_secret": "${LAB_PASSWORD}"}},
        {"name": "lab", "authenticator": "dictionary", "args": {"users_to_passwords": {}}},
    ]
    both = {"providers": providers}
    with pytest.raises(ConfigurationError, match=r"people\.sam\.provider is missing.*site, lab"):
        read(tmp_path, authentication=both, people={"sam": "staff"}, proposals={})
    people = {"sam": {"role": "staff", "provider": "lab"}}
    rules = Rules(read(tmp_path, authentication=both, people=people, proposals={}))
    assert rules.who([("lab", "sam")]).role is Role.STAFF
    assert rules.who([("site", "sam")]).role is None


def test_rules(tmp_path: Path) -> None:
    now = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    proposals = {
        "p-1": {"members": ["sam"], "sessions": ["s-1"]},
        "p-2": {"members": ["tess"], "public": True},
        "p-3": {"public": True, "embargo_until": "2027-01-02"},
    }
    clock = [now]
    rules = Rules(read(tmp_path, proposals=proposals), lambda: clock[0])
    sam, opal = rules.who([("lab", "sam")]), rules.who([("lab", "opal")])
    assert rules.readable_tags(sam) == {"p-1", "s-1", "p-2"}
    assert rules.own_tags(sam) == {"p-1", "s-1"}
    assert rules.readable_tags(ANONYMOUS) == {"p-2"}
    assert (rules.sees_all(sam), rules.sees_all(opal)) == (False, True)
    clock[0] += 86400  # the embargo ends by itself
    assert "p-3" in rules.readable_tags(sam)
    stranger = rules.who([("lab", "stranger")])
    assert stranger.role is None
    assert not rules.scopes(stranger) | rules.readable_tags(stranger)
    shown = Rules(read(tmp_path, proposals=proposals, others="observer"), lambda: clock[0])
    assert shown.readable_tags(shown.who([("lab", "stranger")])) == {"p-2", "p-3"}
    assert rules.service("u", ["service"]) == Who(Role.SERVICE, "", "service u")
    assert rules.service("u", ["user"]).role is None


def test_roles_may_no_more_than_they_should() -> None:
    raw = {"write:metadata", "write:data", "create:node", "register", "delete:node", "delete:revision"}
    for role in (Role.OBSERVER, Role.SCIENTIST, Role.OPERATOR):
        assert not SCOPES[role] & raw
    assert {NOTES, FILES} <= SCOPES[Role.SCIENTIST]
    assert not {NOTES, FILES} & SCOPES[Role.OBSERVER]
    assert not {one for one in SCOPES[Role.SERVICE] if "apikeys" in one or "principals" in one}
    # Tiled's column of a role's scopes
    assert max(len(str(sorted(scopes))) for scopes in SCOPES.values()) < 511


def test_a_change_counts_and_a_mistake_does_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(change(tmp_path, caplog))


async def change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path)
    source = AccessSource(path, ENVIRONMENT, every_s=0.005)
    taken: list[People] = []

    async def changed(people: People) -> None:
        taken.append(people)
        if len(taken) == 1:
            raise OSError("the database is away")

    await source.start(changed)
    try:
        fresh = tmp_path / "new.yaml"
        fresh.write_text(yaml.safe_dump(people_file(people={"sam": "staff"}, proposals={})))
        fresh.rename(path)
        async with asyncio.timeout(30):
            while len(taken) < 2:  # it is tried again
                await asyncio.sleep(0.005)
        assert source.rules.who([("lab", "sam")]).role is Role.STAFF
        with caplog.at_level(logging.ERROR):
            path.write_text("people: [")
            os.utime(path, ns=(1, 1))
            async with asyncio.timeout(30):
                while "still hold" not in caplog.text:
                    await asyncio.sleep(0.005)
        assert source.rules.who([("lab", "sam")]).role is Role.STAFF
    finally:
        await source.stop()


def test_the_key_of_a_service_is_one_that_can_be_kept(tmp_path: Path) -> None:
    path = write(tmp_path)
    environment = ENVIRONMENT | {"MONTANGO_TILED_ACCESS": str(path)}
    server = from_environment(tmp_path, [], environment=environment)
    assert server.describe_access() == f"several users: 5 people, 2 proposals, from {path}"
    assert server.tiled_config()["authentication"]["secret_keys"] == [server.secret]
    assert (server.folder / "secret").stat().st_mode & 0o777 == 0o600
    for key in ("abc", "AB" * 24, "ab" * 15):
        with pytest.raises(ConfigurationError, match="openssl rand -hex 32"):
            from_environment(tmp_path, [], environment=environment | {"TILED_SINGLE_USER_API_KEY": key})
    alone = from_environment(tmp_path, [], environment={"TILED_SINGLE_USER_API_KEY": "abc"})
    assert alone.describe_access().startswith("single user")
