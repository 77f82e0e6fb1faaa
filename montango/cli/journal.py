"""Commands about the journal of documents."""

from __future__ import annotations

from pathlib import Path

import typer

from montango.cli.options import chosen

app = typer.Typer(help="Work with the journal, the record that survives a crash.", no_args_is_help=True)


@app.command()
def replay(context: typer.Context) -> None:
    """Complete the catalog from the journal; doing it again adds nothing."""
    info = chosen(context).existing_lab().info()

    from tiled_server.replay import replay as replay_journal  # imports Tiled: seconds

    summary = replay_journal(Path(info.journal_dir), info.tiled["uri"], info.tiled["api_key"])
    print(summary)
    raise typer.Exit(1 if summary.failed else 0)
