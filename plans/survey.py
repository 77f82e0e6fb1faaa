"""The survey: a montage at low magnification, as one picture with its place on the stage."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import bluesky.preprocessors as bpp
from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.column.device import Column
from devices.errors import ConfigurationError
from devices.sequencer.device import Sequencer
from devices.stage.device import Stage
from plans.calibrations import CalibrationStore
from plans.interrupted import without_ring
from plans.montage import montage
from plans.specs.montage import MontageSpec
from processing.callbacks._documents import Document
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
    calibrations: CalibrationStore | None = None,
    earlier: Sequence[Document] = (),
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
    calibrations
        Has the dark and bright references that the run names; None shows frames as they are.
    earlier
        Documents, from the journal, of the runs that a survey has already which ``acquire`` goes on with:
        their tiles belong to the picture.

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
    collector = _collector(earlier, max_px, calibrations)
    plan = acquire(sequencer, camera, column, stage, spec, {"purpose": "survey", **(md or {})})
    yield from bpp.subs_wrapper(plan, {"all": [collector]})
    return collector.picture(spec.magnification)


def survey_picture(
    documents: Sequence[Document],
    magnification: float,
    *,
    max_px: int = 2048,
    calibrations: CalibrationStore | None = None,
) -> SurveyImage:
    """Return the picture of a survey that has ended, from the documents of its runs.

    Parameters
    ----------
    documents
        Of its runs, from the journal.
    magnification
        Nominal magnification of its tiles.
    max_px, calibrations
        As for `survey`.

    Raises
    ------
    MontangoError
        It has no tiles, or a frame cannot be read.
    """
    return _collector(documents, max_px, calibrations).picture(magnification)


def _collector(
    documents: Sequence[Document], max_px: int, calibrations: CalibrationStore | None
) -> SurveyCollector:
    """Return a collector that has seen earlier runs; their frames are in files, the ring may hold others."""
    collector = SurveyCollector(max_px, calibrations=calibrations.folder if calibrations else None)
    for name, doc in documents:
        collector(name, without_ring(doc) if name == "descriptor" else doc)
    return collector
