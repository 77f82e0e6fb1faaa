"""Commands about the journal of documents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from montango.cli.options import chosen

if TYPE_CHECKING:
    from montango.lab import LabInfo

app = typer.Typer(help="Work with the journal, the record that survives a crash.", no_args_is_help=True)


@app.command()
def replay(context: typer.Context) -> None:
    """Complete the catalog from the journal; doing it again adds nothing.

    Runs that a killed session left without an end are ended first, where no session drives.
    """
    info = chosen(context).existing_lab().info()

    from tiled_server.replay import replay as replay_journal  # imports Tiled: seconds

    for uid in _end_interrupted(info):
        print(f"run {uid} was interrupted and is ended now")
    summary = replay_journal(Path(info.journal_dir), info.tiled["uri"], info.tiled["api_key"])
    print(summary)
    failed = bool(summary.failed)
    if "mongo" in info.tiled:
        from tiled_server.mongo.store import MongoStore

        there = replay_journal(Path(info.journal_dir), "", "", store=MongoStore(info.tiled["mongo"]))
        print(f"MongoDB: {there}")
        failed = failed or bool(there.failed)
    raise typer.Exit(1 if failed else 0)


def _end_interrupted(info: LabInfo) -> list[str]:
    """End the runs that nobody will end any more; none while a session drives."""
    from montango.config import load_config
    from montango.fence import EngineBusy, EngineLock
    from plans.interrupted import close_interrupted
    from processing.callbacks.tile_qc import QCThresholds

    lock = EngineLock(info.state_dir)
    try:
        lock.acquire()
    except EngineBusy:
        return []
    try:
        thresholds = QCThresholds(**load_config(info.config).qc)
        return close_interrupted(info.journal_dir, thresholds, Path(info.state_dir) / "calibrations")
    finally:
        lock.release()
