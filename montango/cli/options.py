"""What the options before the command choose: a configuration and a state directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from montango.config import MontangoConfig
    from montango.lab import Lab

CONFIG_VARIABLE = "MONTANGO_CONFIG"


@dataclass(frozen=True)
class Choice:
    """The configuration file and the state directory that the user named, if any."""

    config: Path | None
    state: Path | None

    def load_config(self) -> MontangoConfig:
        """Return the configuration; without ``--config`` that of the simulated profile.

        Raises
        ------
        ConfigurationError
            There is a mistake in it.
        """
        from montango.config import load_config

        return load_config(self.config)

    def lab(self) -> Lab:
        """Return the laboratory with its configuration, to start it."""
        from montango.lab import Lab

        return Lab(self.load_config(), self.state)

    def existing_lab(self) -> Lab:
        """Return the laboratory, to ask or stop it; reads no configuration if the state is named."""
        from montango.lab import Lab
        from montango.lab.state import STATE_VARIABLE

        if self.state is not None or os.environ.get(STATE_VARIABLE):
            return Lab(None, self.state)
        return self.lab()


def chosen(context: typer.Context) -> Choice:
    """Return what the options before the command chose."""
    choice = context.obj
    return choice if isinstance(choice, Choice) else Choice(None, None)
