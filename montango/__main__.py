"""The ``montango`` command, and ``python -m montango``."""

from __future__ import annotations

import sys

from montango.cli.app import run


def main() -> None:
    """Run the command line and leave with its exit status."""
    sys.exit(run())


if __name__ == "__main__":
    main()
