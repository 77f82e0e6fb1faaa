"""The command that acquires a list of samples unattended."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from devices.errors import ConfigurationError
from montango.cli.options import chosen
from montango.cli.shell import PROFILE


class Action(StrEnum):
    """What to do with a list."""

    RUN = "run"
    CONTINUE = "continue"
    CHECK = "check"


def samples(
    context: typer.Context,
    action: Annotated[
        Action,
        typer.Argument(help="run the list, continue one whose process has ended, or only check what it says"),
    ],
    path: Annotated[Path, typer.Argument(metavar="LIST", help="YAML or JSON file with the list of samples")],
    profile: Annotated[str, typer.Option(help="package with devices.py")] = PROFILE,
    report: Annotated[
        Path | None, typer.Option(help="folder of the account (default: samples in the state directory)")
    ] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="continue although the list differs from the one begun")
    ] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="continue: try again what failed or was left out, too")
    ] = False,
) -> None:
    """Acquire a list of samples one after the other, carry on past what fails, and print an account."""
    from plans.specs.samples import load_samples

    listed = load_samples(path)
    if action is Action.CHECK:
        for line in described(listed):
            print(line)
        return
    from montango.sample_lists import GoingOn, acquire_list

    going_on = GoingOn(accept_changes, retry) if action is Action.CONTINUE else None
    if going_on is None and (accept_changes or retry):
        raise ConfigurationError(
            "--accept-changes and --retry belong to `montango samples continue`; leave them out"
        )
    info = chosen(context).existing_lab().connect()
    say = partial(print, flush=True)
    account = acquire_list(info, listed, profile=profile, report_dir=report, going_on=going_on, say=say)
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
