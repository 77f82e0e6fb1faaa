"""Commands that examine an installation and a laboratory."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Annotated

import typer

from devices.errors import ConfigurationError
from montango.cli.options import chosen


def doctor(context: typer.Context) -> None:
    """Examine installation, machine and lab, and say how to mend what is wrong; exit status 1 on a FAIL."""
    from montango.lab.doctor import examine
    from montango.lab.findings import fail

    worst = 0
    choice = chosen(context)
    try:
        findings = examine(choice.load_config(), choice.lab())
    except ConfigurationError as error:
        findings = iter(
            [fail("configuration", str(error), "correct the file; `montango config schema` has every key")]
        )
    for finding in findings:
        print(f"{finding.level:<4}  {finding.subject}: {finding.text}", flush=True)
        if finding.remedy:
            print(f"      -> {finding.remedy}", flush=True)
        worst = max(worst, finding.level == "FAIL")
    raise typer.Exit(worst)


def bench(context: typer.Context, name: Annotated[str, typer.Argument(help="what to measure")]) -> None:
    """Measure one part and print the figures; options behind the name are those of the measurement."""
    import montango.bench
    from montango.lab.errors import LabError

    known = sorted(
        module.name for module in pkgutil.iter_modules(montango.bench.__path__) if module.name[0] != "_"
    )
    if name not in known:
        raise LabError(f"there is no measurement {name!r}; there are {', '.join(known) or 'none'}")
    run = importlib.import_module(f"montango.bench.{name}").run
    if inspect.signature(run).parameters:
        raise typer.Exit(run(context.args))
    if context.args:
        raise ConfigurationError(f"montango bench {name} has no options; {context.args[0]!r} is one too many")
    raise typer.Exit(run())
