"""Every exported plan takes devices first, then keyword-only arguments or one specification and md."""

from __future__ import annotations

import inspect

import pytest
from bluesky.utils import FailedStatus, Msg

from devices.errors import LimitError
from plans import montage as montage_module
from plans.find_rois import find_rois
from plans.focus import autofocus_run, autostigmate_run, focus_map_run
from plans.preprocessors import plain_errors, tolerate
from plans.realign import realign
from plans.resume import resume_montage
from plans.samples import run_samples
from plans.survey import survey

PLANS = [montage_module.montage, survey]


@pytest.mark.parametrize("plan", PLANS)
def test_signature(plan: object) -> None:
    parameters = list(inspect.signature(plan).parameters.values())  # type: ignore[arg-type]
    names = [parameter.name for parameter in parameters]
    assert names[:6] == ["sequencer", "camera", "column", "stage", "spec", "md"]
    assert parameters[5].default is None
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in parameters[6:])
    assert inspect.isgeneratorfunction(plan)
    doc = inspect.getdoc(plan) or ""
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert f"\n{section}\n---" in doc
    for name in names:
        assert name in doc


@pytest.mark.parametrize("plan", [autofocus_run, autostigmate_run, focus_map_run])
def test_signature_of_focusing(plan: object) -> None:
    parameters = list(inspect.signature(plan).parameters.values())  # type: ignore[arg-type]
    names = [parameter.name for parameter in parameters]
    assert names == ["camera", "column", "stage", "spec", "md", "calibrations"]
    assert parameters[4].default is parameters[5].default is None
    assert parameters[5].kind is inspect.Parameter.KEYWORD_ONLY
    assert inspect.isgeneratorfunction(plan)
    doc = inspect.getdoc(plan) or ""
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert f"\n{section}\n---" in doc


@pytest.mark.parametrize(
    ("plan", "first"),
    [
        (run_samples, ["loader", "sequencer", "camera", "column", "stage", "spec", "md"]),
        (resume_montage, ["sequencer", "camera", "column", "stage", "montage_id", "md"]),
        (realign, ["camera", "column", "stage", "anchor"]),
        (find_rois, ["overview"]),
    ],
)
def test_signature_of_plans_for_samples(plan: object, first: list[str]) -> None:
    parameters = list(inspect.signature(plan).parameters.values())  # type: ignore[arg-type]
    names = [parameter.name for parameter in parameters]
    assert names[: len(first)] == first
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in parameters[len(first) :])
    assert parameters[names.index("md")].default is None
    assert inspect.isgeneratorfunction(plan)
    doc = inspect.getdoc(plan) or ""
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert f"\n{section}\n---" in doc
    for name in names:
        assert name in doc


def failing(error: BaseException) -> object:
    """Return a plan that fails as the RunEngine makes plans fail."""
    yield Msg("null")
    raise error


def failed_status(cause: BaseException) -> FailedStatus:
    """Return a failed status with its cause."""
    failure = FailedStatus(object())
    failure.__cause__ = cause
    return failure


def test_a_failed_status_becomes_the_instruments_own_error() -> None:
    with pytest.raises(LimitError, match="too far"):
        list(plain_errors(failing(failed_status(LimitError("too far")))))  # type: ignore[arg-type]
    with pytest.raises(FailedStatus):
        list(plain_errors(failing(failed_status(ValueError("other")))))  # type: ignore[arg-type]


def test_clean_up_does_not_hide_why_it_was_needed(caplog: pytest.LogCaptureFixture) -> None:
    list(tolerate(failing(LimitError("too far")), "blanking the beam"))  # type: ignore[arg-type]
    assert "blanking the beam failed: too far" in caplog.text
    with pytest.raises(ZeroDivisionError):
        list(tolerate(failing(ZeroDivisionError()), "x"))  # type: ignore[arg-type]


def test_the_first_failure_wins_over_one_of_the_clean_up() -> None:
    def plan() -> object:
        yield Msg("null")
        try:
            raise failed_status(LimitError("the cause"))
        except FailedStatus:
            raise RuntimeError("while the run was closed")  # noqa: B904

    with pytest.raises(LimitError, match="the cause"):
        list(plain_errors(plan()))  # type: ignore[arg-type]
