"""The command that acquires a list of samples unattended."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from montango.cli.options import chosen
from montango.cli.shell import PROFILE


class Action(StrEnum):
    """What to do with a list."""

    RUN = "run"
    CHECK = "check"


def samples(
    context: typer.Context,
    action: Annotated[Action, typer.Argument(help="run the list, or only check what it says")],
    path: Annotated[Path, typer.Argument(metavar="LIST", help="YAML or JSON file with the list of samples")],
    profile: Annotated[str, typer.Option(help="package with devices.py")] = PROFILE,
    report: Annotated[
        Path | None, typer.Option(help="folder of the account (default: samples in the state directory)")
    ] = None,
) -> None:
    """Acquire a list of samples one after the other, carry on past what fails, and print an account."""
    from plans.specs.samples import load_samples

    listed = load_samples(path)
    if action is Action.CHECK:
        for line in described(listed):
            print(line)
        return
    from montango.sample_lists import acquire_list

    info = chosen(context).existing_lab().connect()
    account = acquire_list(info, listed, profile=profile, report_dir=report, say=print)
    print("\n" + account.as_text())
    if account.path is not None:
        print(f"\naccount {account.path}.txt, {account.path}.json")
    if account.ended != "complete" or not account.accounted_for:
        raise typer.Exit(1)


def described(listed: object) -> list[str]:
    """Return a line for each sample of a list."""
    from plans.specs.samples import SampleList

    assert isinstance(listed, SampleList)
    lines = [f"sample list {listed.name}: {len(listed.samples)} samples"]
    for sample in listed.samples:
        rois = ", ".join(roi.name for roi in sample.rois) or "to be found in a survey"
        code = f", barcode {sample.barcode}" if sample.barcode else ""
        lines.append(f"slot {sample.slot}{code}: {sample.name}: {rois}")
    return lines
