"""Who sees which runs of a MongoDB: by the tags of their start documents, as in the catalog."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from tests.processing.documents import MontageRun
from tests.tiled_server import mongo
from tests.tiled_server.access_lab import PROVIDER, people_file

mongo.needs("mongomock_ng")

import mongomock_ng  # noqa: E402
from tiled.server.utils import filter_for_access  # noqa: E402

from tiled_server.access.policy import ProposalPolicy  # noqa: E402
from tiled_server.access.source import AccessSource  # noqa: E402
from tiled_server.mongo.tree import MongoRuns  # noqa: E402
from tiled_server.mongo.writing import write_run  # noqa: E402

READ = ["read:metadata", "read:data"]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> ProposalPolicy:
    file = tmp_path_factory.mktemp("people") / "people.yaml"
    file.write_text(yaml.safe_dump(people_file()))
    return ProposalPolicy(AccessSource(file, {"LAB_PASSWORD": "sesame"}))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, str]]:
    """The runs, and the uid of one of each proposal, and of one of none."""
    folder = tmp_path_factory.mktemp("tagged")
    database: Any = mongomock_ng.MongoClient()["runs"]
    uids = {}
    wanted: dict[str, dict[str, Any]] = {
        "p-1": {"proposal": "p-1"},
        "p-2": {"tiled_access_tags": ["p-2"]},
        "none": {},
    }
    for name, about in wanted.items():
        run = MontageRun(folder, **about)
        run.tiles([np.zeros((64, 64), np.uint16)])
        run.stop()
        write_run(database, run.documents)
        uids[name] = run.uid
    return MongoRuns.of(database, [folder]), uids


def _who(name: str) -> Any:
    return SimpleNamespace(type="user", identities=[SimpleNamespace(provider=PROVIDER, id=name)], roles=[])


def _shown(policy: ProposalPolicy, entry: Any, name: str) -> Any:
    return asyncio.run(
        filter_for_access(
            entry,
            policy,
            _who(name),
            None,
            READ,
            ["read:metadata"],
            metrics=defaultdict(lambda: defaultdict(float)),
        )
    )


def _allowed(policy: ProposalPolicy, entry: Any, name: str) -> set[str]:
    found: set[str] = asyncio.run(policy.allowed_scopes(entry, _who(name), None, READ))
    return found


@pytest.mark.parametrize(
    ("name", "sees"),
    [("sam", {"p-1"}), ("tess", {"p-2"}), ("stan", {"p-1", "p-2", "none"}), ("stranger", set())],
)
def test_a_scientist_sees_the_runs_of_their_proposals(
    name: str, sees: set[str], policy: ProposalPolicy, runs: tuple[Any, dict[str, str]]
) -> None:
    everything, uids = runs
    shown = _shown(policy, everything, name)
    assert set(shown) == {uids[one] for one in sees}
    assert len(shown) == len(sees)
    for one, uid in uids.items():
        assert (uid in set(shown)) == (one in sees)
        # what is in a run is asked for one by one
        run = everything[uid]
        stream = run["tiles"]
        for node in (run, stream, stream["data"], stream["data"]["image"]):
            assert bool(_allowed(policy, node, name)) == (one in sees)
        if one in sees:
            assert set(_shown(policy, run, name)) == {"tiles"}
            assert "image" in _shown(policy, stream["data"], name).keys()  # noqa: SIM118
        else:
            with pytest.raises(KeyError):
                shown[uid]
