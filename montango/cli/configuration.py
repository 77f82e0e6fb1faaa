"""Commands about ``montango.yaml``."""

from __future__ import annotations

import json

import typer

from montango.cli.options import chosen

app = typer.Typer(help="Check and show the configuration.", no_args_is_help=True)


@app.command()
def check(context: typer.Context) -> None:
    """Check the configuration, and that every driver can be imported; starts nothing."""
    from montango._drivers import check_drivers
    from montango.config import default_config_path

    choice = chosen(context)
    config = choice.load_config()
    check_drivers(config)
    print(f"{choice.config or default_config_path()}: no mistakes; lab {config.lab.name}")


@app.command()
def show(context: typer.Context) -> None:
    """Show the whole configuration, defaults included, as YAML that can be used as one."""
    from montango.config import dump_config

    print(dump_config(chosen(context).load_config()), end="")


@app.command()
def schema() -> None:
    """Show the JSON schema of montango.yaml: every key with its range and meaning."""
    from montango.config import config_schema

    print(json.dumps(config_schema(), indent=2))
