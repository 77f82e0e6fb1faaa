"""What a montage does about a fault: data, shown and validated before the run. It knows no hardware."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from processing.fault_kinds import FAULT_KINDS, FaultKind, Scope

Action = Literal["reimage", "refocus", "settle", "wait_for_beam", "accept", "stop", "stop_at_end"]
Afterwards = Literal["fail", "needs_review", "stop", "stop_at_end"]
Reaction = Literal["go_on", "stop_at_end", "stop"]
DeviceFault = Literal["camera_timeout", "stage_stuck"]
DEVICE_FAULTS: tuple[DeviceFault, ...] = get_args(DeviceFault)
SPECIMEN_FAULTS: frozenset[FaultKind] = frozenset({"debris", "fold", "charging"})
"""Faults of the specimen: they reach over neighbouring tiles without the instrument being at fault."""

EXPLAINED: dict[Action, str] = {
    "reimage": "acquire the tile again",
    "refocus": "focus, then acquire the tile again",
    "settle": "acquire the tile again once the stage is measured to be still",
    "wait_for_beam": "blank, wait until the column has beam, acquire the tile again",
    "accept": "keep the tile",
    "stop": "end the montage now",
    "stop_at_end": "keep the tile, go on, and say at the end that something is wrong",
}


class RunVerdict(StrEnum):
    """What a run as a whole is: go on with the next, end after this one, or it was ended."""

    GOOD = "GOOD"
    STOP_AT_END = "STOP_AT_END"
    STOP_NOW = "STOP_NOW"


class MontageVerdict(NamedTuple):
    """The verdict on a montage and its reason in words, empty where it is good."""

    verdict: RunVerdict = RunVerdict.GOOD
    reason: str = ""

    def worse(self, other: MontageVerdict) -> MontageVerdict:
        """Return the worse of two; of equals the first."""
        order = list(RunVerdict)
        return other if order.index(other.verdict) > order.index(self.verdict) else self


GOOD = MontageVerdict()


class Rule(BaseModel):
    """What is done about one kind of fault."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Action = Field(description="what is done first")
    attempts: int = Field(
        default=2, ge=0, le=10, description="how often a tile is acquired again for it; 0 for accept and stop"
    )
    afterwards: Afterwards = Field(
        default="fail", description="what becomes of a tile that still has it after the last attempt"
    )

    @model_validator(mode="before")
    @classmethod
    def _no_attempts_where_nothing_is_repeated(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("action") in ("accept", "stop", "stop_at_end"):
            return {"attempts": 0, **data}
        return data

    @model_validator(mode="after")
    def _attempts_fit_the_action(self) -> Rule:
        again = self.action in ("reimage", "refocus", "settle", "wait_for_beam")
        if again and not self.attempts:
            raise ValueError(
                f"action = {self.action} with attempts = 0 would do nothing; give attempts of 1 to 10, or "
                f"action = accept"
            )
        if not again and self.attempts:
            raise ValueError(
                f"attempts = {self.attempts} has no meaning for action = {self.action}; leave it out"
            )
        return self

    @property
    def repeats(self) -> int:
        """How often a tile is acquired again."""
        return self.attempts if self.action in ("reimage", "refocus", "settle", "wait_for_beam") else 0


def _again(action: Action, attempts: int = 2, afterwards: Afterwards = "fail") -> Rule:
    return Rule(action=action, attempts=attempts, afterwards=afterwards)


class VerdictPolicy(BaseModel):
    """A rule a kind of fault, and what is done when many tiles have it.

    Whatever the rules say, a tile is acquired at most ``MontageSpec.max_attempts`` times.

    Examples
    --------
    >>> VerdictPolicy(fold=Rule(action="reimage", attempts=1)).rule("fold").action
    'reimage'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dark: Rule = Field(default=_again("wait_for_beam"), description="no beam, or far too little")
    saturated: Rule = Field(default=_again("reimage"), description="the sensor saturates")
    low_contrast: Rule = Field(default=_again("reimage"), description="no contrast at all")
    blurred: Rule = Field(default=_again("refocus"), description="out of focus")
    smeared: Rule = Field(default=_again("settle"), description="blurred along one direction: drift")
    astigmatic: Rule = Field(
        default=_again("refocus"), description="out of focus, and more so along one direction"
    )
    damaged: Rule = Field(default=_again("reimage"), description="lines lost or torn")
    incomplete: Rule = Field(
        default=_again("reimage"), description="the rest of the frame is constant, or of the frame before"
    )
    frozen: Rule = Field(default=_again("reimage"), description="the frame before came once more")
    debris: Rule = Field(
        default=Rule(action="accept"), description="dirt over a part of the tile: kept for review"
    )
    fold: Rule = Field(
        default=Rule(action="accept"), description="a fold of the section in the tile: kept for review"
    )
    charging: Rule = Field(
        default=_again("reimage", 2, "needs_review"), description="bright and dark bands of a charged sample"
    )
    vignetted: Rule = Field(
        default=Rule(action="accept"), description="the beam's edge lies in the field: kept for review"
    )
    unmatched: Rule = Field(
        default=Rule(action="accept"),
        description="its overlaps do not show what its neighbours show: kept for review",
    )
    misplaced: Rule = Field(
        default=Rule(action="accept"),
        description="it lies elsewhere than the stage says, by its overlaps: kept for review",
    )
    unreadable: Rule = Field(default=_again("reimage"), description="the frame cannot be read")
    camera_timeout: Rule = Field(
        default=_again("reimage", 2, "stop"), description="no frame came: the exposure is ended and repeated"
    )
    stage_stuck: Rule = Field(
        default=_again("reimage", 2, "stop"),
        description="the stage did not arrive: it is stopped and moved again",
    )
    persistent: Reaction = Field(
        default="stop_at_end",
        description="when a tile's attempts run out and its neighbours have the same fault",
    )
    critical: Reaction = Field(
        default="stop", description="the same for dark, saturated and unreadable: to go on is useless"
    )
    beam_timeout_s: float = Field(
        default=3600.0, gt=0, le=86400 * 3, description="longest wait for the beam; then the montage ends"
    )
    over_dose: Literal["stop", "skip"] = Field(
        default="stop", description="what becomes of a tile that would exceed max_dose_e_per_a2"
    )

    def rule(self, kind: FaultKind | DeviceFault) -> Rule:
        """Return the rule of a kind of fault."""
        rule: Rule = getattr(self, kind)
        return rule

    def reaction(self, kind: FaultKind, scope: Scope) -> Reaction:
        """Return what is done when a tile's attempts have run out; faults of the specimen never stop."""
        if scope == "transient" or kind in SPECIMEN_FAULTS:
            return "go_on"
        return self.critical if scope == "critical" else self.persistent

    def as_table(self) -> str:
        """Return the policy as lines of text, a kind of fault a line."""
        lines = [f"{'fault':<16}{'action':<16}{'again':>5}  then"]
        for kind in (*FAULT_KINDS, *DEVICE_FAULTS):
            rule = self.rule(kind)
            then = rule.afterwards if rule.repeats else "-"
            lines.append(f"{kind:<16}{rule.action:<16}{rule.repeats:>5}  {then}")
        lines.append(
            f"attempts used up and neighbours alike: {self.persistent}; dark, saturated, unreadable: "
            f"{self.critical}; over the dose: {self.over_dose}; beam waited for {self.beam_timeout_s:g} s"
        )
        return "\n".join(lines)
