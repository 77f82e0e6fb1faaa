"""The catalog writer, without a server."""

from __future__ import annotations

import subprocess
import sys


def test_the_client_is_imported_where_the_writer_is_made() -> None:
    """An import in the queue's thread fails where IPython takes an entry from ``sys.path`` meanwhile."""
    code = (
        "import sys; from processing.callbacks.catalog import CatalogWriter; "
        "assert 'tiled.client' not in sys.modules; "
        "CatalogWriter('http://127.0.0.1:1', 'key', '.'); "
        "assert 'bluesky_tiled_plugins' in sys.modules and 'tiled.client' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
