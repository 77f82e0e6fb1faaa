"""Lists of samples: what they say, how they are read, and that each mistake is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from devices.errors import ConfigurationError
from plans.specs.samples import Sample, SampleList, SampleRoi, SurveySpec, load_samples

SQUARE = [[0, 0], [20, 0], [20, 20], [0, 20]]


def listed(**changes: Any) -> dict[str, Any]:
    """Return a list of two samples, one with given ROIs, one to be surveyed, with changes."""
    data: dict[str, Any] = {
        "name": "brain 7",
        "montage": {"overlap": 0.1, "rows": 3, "columns": 4, "exposure_time_s": 0.2},
        "survey": {"magnification": 200, "montage": {"rows": 2, "columns": 2}},
        "samples": [
            {
                "slot": 1,
                "name": "a",
                "barcode": "B1",
                "montage": {"settle_s": 0.3},
                "rois": [
                    {"name": "cortex", "polygon_um": SQUARE, "dilation_um": 2.0, "montage": {"overlap": 0.2}},
                    {"name": "spot", "centre_um": [5, 6]},
                ],
            },
            {"slot": 2, "name": "b"},
        ],
    }
    return data | changes


def test_a_rois_montage_is_the_lists_the_samples_and_its_own() -> None:
    spec = SampleList.model_validate(listed())
    sample = spec.samples[0]
    cortex = spec.montage_spec(sample, sample.rois[0])
    assert (cortex.exposure_time_s, cortex.settle_s, cortex.overlap) == (0.2, 0.3, 0.2)
    assert cortex.rows is None
    assert cortex.rois[0].name == "cortex"
    assert cortex.rois[0].shape().area > 400
    spot = spec.montage_spec(sample, sample.rois[1])
    assert (spot.rows, spot.columns, spot.centre_um, spot.overlap) == (3, 4, (5, 6), 0.1)


def test_the_surveys_montage_accepts_what_does_not_hide_a_section() -> None:
    spec = SurveySpec(magnification=200).spec()
    assert (spec.magnification, spec.tiles) == (200, 9)
    assert spec.policy.fold.action == "accept"
    assert spec.policy.critical == "go_on"
    own = SurveySpec(magnification=200, montage={"rows": 1, "columns": 1, "policy": {}}).spec()
    assert own.policy.blurred.action == "refocus"


def test_json_and_yaml_round_trip(tmp_path: Path) -> None:
    spec = SampleList.model_validate(listed())
    assert SampleList.model_validate_json(spec.model_dump_json()) == spec
    for name, text in (("a.json", json.dumps(listed())), ("a.yaml", yaml.safe_dump(listed()))):
        (tmp_path / name).write_text(text)
        assert load_samples(tmp_path / name) == spec


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"montage": {"overlap": 1.0, "rows": 1, "columns": 1}}, ["overlap", "'a'", "spot"]),
        ({"montage": {"overlapp": 0.1}}, ["overlapp", "'a'"]),
        ({"survey": None}, ["'b'", "neither rois nor a survey"]),
        ({"survey": {"magnification": 5}}, ["survey.magnification", "20"]),
        ({"survey": {"magnification": 200, "montage": {"rows": 0, "columns": 2}}}, ["survey", "rows"]),
        ({"samples": []}, ["samples"]),
        ({"samples": [{"slot": 0, "name": "a"}]}, ["slot", "0"]),
        ({"samples": [{"slot": 1, "name": "a"}, {"slot": 2, "name": "a"}]}, ["several", "'a'"]),
        ({"polcy": {}}, ["polcy"]),
        ({"policy": {"on_load_failure": "retry"}}, ["on_load_failure", "skip", "stop"]),
    ],
)
def test_each_mistake_is_one_readable_line(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump(listed(**changes)))
    with pytest.raises(ConfigurationError) as caught:
        load_samples(path)
    text = str(caught.value)
    assert "\n" not in text
    for word in [*words, str(path)]:
        assert word in text


@pytest.mark.parametrize(
    ("roi", "words"),
    [
        ({"name": "r"}, "needs polygon_um or centre_um"),
        ({"name": "r", "centre_um": [0, 0], "polygon_um": SQUARE}, "one of the two"),
        ({"name": "r", "polygon_um": SQUARE[:2]}, "has 2 corners"),
    ],
)
def test_a_roi_has_one_place(roi: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SampleRoi.model_validate(roi)


def test_a_roi_that_crosses_itself_is_refused() -> None:
    bow = [[0, 0], [20, 20], [20, 0], [0, 20]]
    samples = [{"slot": 1, "name": "a", "rois": [{"name": "bow", "polygon_um": bow}]}]
    with pytest.raises(ValidationError, match="bow"):
        SampleList.model_validate(listed(samples=samples))


def test_rois_of_a_sample_have_names_of_their_own() -> None:
    with pytest.raises(ValidationError, match="several ROIs of the name 'x'"):
        Sample.model_validate(
            {"slot": 1, "name": "a", "rois": [{"name": "x", "centre_um": [0, k]} for k in (0, 1)]}
        )


def test_realigning_needs_a_survey() -> None:
    samples = [{"slot": 1, "name": "a", "rois": [{"name": "x", "centre_um": [0, 0]}]}]
    with pytest.raises(ValidationError, match="has no survey, which realign needs"):
        SampleList.model_validate(listed(survey=None, realign={}, samples=samples))


@pytest.mark.parametrize(("text", "words"), [("a: [", "is not YAML"), (None, "cannot be read")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "list.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match=words) as caught:
        load_samples(path)
    assert str(path) in str(caught.value)
