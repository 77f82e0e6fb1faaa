"""The command that goes on with a montage that was interrupted."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from montango.cli.options import chosen
from montango.cli.shell import PROFILE


class Reference(StrEnum):
    """How the stage is trusted when a montage goes on."""

    READBACK = "readback"
    IMAGE = "image"


def resume(
    context: typer.Context,
    montage_id: Annotated[str | None, typer.Argument(help="the montage; without it they are listed")] = None,
    spec: Annotated[
        Path | None, typer.Option(help="JSON file with another specification than it was begun with")
    ] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="go on although the specification differs")
    ] = False,
    reference: Annotated[
        Reference,
        typer.Option(help="how the stage is trusted; image: an image of a tile shows how far it is off"),
    ] = Reference.READBACK,
    max_offset_um: Annotated[
        float | None, typer.Option(help="with --reference image: a larger offset is refused, um")
    ] = None,
    profile: Annotated[str, typer.Option(help="package with devices.py")] = PROFILE,
) -> None:
    """Acquire what is missing or failed of a montage, in a new run that names the earlier ones."""
    lab = chosen(context).existing_lab()
    if montage_id is None:
        for line in montage_lines(Path(lab.info().journal_dir)):
            print(line)
        return
    info = lab.connect()

    import importlib

    from montango.session import Session
    from processing.callbacks.progress import Progress

    make_devices = importlib.import_module(f"{profile}.devices").make_devices
    with Session(info, make_devices) as session:
        session.RE.subscribe(Progress())
        devices = session.devices
        plan = session.plans["resume_montage"](
            devices.sequencer,
            devices.camera,
            devices.column,
            devices.stage,
            montage_id,
            spec=_read_spec(spec) if spec else None,
            accept_changes=accept_changes,
            reference=reference.value,
            **({} if max_offset_um is None else {"max_offset_um": max_offset_um}),
        )
        session.RE(plan)
        session.drain()
    print("\n".join(montage_lines(Path(info.journal_dir), montage_id)))


def montage_lines(journal_dir: Path, montage_id: str | None = None) -> list[str]:
    """Return a line for each montage of a journal, or for one: its id, runs, tiles and how it stands."""
    from plans.record import MontageRecord, montages

    lines = []
    for name, runs in montages(journal_dir).items():
        if montage_id in (None, name):
            record = MontageRecord.read(journal_dir, name)
            live, ended = any(run.live for run in runs), all(run.complete for run in runs)
            state = "is being acquired" if live else "ended" if ended else "was interrupted"
            wanted = record.start.get("num_points", "?")
            lines.append(f"{name}  {record.good} of {wanted} tiles good, {len(runs)} runs, {state}")
    return lines or ["the journal has no montage"]


def _read_spec(path: Path) -> Any:
    from pydantic import ValidationError

    from devices.errors import ConfigurationError
    from plans.specs.montage import MontageSpec

    try:
        return MontageSpec.model_validate_json(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"{path}: {place}: {first['msg']}") from None
