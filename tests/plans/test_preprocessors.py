"""What plans are wrapped in."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import bluesky.plan_stubs as bps
import pytest
from bluesky.run_engine import RunEngine
from bluesky.utils import Msg

from devices.errors import DeviceLost
from plans.preprocessors import with_baseline


class Instrument:
    """A device that answers until it is lost."""

    name = "stage"
    parent = None
    lost = False

    def describe(self) -> dict[str, Any]:
        return {"stage-x": {"source": "test", "dtype": "number", "shape": []}}

    def read(self) -> dict[str, Any]:
        if self.lost:
            raise DeviceLost("em/stage/1 does not answer")
        return {"stage-x": {"value": 1.0, "timestamp": 0.0}}

    def describe_configuration(self) -> dict[str, Any]:
        return {}

    def read_configuration(self) -> dict[str, Any]:
        return {}


def acquired(engine: RunEngine, device: Instrument, lost: bool) -> list[tuple[str, dict[str, Any]]]:
    def plan() -> Generator[Msg, Any, None]:
        yield from bps.open_run()
        device.lost = lost
        yield from bps.close_run()

    documents: list[tuple[str, dict[str, Any]]] = []
    engine(with_baseline(plan(), [device]), lambda name, document: documents.append((name, document)))
    return documents


@pytest.mark.parametrize(("lost", "events"), [(False, 2), (True, 1)])
def test_a_run_ends_well_even_if_an_instrument_is_lost_at_its_end(
    engine: RunEngine, lost: bool, events: int
) -> None:
    documents = acquired(engine, Instrument(), lost)
    assert [name for name, _ in documents].count("event") == events
    assert documents[-1][0] == "stop"
    assert documents[-1][1]["exit_status"] == "success"
    assert documents[-1][1]["num_events"] == {"baseline": events}


def test_a_run_does_not_begin_without_its_instruments(engine: RunEngine) -> None:
    device = Instrument()
    device.lost = True
    with pytest.raises(DeviceLost):
        acquired(engine, device, False)
