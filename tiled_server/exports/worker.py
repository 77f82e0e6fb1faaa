"""The process of an export job: ``python -m tiled_server.exports.worker``, an order on its input.

It says on its output, a line of JSON each, how far it is (``done``, ``of``, ``bytes``) and last ``file`` and
``notes``, or ``error``. It ends when its input does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from devices.errors import MontangoError
from tiled_server.exports.jobs import RESULT
from tiled_server.exports.memory import one_arena
from tiled_server.exports.options import ExportOptions, Format
from tiled_server.exports.zip_file import ZipWriter

_NICE: Final = 10
_EVERY_S: Final = 0.2
_WORK: Final = "work"


class TooLarge(MontangoError):
    """The result would be larger than the server keeps."""


class _Told:
    """Progress on the output, not more often than a few times a second."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._last = most_bytes, 0.0

    def __call__(self, done: int, of: int, written: int) -> None:
        if written > self._most:
            raise TooLarge(
                f"the result is larger than the {self._most / 1e9:.1f} GB that the server keeps: export one "
                "region at a time (roi), or use montango export on a host that has the files"
            )
        now = time.monotonic()
        if done == of or now - self._last >= _EVERY_S:
            self._last = now
            say({"done": done, "of": of, "bytes": written})


def say(what: Mapping[str, Any]) -> None:
    """Write a line."""
    print(json.dumps(what), flush=True)


def run(order: Mapping[str, Any]) -> dict[str, Any]:
    """Make the export that an order asks for; return ``file`` and ``notes``.

    Raises
    ------
    MontangoError
        It cannot be made.
    """
    from tiled.client import from_uri

    from tiled_server.exports.catalog import from_client
    from tiled_server.exports.export import export

    to, folder = Format(order["format"]), Path(order["folder"])
    client = from_uri(order["address"], api_key=order["api_key"] or None)
    readable = [Path(one) for one in order["readable"]]
    montage = from_client(client, order["montage"], api_key=order["api_key"], readable=readable)
    client.context.close()
    work = folder / _WORK
    work.mkdir()
    options = ExportOptions.model_validate(order["options"])
    done = export(montage, to, work, options, report=_Told(int(order["most_bytes"])))
    first, *others = done.paths
    if first.is_dir() or others:
        name = f"{first.name}.zip"
        _pack(work, folder / RESULT)
    else:
        name = first.name
        first.rename(folder / RESULT)
    return {"file": name, "notes": [*done.notes]}


def _pack(work: Path, target: Path) -> None:
    """Put all files of a folder into a zip, and remove each when it is in."""
    with ZipWriter(target) as archive:
        for path in sorted(work.rglob("*")):
            if path.is_file():
                archive.add(path.relative_to(work).as_posix(), path)
                path.unlink()


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> int:
    """Take one order, and carry it out."""
    os.nice(_NICE)
    one_arena()
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        result = run(order)
    except MontangoError as error:
        say({"error": str(error)})
        return 1
    # whatever it is, its owner is told
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
        raise
    say(result)
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # the thread that waits for the end of the input holds it
    os._exit(status)
