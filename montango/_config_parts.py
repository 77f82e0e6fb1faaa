"""Sections of ``montango.yaml`` whose keys belong to other packages, imported only when they are used."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from devices.errors import ConfigurationError
from montango._config_errors import Location, explain

PLACE_OF_A_MONTAGE = (
    "rows", "columns", "width_um", "height_um", "corners_um", "rois", "positions_um", "centre_um"
)  # fmt: skip


def check_parts(data: Mapping[str, Any], where: Callable[[Location], str]) -> None:
    """Check the sections ``qc`` and ``montage``.

    Raises
    ------
    ConfigurationError
        As `montango.config.load_config` does.
    """
    for name, model in _models(data):
        try:
            model.model_validate(data[name])
        except ValidationError as error:
            raise ConfigurationError(explain(error, model, data[name], where, (name,))) from None


def check_signal(name: str) -> None:
    """Refuse the name of a suspender's signal that neither facility nor column has.

    Raises
    ------
    ValueError
        Naming the nearest.
    """
    from devices.column.settings import SETTINGS
    from devices.facility.signals import FACILITY_SIGNALS

    known = [f"facility.{signal.name}" for signal in FACILITY_SIGNALS]
    known += [f"column.{setting.name}" for setting in SETTINGS if setting.kind == "float"]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4) or known[:1]
        raise ValueError(
            f"signal = {name!r} is neither of the facility nor of the column; the nearest is {near[0]!r}"
        )


def _models(data: Mapping[str, Any]) -> Iterator[tuple[str, type[BaseModel]]]:
    if data.get("qc"):
        from processing.callbacks.verdicts import QCThresholds

        yield "qc", QCThresholds
    if data.get("montage"):
        yield "montage", montage_defaults()


def montage_defaults() -> type[BaseModel]:
    """Return the model of a montage's specification without its place and size, which have no default."""
    from plans.specs.montage import MontageSpec

    fields = {
        name: (field.annotation, field)
        for name, field in MontageSpec.model_fields.items()
        if name not in PLACE_OF_A_MONTAGE
    }
    options: dict[str, Any] = {"__config__": ConfigDict(frozen=True, extra="forbid"), **fields}
    model: type[BaseModel] = create_model("MontageDefaults", **options)
    return model
