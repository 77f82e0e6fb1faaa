"""Commands that keep a catalog: backup, restore, check."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from devices.errors import ConfigurationError
from montango.cli.options import Choice, chosen
from montango.cli.table import duration, table

if TYPE_CHECKING:
    from montango.config import MontangoConfig
    from tiled_server.operations.findings import Report
    from tiled_server.operations.stores import Stores

_ROWS = 50


def register(app: typer.Typer) -> None:
    """Add the commands to those about the catalog."""
    app.command()(backup)
    app.command()(restore)
    app.command()(check)


def backup(
    context: typer.Context,
    destination: Annotated[Path, typer.Argument(help="new folder to write")],
    journal: Annotated[bool, typer.Option("--journal", help="copy the journal too")] = False,
) -> None:
    """Copy the catalog to a folder while it is used: databases, arrays of its own, checksums.

    Files of frames are not copied; the catalog points to them.
    """
    from tiled_server.operations.backup import back_up

    stores, _ = _catalog(chosen(context))
    done = back_up(stores, destination, with_journal=journal, say=print)
    print(
        f"{done.folder}: {done.runs} runs, {done.ended} of them ended, {done.bytes / 1e6:.1f} MB in "
        f"{done.took_s:.1f} s"
    )
    if done.behind:
        print(f"{len(done.behind)} runs of the journal had not reached the catalog: replay adds them")


def restore(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="folder that `montango catalog backup` wrote")],
    moved: Annotated[
        list[str] | None,
        typer.Option(help="folder of data files before and now, /old=/new (repeat for more)"),
    ] = None,
) -> None:
    """Make the catalog of a new state directory (and new databases) from a backup; the lab is down.

    Nothing that is there is overwritten. What came after the backup is added by `montango journal replay`.
    """
    from tiled_server.operations.addresses import moved_folders
    from tiled_server.operations.restore import restore as make

    choice = chosen(context)
    lab = choice.existing_lab()
    if lab.find() is not None:
        raise ConfigurationError(f"the lab in {lab.state.root} is up; stop it with `montango down`")
    stores, _ = _catalog(choice)
    done = make(source, stores, moved=moved_folders(moved or []), say=print)
    print(f"{stores.folder}: {done.runs} runs; {done.moved} addresses were written anew")
    if done.replay:
        print(f"{len(done.replay)} runs came later: start the lab, then `montango journal replay`")
    if done.open:
        print(f"{len(done.open)} runs of the journal have not ended: `montango journal replay` ends them")
    if done.lost:
        print(f"{len(done.lost)} runs had not ended, and {stores.journal} does not have them:")
        print("\n".join(f"  {uid}" for uid in done.lost))
        raise typer.Exit(1)


def check(
    context: typer.Context,
    deep: Annotated[
        bool, typer.Option("--deep", help="read every pixel, and compare checksums (reads all files)")
    ] = False,
    record: Annotated[
        bool,
        typer.Option(
            "--record", help="take down size and time (with --deep checksum) of files not yet known"
        ),
    ] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="take down anew files that were changed on purpose")
    ] = False,
    settled: Annotated[
        float,
        typer.Option(min=0.0, help="leave alone runs whose journal was written within so many seconds"),
    ] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """Compare the catalog with the journal and the files; exit status 1 where they differ.

    The catalog's tables are read: the lab may be up or down.
    """
    from tiled_server.operations.check import check as compare

    stores, readable = _catalog(chosen(context))
    report = compare(
        stores,
        readable=readable,
        deep=deep,
        record=record,
        accept=accept,
        settled_after_s=settled,
        say=(lambda _: None) if as_json else print,
    )
    print(json.dumps(report.facts(), indent=1) if as_json else described(report))
    raise typer.Exit(1 if report.faults else 0)


def described(report: Report) -> str:
    """Return what a check found, as a table and a line."""
    from tiled_server.operations.findings import KINDS

    lines = []
    if report.findings:
        rows = [(one.kind, one.run[:8], one.subject, one.text) for one in report.findings]
        lines.append(table(("WHAT", "RUN", "WHERE", ""), rows[:_ROWS]))
        if len(rows) > _ROWS:
            lines.append(f"and {len(rows) - _ROWS} more; all of them: --json")
        lines.append("")
        kinds = sorted({one.kind for one in report.findings}, key=list(KINDS).index)
        lines += [f"{kind}: {KINDS[kind].means} -> {KINDS[kind].remedy}" for kind in kinds]
        lines.append("")
    read = f", {report.bytes_read / 1e9:.2f} GB read" if report.bytes_read else ""
    taken = f", {report.recorded} taken down" if report.recorded else ""
    way = f" ({report.under_way} under way left alone)" if report.under_way else ""
    lines.append(
        f"{report.runs} runs{way}, {report.events} events and frames, {report.files} files{read}{taken} in "
        f"{duration(report.took_s)}: {len(report.faults) or 'no'} faults"
    )
    return "\n".join(lines)


def _catalog(choice: Choice) -> tuple[Stores, list[Path]]:
    """Return where the lab's own catalog lies, and the folders that its server may read.

    Raises
    ------
    ConfigurationError
        The lab uses a site's catalog.
    """
    from tiled_server.operations.stores import Stores

    lab = choice.existing_lab()
    config = _config(choice, lab.state.config_file)
    service = config.services.tiled
    if service.uri is not None:
        raise ConfigurationError(
            f"the catalog is a server of the site, {service.uri}: those who run it back it up and check it"
        )
    data = config.paths.data_dir or lab.state.root / "data"
    more = [Path(part) for part in os.environ.get("MONTANGO_TILED_READABLE", "").split(os.pathsep) if part]
    stores = Stores.of(lab.state.root, service.database, service.tables)
    return stores, [data, *service.readable, *more]


def _config(choice: Choice, in_force: Path) -> MontangoConfig:
    """Return the configuration that was named, else that of the last start, else the default."""
    from montango.config import load_config

    if choice.config is None and in_force.is_file():
        return load_config(in_force)
    return choice.load_config()
