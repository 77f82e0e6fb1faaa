"""The policy as data: defaults for every kind, refused nonsense, and what verdicts become by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest
from pydantic import ValidationError

from plans.specs.grid import make_grid
from plans.specs.montage import MontageSpec
from plans.specs.policy import (
    DEVICE_FAULTS,
    MontageVerdict,
    Rule,
    RunVerdict,
    VerdictPolicy,
)
from plans.specs.view import View
from plans.stubs.acquisition import Acquisition, Item
from plans.stubs.judge import weigh
from processing.fault_kinds import FAULT_KINDS, FaultKind, Scope


@dataclass(frozen=True)
class Fault:
    """A fault as quality control names it."""

    kind: FaultKind
    scope: Scope = "transient"


@dataclass(frozen=True)
class Verdict:
    """A verdict as quality control gives it."""

    faults: tuple[Fault, ...]
    tile_index: int = 0

    @property
    def qc_state(self) -> str:
        return "fail" if self.faults else "pass"

    def as_event(self) -> dict[str, Any]:
        return {"qc_state": self.qc_state}


def acquisition(policy: VerdictPolicy, **spec: Any) -> Acquisition:
    """Return a montage in progress without instruments: deciding needs none."""
    montage = MontageSpec(rows=2, columns=2, policy=policy, **spec)
    view = View.from_nominal(100, 100, 10.0, 0.0)
    grid = make_grid(montage, view, (0.0, 0.0))
    nothing = cast("Any", None)
    return Acquisition(nothing, nothing, nothing, nothing, montage, grid, view, "m-1")


def test_every_kind_has_a_rule_and_a_line_in_the_table() -> None:
    policy = VerdictPolicy()
    table = policy.as_table()
    for kind in (*FAULT_KINDS, *DEVICE_FAULTS):
        assert policy.rule(kind).action in table
        assert f"{kind} " in table
    assert VerdictPolicy.model_validate_json(policy.model_dump_json()) == policy


@pytest.mark.parametrize(
    "action", ["reimage", "refocus", "settle", "wait_for_beam", "accept", "stop", "stop_at_end"]
)
def test_a_rule_comes_back_from_json(action: Any) -> None:
    rule = Rule(action=action)
    assert Rule.model_validate_json(rule.model_dump_json()) == rule


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"blurred": {"action": "reimage", "attempts": 0}}, ["attempts", "accept"]),
        ({"blurred": {"action": "stop", "attempts": 2}}, ["attempts", "stop"]),
        ({"blurred": {"action": "reimage", "attempts": 11}}, ["attempts", "10"]),
        ({"blured": {"action": "accept"}}, ["blured"]),
        ({"critical": "carry on"}, ["critical", "stop_at_end"]),
        ({"beam_timeout_s": 0}, ["beam_timeout_s"]),
    ],
)
def test_nonsense_is_refused_by_name(wrong: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        VerdictPolicy.model_validate(wrong)
    for name in names:
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("faults", "attempt", "tries", "state", "decision"),
    [
        ((), 0, 0, "pass", "keep"),
        ((Fault("damaged"),), 0, 0, "fail", "again: reimage"),
        ((Fault("damaged"),), 1, 1, "fail", "again: reimage"),
        ((Fault("damaged"),), 2, 2, "fail", "keep"),
        ((Fault("blurred"),), 0, 0, "fail", "again: reimage"),  # nothing says how to focus
        ((Fault("smeared"),), 0, 0, "fail", "again: settle"),
        ((Fault("damaged"), Fault("dark")), 0, 0, "fail", "again: wait_for_beam"),
        ((Fault("fold"),), 1, 1, "needs_review", "keep"),
        ((Fault("fold", "persistent"),), 1, 1, "needs_review", "keep"),
        ((Fault("damaged", "persistent"),), 2, 2, "fail", "stop at end"),
        ((Fault("dark", "critical"),), 2, 2, "fail", "stop now"),
    ],
)
def test_what_becomes_of_a_tile(
    faults: tuple[Fault, ...], attempt: int, tries: int, state: str, decision: str
) -> None:
    run = acquisition(VerdictPolicy())
    item = Item(run.grid.tiles[0], attempt)
    run.tries = {(0, fault.kind): tries for fault in faults}
    outcome = weigh(run, Verdict(faults), item)
    assert (outcome.qc_state, outcome.decision) == (state, decision)
    expected = {"stop now": RunVerdict.STOP_NOW, "stop at end": RunVerdict.STOP_AT_END}
    assert outcome.verdict.verdict == expected.get(decision, RunVerdict.GOOD)
    assert (outcome.remedy is not None) == decision.startswith("again")


def test_attempts_are_bounded_whatever_the_rule() -> None:
    run = acquisition(VerdictPolicy(damaged=Rule(action="reimage", attempts=10)), max_attempts=2)
    tile = run.grid.tiles[0]
    assert weigh(run, Verdict((Fault("damaged"),)), Item(tile, 0)).remedy == "reimage"
    assert weigh(run, Verdict((Fault("damaged"),)), Item(tile, 1)).remedy is None


def test_the_worst_verdict_stays() -> None:
    good, end = MontageVerdict(), MontageVerdict(RunVerdict.STOP_AT_END, "first")
    now = MontageVerdict(RunVerdict.STOP_NOW, "x")
    assert good.worse(end).worse(good) == end
    assert end.worse(MontageVerdict(RunVerdict.STOP_AT_END, "second")).reason == "first"
    assert end.worse(now).worse(end) == now
