"""Whether the installed wheel is whole: ``python wheel_contents.py TREE`` in the environment that has it.

Every module and data file of the packages in the source tree must be installed, the same byte for byte, and
every module must be importable from there.
"""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import files
from pathlib import Path

DISTRIBUTION = "montango"
DATA = {".py", ".yaml", ".typed"}


def installed() -> dict[str, Path]:
    """Return the installed files by their names in the distribution."""
    found = files(DISTRIBUTION) or []
    return {
        str(one): Path(str(one.locate())) for one in found if one.suffix in DATA or one.name == "py.typed"
    }


def expected(tree: Path) -> Iterator[str]:
    """Yield the names of the modules and data files of the tree's packages: of all, listed or not."""
    listed = tomllib.loads((tree / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    for top in sorted({name.partition(".")[0] for name in listed}):
        for path in sorted((tree / top).rglob("*")):
            if path.suffix in DATA or path.name == "py.typed":
                yield path.relative_to(tree).as_posix()


def problems(tree: Path) -> Iterator[str]:
    """Yield what is wrong, one line each."""
    here = installed()
    for name in expected(tree):
        if name not in here:
            yield f"{name} is not in the wheel: see packages and package-data in pyproject.toml"
        elif here[name].read_bytes() != (tree / name).read_bytes():
            yield f"{name} is another in the wheel"
    for name in sorted(here):
        if not name.endswith(".py") or name.endswith(("__main__.py", "startup.py")):
            continue  # those run when they are imported
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        try:
            origin = importlib.import_module(module).__file__
        except Exception as error:  # noqa: BLE001  # whatever it is, the wheel is not whole
            yield f"{module} cannot be imported: {type(error).__name__}: {error}"
        else:
            if origin is None or not Path(origin).samefile(here[name]):
                yield f"{module} comes from {origin}, not from the wheel"


if __name__ == "__main__":
    found = list(problems(Path(sys.argv[1])))
    print("\n".join(found) or "the wheel is whole")
    sys.exit(bool(found))
