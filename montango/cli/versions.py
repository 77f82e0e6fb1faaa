"""The command that says what is installed."""

from __future__ import annotations

import platform
from importlib import metadata

LIBRARIES = (
    "pytango",
    "ophyd-async",
    "bluesky",
    "tiled",
    "bluesky-tiled-plugins",
    "pytango-db",
    "numpy",
    "supervisor",
)


def installed_version(distribution: str) -> str:
    """Return the version of an installed distribution, or that there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def version() -> None:
    """Show the versions of Montango, Python and the main libraries."""
    print(f"montango {installed_version('montango')}")
    print(f"python {platform.python_version()} on {platform.platform()}")
    for name in LIBRARIES:
        print(f"{name} {installed_version(name)}")
