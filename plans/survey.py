"""The survey: a montage at low magnification, as one picture with its place on the stage."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import bluesky.preprocessors as bpp
from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.column.device import Column
from devices.errors import ConfigurationError
from devices.sequencer.device import Sequencer
from devices.stage.device import Stage
from plans.montage import montage
from plans.specs.montage import MontageSpec
from processing.survey import SurveyCollector, SurveyImage

Acquire = Callable[..., Generator[Msg, Any, str]]


def survey(
    sequencer: Sequencer,
    camera: Camera,
    column: Column,
    stage: Stage,
    spec: MontageSpec,
    md: dict[str, Any] | None = None,
    *,
    acquire: Acquire = montage,
    max_px: int = 2048,
) -> Generator[Msg, Any, SurveyImage]:
    """Take a picture of a whole sample or aperture.

    It is acquired as a montage, at the magnification of ``spec``, which is set back however the plan ends.
    The run's ``purpose`` is ``survey``.

    Parameters
    ----------
    sequencer, camera, column, stage
        The instruments.
    spec
        The survey's montage; it names a magnification.
    md
        Metadata of the run.
    acquire
        The plan that acquires a montage: `plans.montage.montage`, or a session's.
    max_px
        Longest side of the picture, px.

    Returns
    -------
    SurveyImage
        The picture, and the stage position of each of its pixels.

    Raises
    ------
    ConfigurationError
        ``spec`` names no magnification; nothing has moved.
    MontangoError
        As of the montage.

    Examples
    --------
    >>> picture = yield from survey(  # doctest: +SKIP
    ...     sequencer, camera, column, stage, MontageSpec(rows=3, columns=3, magnification=200)
    ... )
    """
    if spec.magnification is None:
        raise ConfigurationError("a survey needs a magnification of its own; give magnification in its spec")
    collector = SurveyCollector(max_px)
    plan = acquire(sequencer, camera, column, stage, spec, {"purpose": "survey", **(md or {})})
    yield from bpp.subs_wrapper(plan, {"all": [collector]})
    return collector.picture(spec.magnification)
