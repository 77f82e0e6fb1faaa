"""From verdicts on tiles to what is done about them: the policy at work, written into stream ``qc``."""

from __future__ import annotations

import logging
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from bluesky.utils import Msg

from plans.specs.policy import GOOD, Action, MontageVerdict, Rule, RunVerdict
from plans.stubs.acquisition import Acquisition, Decision, Item
from plans.verdicts import FAIL, PASS, REVIEW, Fault, Verdict, save_event

logger = logging.getLogger(__name__)

STRENGTH: tuple[Action, ...] = (
    "stop", "wait_for_beam", "refocus", "settle", "reimage", "stop_at_end", "accept",
)  # fmt: skip
"""Of several faults of a tile the action further to the left is taken."""


@dataclass(frozen=True)
class Outcome:
    """What the policy says: the tile's state, what is done (in words), and the action of another attempt."""

    qc_state: str
    decision: str
    reason: str
    remedy: Action | None = None
    verdict: MontageVerdict = GOOD


def forget_verdicts(run: Acquisition) -> None:
    """Drop what is left of an earlier run that was aborted."""
    if run.verdicts is not None:
        run.verdicts.take()


def save_verdicts(run: Acquisition) -> Generator[Msg, Any, None]:
    """Decide on the verdicts that came, write verdict and decision into stream ``qc``."""
    if run.verdicts is None:
        return
    for verdict in run.verdicts.take():
        if verdict.tile_index < len(run.exposed):  # else of an earlier run
            yield from _decide(run, verdict)


def _decide(run: Acquisition, verdict: Verdict) -> Generator[Msg, Any, None]:
    run.judged.add(verdict.tile_index)
    item = run.exposed[verdict.tile_index]
    raster = item.tile.raster_index
    if item.attempt != run.attempts.get(raster, 0):
        # an earlier attempt, judged anew when a later one is under way already
        outcome = Outcome(verdict.qc_state, "superseded", "a later attempt was decided on")
        yield from save_event(run.qc, event_of(verdict.as_event(), outcome))
        return
    outcome = weigh(run, verdict, item)
    event = event_of(verdict.as_event(), outcome)
    yield from save_event(run.qc, event)
    run.newest = run.decisions[raster] = Decision(verdict.tile_index, outcome.qc_state, event)
    run.spoil(outcome.verdict)
    if outcome.verdict.verdict == RunVerdict.STOP_NOW:
        run.ending = outcome.verdict.reason
    if outcome.remedy is not None:
        again(run, item, outcome.remedy, {fault.kind for fault in verdict.faults})
        logger.info("tile %s: %s (%s)", describe(item), outcome.decision, outcome.reason)
    elif outcome.qc_state != PASS:
        logger.warning("tile %s: %s (%s)", describe(item), outcome.decision, outcome.reason)
    _urgent(run, verdict, outcome, item)


def weigh(run: Acquisition, verdict: Verdict, item: Item) -> Outcome:
    """Return what the policy says about a tile."""
    if verdict.qc_state == PASS:
        return Outcome(PASS, "keep", "")
    policy, raster = run.spec.policy, item.tile.raster_index
    ranked = sorted(verdict.faults, key=lambda fault: STRENGTH.index(policy.rule(fault.kind).action))
    fault = ranked[0]
    rule, kinds = policy.rule(fault.kind), ", ".join(fault.kind for fault in ranked)
    made = run.tries.get((raster, fault.kind), 0)
    if rule.action == "stop":
        return _ended(kinds, item, RunVerdict.STOP_NOW)
    if made < rule.repeats and item.attempt + 1 < run.spec.max_attempts:
        remedy: Action = rule.action
        if remedy == "refocus" and not run.repeatable:
            remedy = "reimage"
        return Outcome(FAIL, f"again: {remedy}", f"{kinds}, attempt {item.attempt + 1}", remedy)
    return _given_up(run, item, fault, rule, kinds)


def _given_up(run: Acquisition, item: Item, fault: Fault, rule: Rule, kinds: str) -> Outcome:
    """Return what becomes of a tile that is not acquired again."""
    reason = f"{kinds} after {item.attempt + 1} attempts"
    if rule.action == "accept":
        return Outcome(REVIEW, "keep", f"{kinds}: accepted by the policy")
    afterwards = "stop_at_end" if rule.action == "stop_at_end" else rule.afterwards
    reaction = run.spec.policy.reaction(fault.kind, fault.scope)
    if afterwards == "stop" or reaction == "stop":
        return _ended(f"{fault.scope} {kinds}", item, RunVerdict.STOP_NOW)
    if afterwards == "stop_at_end" or reaction == "stop_at_end":
        return _ended(f"{fault.scope} {kinds}", item, RunVerdict.STOP_AT_END)
    return Outcome(REVIEW if afterwards == "needs_review" else FAIL, "keep", reason)


def _ended(what: str, item: Item, verdict: RunVerdict) -> Outcome:
    reason = f"{what} at tile {describe(item)} after {item.attempt + 1} attempts"
    words = "stop now" if verdict == RunVerdict.STOP_NOW else "stop at end"
    return Outcome(FAIL, words, reason, verdict=MontageVerdict(verdict, reason))


def again(
    run: Acquisition, item: Item, remedy: Action, kinds: set[Any] | frozenset[Any] = frozenset()
) -> None:
    """Note a tile to be acquired again."""
    raster = item.tile.raster_index
    for kind in kinds:
        run.tries[raster, kind] = run.tries.get((raster, kind), 0) + 1
    run.attempts[raster] = item.attempt + 1
    run.again.append(Item(item.tile, item.attempt + 1, remedy))


def _urgent(run: Acquisition, verdict: Verdict, outcome: Outcome, item: Item) -> None:
    """Ask for what cannot wait for the end of the region: the beam, and focus that many tiles miss."""
    if outcome.remedy == "wait_for_beam":
        run.beam_doubted = f"tile {describe(item)} is dark"
    spread = any(fault.scope != "transient" for fault in verdict.faults)
    if outcome.remedy == "refocus" and spread:
        run.focus_wanted = f"tile {describe(item)} and its neighbours are out of focus"


def event_of(event: Any, outcome: Outcome) -> dict[str, Any]:
    """Return the data of a ``qc`` event: the verdict and what was decided."""
    return {
        **event,
        "qc_state": outcome.qc_state,
        "qc_decision": outcome.decision,
        "qc_reason": outcome.reason,
    }


def overrule(run: Acquisition, accept: bool) -> Generator[Msg, Any, None]:
    """Let the operator decide about the tile judged last: accept it, or acquire it again."""
    newest = run.newest
    if newest is None:
        logger.warning("no tile has been judged yet: there is nothing to %s", "accept" if accept else "retry")
        return
    item = run.exposed[newest.index]
    raster = item.tile.raster_index
    if accept:
        run.again = [one for one in run.again if one.tile.raster_index != raster]
        run.attempts[raster] = item.attempt
        outcome = Outcome(PASS, "accepted by the operator", newest.event["qc_reason"])
    elif run.attempts.get(raster, 0) > item.attempt:
        return  # it is to be acquired again anyway
    else:
        again(run, item, "reimage")
        outcome = Outcome(newest.qc_state, "again: asked by the operator", newest.event["qc_reason"])
    event = event_of(newest.event, outcome)
    run.newest = run.decisions[raster] = Decision(newest.index, outcome.qc_state, event)
    yield from save_event(run.qc, event)


def describe(item: Item) -> str:
    """Return where a tile is, for people."""
    return f"(roi {item.tile.roi}, row {item.tile.row}, column {item.tile.column})"
