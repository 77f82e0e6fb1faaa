"""A montage that a laboratory acquired, as analysts find it: its spec, and what each kind of client gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from montango.lab import Lab
from plans.specs.montage import MontageSpec
from sim.faults import inject, make_fault
from sim.world import World
from tiled_server.client import montage

if TYPE_CHECKING:
    from bluesky.run_engine import RunEngine

    from profiles.simulated.devices import Devices

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
PATIENCE_S = 180.0


@pytest.fixture(scope="module")
def acquired(lab: Lab, devices: Devices, engine: RunEngine) -> str:
    """The id of a montage of 3 x 3 tiles, one of which was out of focus and acquired again."""
    from montango.session import Session

    spec = MontageSpec(rows=3, columns=3, overlap=0.2, centre_um=(0.0, 0.0))
    metadata = {"sample": "grid 4", "proposal": "p-lab"}
    with Session(
        lab.info(), lambda _: devices, engine=engine, metadata=metadata, minimum_free_gb=0.1
    ) as session:
        world_file = lab.info().world
        assert world_file is not None
        with World.open(world_file) as world:
            inject(world, make_fault("focus_jump", at_exposure=world.exposures() + 6))
        started: list[dict[str, Any]] = []
        token = engine.subscribe(lambda _, doc: started.append(doc), "start")
        engine(session.montage(devices.sequencer, devices.camera, devices.column, devices.stage, spec))
        engine.unsubscribe(token)
        assert session.drain(PATIENCE_S)
    return str(started[0]["montage_id"])


def _client(lab: Lab, **options: Any) -> Any:
    from tiled.client import from_uri

    tiled = lab.info().tiled
    return from_uri(tiled["uri"], api_key=tiled["api_key"], **options)


@pytest.fixture
def client(lab: Lab) -> Iterator[Any]:
    made = _client(lab)
    yield made
    made.context.close()


def test_a_real_montage_as_one_thing(client: Any, acquired: str) -> None:
    m = montage(client, acquired)
    assert m.counts["asked"] == 9
    assert m.counts["acquired"] == 9
    assert len(m.tiles) == m.counts["exposures"] == 10
    assert client[m.tiles["run_uid"].iloc[0]].metadata["start"]["simulated"] is True
    twice = m.tiles[m.tiles.duplicated(["roi", "row", "column"], keep=False)]
    assert twice["attempt"].tolist() == [0, 1]
    assert twice["best"].tolist() == [False, True]
    assert twice["faults"].iloc[0] != ""
    assert m.stack().shape == (9, 256, 256)
    assert m.mosaic(0)[:64, :64].compute().shape == (64, 64)
    assert np.isfinite(m.heatmap("focus_score").to_numpy()).all()
    assert {"began", "again", "verdict", "ended", "result"} <= set(m.timeline()["what"])


def test_the_spec_of_a_montage(client: Any, lab: Lab, acquired: str) -> None:
    from bluesky_tiled_plugins.clients.bluesky_run import BlueskyRun
    from tiled.client.container import DEFAULT_STRUCTURE_CLIENT_DISPATCH

    from tiled_server.client.special import MontageRun

    uid = montage(client, acquired).runs[0].metadata["start"]["uid"]
    specs = [(spec.name, spec.version) for spec in client[uid].specs]
    assert specs == [("EMMontage", "1.0"), ("BlueskyRun", "3.0")]

    known = DEFAULT_STRUCTURE_CLIENT_DISPATCH["numpy"]
    theirs = {name: known[name] for name in known if name != "EMMontage"}
    ours = theirs | {"EMMontage": MontageRun}
    made = _client(lab, structure_clients=ours)
    run = made[uid]
    assert isinstance(run, MontageRun)
    assert run.montage.montage_id == acquired
    assert f"of {acquired}" in repr(run)
    assert run["tiles"]["image"].shape == (10, 1, 256, 256)
    made.context.close()

    made = _client(lab, structure_clients=theirs)
    run = made[uid]
    assert isinstance(run, BlueskyRun)
    assert not isinstance(run, MontageRun)
    assert run["tiles"]["image"].shape == (10, 1, 256, 256)
    names = [name for name, _ in run.documents()]
    assert (names[0], names[-1]) == ("start", "stop")
    made.context.close()
