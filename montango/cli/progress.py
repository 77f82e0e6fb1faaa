"""Progress of a command on the error output."""

from __future__ import annotations

import sys
import time

import typer

_EVERY_S = 0.5


class Progress:
    """A line that is written over in place on a terminal, and not at all in a log."""

    def __init__(self) -> None:
        self._last, self._shown = 0.0, False

    def show(self, text: str, *, last: bool = False) -> None:
        """Show how far it is, not more often than twice a second; the ``last`` text always."""
        now = time.monotonic()
        if sys.stderr.isatty() and (last or now - self._last >= _EVERY_S):
            self._last, self._shown = now, True
            typer.echo(f"\r{text} ", nl=False, err=True)

    def end(self) -> None:
        """End the line."""
        if self._shown:
            typer.echo("", err=True)
            self._shown = False
