"""A list of samples to acquire unattended: frozen, validated, JSON or YAML; it knows no hardware."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from devices.errors import ConfigurationError
from plans.specs.montage import MontageSpec
from plans.specs.policy import Rule, VerdictPolicy

Polygon = tuple[tuple[float, float], ...]
PLACE_FIELDS = (
    "rows",
    "columns",
    "width_um",
    "height_um",
    "corners_um",
    "rois",
    "positions_um",
    "centre_um",
)
"""Fields of a montage's specification that say where it lies; a ROI's polygon takes their place."""

ACCEPT = Rule(action="accept")
ONCE_MORE = Rule(action="reimage", attempts=1, afterwards="needs_review")
SURVEY_POLICY = VerdictPolicy(
    dark=Rule(action="wait_for_beam", attempts=1, afterwards="needs_review"),
    saturated=ONCE_MORE,
    charging=ONCE_MORE,
    debris=ONCE_MORE,
    smeared=ONCE_MORE,
    low_contrast=ACCEPT,
    blurred=ACCEPT,
    fold=ACCEPT,
    persistent="go_on",
    critical="go_on",
)
"""A survey shows the dark carrier and bare film, and edges of sections that look like folds."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SurveySpec(_Part):
    """The low-magnification montage of a sample in which its sections are looked for."""

    magnification: float = Field(ge=20, le=1_500_000, description="nominal magnification of the survey")
    montage: Mapping[str, Any] = Field(
        default_factory=lambda: {"rows": 3, "columns": 3, "centre_um": (0.0, 0.0)},
        description="the survey's montage: fields of MontageSpec",
    )
    max_px: int = Field(default=2048, ge=64, le=16384, description="longest side of the overview, px")

    def spec(self) -> MontageSpec:
        """Return the survey's montage; faults that do not hide a section are accepted."""
        fields = {"policy": SURVEY_POLICY, **self.montage, "magnification": self.magnification}
        return MontageSpec.model_validate(fields)


class RoiSearch(_Part):
    """How sections are told from film and from the edge of the aperture in a survey."""

    min_area_um2: float = Field(default=100.0, gt=0, description="smaller objects are dirt, um^2")
    max_area_um2: float | None = Field(default=None, gt=0, description="larger ones are not sections, um^2")
    min_rois: int = Field(default=1, ge=1, le=1000, description="fewer found: the survey is tried again")
    max_rois: int = Field(default=10, ge=1, le=1000, description="the most confident ones are taken")
    min_confidence: float = Field(
        default=0.5, ge=0, le=1, description="outlines with less are left out, 0 to 1"
    )
    smooth_um: float = Field(
        default=2.0, ge=0, le=500, description="detail of an outline that is smoothed, um"
    )
    fill: float = Field(
        default=0.5,
        ge=0,
        le=2,
        description="bites narrower than this share of a section's size belong to it (resin without tissue)",
    )


class RealignSpec(_Part):
    """How a place is found again: by correlation, from the survey's magnification to the montage's."""

    magnifications: tuple[float, ...] = Field(
        default=(), max_length=5, description="steps between the survey's magnification and the montage's"
    )
    tolerance_um: float = Field(default=0.5, gt=0, le=100, description="residual that is good enough, um")
    max_iterations: int = Field(default=4, ge=1, le=20, description="corrections at each magnification")
    exposure_time_s: float = Field(default=0.1, gt=0, le=60, description="exposure of an image, s")
    binning: int = Field(default=1, ge=1, le=16, description="binning of an image")
    min_peak: float = Field(
        default=0.2, ge=0, le=1, description="smallest correlation that is believed, 0 to 1"
    )
    max_shift_um: float = Field(default=20.0, gt=0, le=500, description="larger errors are refused, um")


class SamplePolicy(_Part):
    """What happens when something fails; ``stop`` ends the whole list, ``skip`` goes on with the next.

    A load, a survey or a ROI is tried ``attempts`` times before that. A montage that ended with a device lost
    or with tiles missing is resumed, not begun again, up to ``resumes`` times.
    """

    attempts: int = Field(default=2, ge=1, le=10, description="tries of a load, a survey, a ROI")
    resumes: int = Field(default=5, ge=0, le=50, description="resumptions of one montage")
    on_load_failure: Literal["skip", "stop"] = Field(default="skip", description="a sample does not load")
    on_survey_failure: Literal["skip", "stop"] = Field(
        default="skip", description="no survey, or no section found in it: the sample is skipped"
    )
    on_realign_failure: Literal["continue", "skip", "stop"] = Field(
        default="continue", description="continue: acquire where the stage says the ROI is"
    )
    on_montage_failure: Literal["skip", "stop"] = Field(default="skip", description="a ROI is not acquired")
    max_failures_in_a_row: int = Field(
        default=4, ge=1, le=1000, description="ROIs or loads that fail one after the other: stop"
    )
    recovery_timeout_s: float = Field(
        default=120.0, gt=0, le=3600, description="time that a lost device server has to come back, s"
    )


class SampleRoi(_Part):
    """A region of a sample: a polygon in stage um, or a centre around which the montage's own size lies."""

    name: str = Field(min_length=1, max_length=80, description="once in a sample")
    polygon_um: Polygon | None = Field(default=None, description="corners, stage x, y in um; at least 3")
    centre_um: tuple[float, float] | None = Field(default=None, description="stage x, y in um")
    rotation_deg: float = Field(
        default=0.0, ge=-360, le=360, description="turn of the polygon about its centroid, deg"
    )
    dilation_um: float = Field(default=0.0, ge=-500, le=500, description="margin around the polygon, um")
    montage: Mapping[str, Any] = Field(
        default_factory=dict, description="fields of MontageSpec, for this ROI"
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.polygon_um is None) == (self.centre_um is None):
            raise ValueError(f"ROI {self.name!r} needs polygon_um or centre_um, one of the two")
        if self.polygon_um is not None and len(self.polygon_um) < 3:
            raise ValueError(f"polygon_um of ROI {self.name!r} has {len(self.polygon_um)} corners, needs 3")
        return self


class Sample(_Part):
    """A sample: the slot it lies in, and its ROIs, given or searched for in a survey."""

    slot: int = Field(ge=1, le=100_000, description="slot of the cassette, or aperture of the tape")
    name: str = Field(min_length=1, max_length=80, description="once in a list")
    barcode: str | None = Field(
        default=None, description="what the loader must read of the slot; None does not ask"
    )
    rois: tuple[SampleRoi, ...] = Field(default=(), description="given ROIs; none: they are searched for")
    survey: SurveySpec | None = Field(default=None, description="instead of the list's")
    search: RoiSearch | None = Field(default=None, description="instead of the list's")
    montage: Mapping[str, Any] = Field(
        default_factory=dict, description="fields of MontageSpec, for this sample"
    )
    policy: SamplePolicy | None = Field(default=None, description="instead of the list's")

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [roi.name for roi in self.rois]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"sample {self.name!r} has several ROIs of the name {sorted(doubled)[0]!r}")
        return self


class SampleList(_Part):
    """Samples to acquire one after the other, with what they have in common.

    Examples
    --------
    >>> roi = {"name": "a", "centre_um": (0, 0)}
    >>> samples = SampleList(
    ...     name="x", montage={"rows": 2, "columns": 2}, samples=[{"slot": 1, "name": "s1", "rois": [roi]}]
    ... )
    >>> samples.montage_spec(samples.samples[0], samples.samples[0].rois[0]).tiles
    4
    """

    name: str = Field(min_length=1, max_length=80, description="names the account")
    montage: Mapping[str, Any] = Field(description="fields of MontageSpec that all ROIs have")
    samples: tuple[Sample, ...] = Field(
        min_length=1, max_length=100_000, description="in the order in which they are loaded"
    )
    survey: SurveySpec | None = Field(default=None, description="survey of samples without ROIs, and anchor")
    search: RoiSearch = Field(default=RoiSearch(), description="how sections are found in a survey")
    realign: RealignSpec | None = Field(
        default=None, description="find ROIs again by correlation with the survey; null: do not"
    )
    policy: SamplePolicy = Field(default=SamplePolicy(), description="what happens when something fails")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        seen: set[str] = set()
        for sample in self.samples:
            if sample.name in seen:
                raise ValueError(f"several samples have the name {sample.name!r}")
            seen.add(sample.name)
            survey = sample.survey or self.survey
            if not sample.rois and survey is None:
                raise ValueError(f"sample {sample.name!r} has neither rois nor a survey to find them in")
            if self.realign is not None and survey is None:
                raise ValueError(f"sample {sample.name!r} has no survey, which realign needs as its anchor")
            if survey is not None:
                _explained(f"survey of sample {sample.name!r}", survey.spec)
            anywhere = SampleRoi(name="any", polygon_um=((0, 0), (1, 0), (1, 1)))
            for roi in sample.rois or (anywhere,):
                _explained(f"sample {sample.name!r}, ROI {roi.name!r}", self.montage_spec, sample, roi)
        return self

    def montage_spec(self, sample: Sample, roi: SampleRoi) -> MontageSpec:
        """Return the specification of a ROI's montage: the list's fields, then the sample's, then its own."""
        fields = {**self.montage, **sample.montage, **roi.montage}
        if roi.polygon_um is not None:
            for name in PLACE_FIELDS:
                fields.pop(name, None)
            fields["rois"] = [
                {
                    "name": roi.name,
                    "polygon_um": roi.polygon_um,
                    "rotation_deg": roi.rotation_deg,
                    "dilation_um": roi.dilation_um,
                }
            ]
        elif roi.centre_um is not None:
            fields["centre_um"] = roi.centre_um
        return MontageSpec.model_validate(fields)


def _explained(what: str, make: Any, *arguments: Any) -> None:
    try:
        make(*arguments)
    except ValidationError as error:
        raise ValueError(f"{what}: {_one_line(error)}") from None


def _one_line(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'spec'}: {item['msg'].removeprefix('Value error, ')}"
        + (f" (is {item['input']!r})" if item["loc"] and item["type"] != "missing" else "")
        for item in error.errors()
    )


def load_samples(path: Path | str) -> SampleList:
    """Read a list of samples from a YAML or JSON file.

    Raises
    ------
    ConfigurationError
        The file cannot be read, or a field or value in it is wrong: one line that names it.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            f"{path}: cannot be read ({reason}); give the path of a sample list"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    try:
        return SampleList.model_validate(data)
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {_one_line(error)}") from None
