"""Is what is installed what Montango was written for?"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

from montango.lab.findings import Finding, fail, ok, warn

DISTRIBUTION = "montango"
REMEDY = "run `make setup` again in a fresh virtual environment"


def examine_installation() -> Iterator[Finding]:
    """Compare Python and every library with what the project asks for."""
    python, wanted = _requirements()
    version = ".".join(map(str, sys.version_info[:3]))
    if SpecifierSet(python).contains(version):
        yield ok("python", f"{version} at {sys.executable}")
    else:
        yield fail("python", f"{version}, wanted {python}", "make the virtual environment with Python 3.11")
    if not wanted:
        yield warn("libraries", "neither an installed montango nor its pyproject.toml was found", REMEDY)
        return
    wrong = [problem for requirement in wanted if (problem := _problem(requirement))]
    for problem in wrong:
        yield fail("library", problem, REMEDY)
    if not wrong:
        yield ok("libraries", f"{len(wanted)} as the project asks for")


def _requirements() -> tuple[str, list[Requirement]]:
    """Return the Python and the libraries asked for, by the source tree if there is one."""
    project_file = Path(__file__).parents[2] / "pyproject.toml"
    python, lines = ">=3.11,<3.12", []
    if project_file.is_file():
        project = tomllib.loads(project_file.read_text())["project"]
        python, lines = project["requires-python"], project["dependencies"]
    else:
        try:
            python = metadata.metadata(DISTRIBUTION)["Requires-Python"]
            lines = metadata.requires(DISTRIBUTION) or []
        except metadata.PackageNotFoundError:
            pass
    requirements = []
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            requirements.append(requirement)
    return python, requirements


def _problem(requirement: Requirement) -> str:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed, wanted {requirement.specifier or 'any version'}"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} is {version}, wanted {requirement.specifier}"
