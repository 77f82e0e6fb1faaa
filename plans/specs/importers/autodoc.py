"""The sections of a SerialEM navigator file: IMOD's autodoc format, or the same as XML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

from devices.errors import ConfigurationError

SECTION = re.compile(r"\[\s*(\w+)\s*=\s*(.*?)\s*\]$")
VALUE = re.compile(r"([^\s\[]\S*)\s*=\s*(.*)$")


class Entry(NamedTuple):
    """A value as it is written, and the line (from 1) it stands in."""

    text: str
    line: int


class Section(NamedTuple):
    """A section: its kind (``Item``), its name (the item's label), its line, its entries by key."""

    kind: str
    name: str
    line: int
    entries: dict[str, Entry]


def read_sections(path: Path) -> Iterator[Section]:
    """Yield the sections of a navigator file in order.

    Parameters
    ----------
    path
        The file: autodoc, or XML if it begins with ``<``.

    Raises
    ------
    ConfigurationError
        The file cannot be read, or is neither format: naming the line and what is wrong there.

    Notes
    -----
    The formats are those of SerialEM's help, "File Formats", section Navigator Files.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot be read ({error.strerror}); give the path of a .nav file"
        ) from None
    if b"\0" in raw:
        raise ConfigurationError(f"{path}: is no navigator file (it is not text)")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", errors="replace")
    return _read_xml(text, path) if text.lstrip().startswith("<") else _read_autodoc(text, path)


def _read_autodoc(text: str, path: Path) -> Iterator[Section]:
    section: Section | None = None
    versioned = False
    for number, line in enumerate(text.splitlines(), 1):
        if not (line := line.strip()) or line.startswith("#"):
            continue
        if head := SECTION.match(line):
            if section is not None:
                yield section
            section = Section(head[1], head[2], number, {})
        elif value := VALUE.match(line):
            versioned = versioned or value[1] == "AdocVersion"
            if section is not None:
                section.entries[value[1]] = Entry(value[2].strip(), number)
        else:
            raise ConfigurationError(f"{path}, line {number}: {_complaint(line, number)}")
    if section is not None:
        yield section
    elif not versioned:
        raise ConfigurationError(f"{path}: is no navigator file: it has neither AdocVersion nor items")


def _complaint(line: str, number: int) -> str:
    if number == 1 and "\t" in line:
        return "this is the tab-separated form of before SerialEM 3.6; load and save it in a newer SerialEM"
    what = "the bracket of a section is not closed" if line.startswith("[") else "this is not 'key = value'"
    return f"{what}: {line[:60]!r}"


def _read_xml(text: str, path: Path) -> Iterator[Section]:
    sections: list[Section] = []
    depth = 0
    held: list[str] = []
    began = 0
    parser = expat.ParserCreate()

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, began
        depth += 1
        began = parser.CurrentLineNumber
        held.clear()
        if depth == 2:
            sections.append(Section(name, attributes.get("name", ""), began, {}))

    def end(name: str) -> None:
        nonlocal depth
        if depth == 3:
            sections[-1].entries[name] = Entry("".join(held).strip(), began)
        depth -= 1

    def refuse(*_: object) -> None:
        raise ConfigurationError(f"{path}, line {parser.CurrentLineNumber}: a navigator file has no DOCTYPE")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = held.append, refuse
    try:
        parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise ConfigurationError(f"{path}, line {error.lineno}: this is not XML ({reason})") from None
    yield from sections
