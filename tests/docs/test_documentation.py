"""The documentation says what the code does: its links, its code, its tables."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from devices._tango.server import InstrumentServer
from devices.camera.server import CameraServer
from devices.column.server import ColumnServer
from devices.column.settings import SETTINGS
from devices.errors import ERROR_CLASSES
from devices.facility.signals import FACILITY_SIGNALS
from devices.loader.server import LoaderServer
from devices.montage_control.server import ControlServer
from devices.sequencer.server import SequencerServer
from devices.stage.server import StageServer
from devices.tiles import TILE_COLUMNS
from montango.config import config_schema
from plans.specs.focus import FocusSpec
from plans.specs.montage import MontageSpec
from plans.specs.samples import SampleList
from processing.callbacks.tile_qc import QCThresholds
from sim.faults import FAULT_NAMES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
if not DOCS.is_dir():
    pytest.skip("the documentation is in the source tree, not in the wheel", allow_module_level=True)

PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
DECISIONS = sorted((DOCS / "decisions").glob("*.md"))
SOURCES = ("devices", "plans", "processing", "tiled_server", "sim", "profiles", "montango", "tests", "docs")
MACHINE_PATHS = tuple(f"/{name}/" for name in ("work", "root", "home"))
ROOT_FILES = (".md", ".toml", ".yaml", ".lock")
RUN_MARK = "<!-- run -->"
UNITS = {
    "_um_per_mrad": "um/mrad", "_um_per_mm2": "um/mm2",
    "_e_nm2_s": "e/nm2/s", "_um_per_mm": "um/mm", "_e_per_a2": "e/A2", "_um_s2": "um/s2", "_um_s": "um/s",
    "_nm_s": "nm/s", "_deg_s": "deg/s", "_e_s": "e/s", "_degc": "degC", "_counts": "counts", "_mrad": "mrad",
    "_deg": "deg", "_px": "px", "_kv": "kV", "_gb": "GB", "_db": "dB", "_hz": "Hz", "_um": "um", "_nm": "nm",
    "_mm": "mm", "_s": "s", "_e": "e",
}  # fmt: skip


class Block(NamedTuple):
    """A fenced block of code: its page, line of the fence, language, text, and whether it runs here."""

    page: Path
    line: int
    language: str
    text: str
    runs: bool

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def read_blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text().splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        if not line.lstrip().startswith("```"):
            continue
        if start is None:
            start = number
            continue
        runs = any(RUN_MARK in before for before in lines[max(0, start - 2) : start])
        language = lines[start].strip().removeprefix("```")
        yield Block(page, start + 1, language, "\n".join(lines[start + 1 : number]) + "\n", runs)
        start = None
    assert start is None, f"{page}, line {start}: a block of code without an end"


BLOCKS = [block for page in PAGES for block in read_blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]


def prose(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def slugs(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def table(page: Path, section: str = "") -> dict[str, list[str]]:
    """Return the rows of a page's (or section's) tables whose first cell is `code`, by that code."""
    rows: dict[str, list[str]] = {}
    text = page.read_text()
    if section:
        text = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    for line in text.splitlines():
        cells = [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) > 1 and re.fullmatch(r"`[^`]+`", cells[0]):
            assert cells[0].strip("`") not in rows, f"{page.name}: {cells[0]} twice"
            rows[cells[0].strip("`")] = cells[1:]
    return rows


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page}: {target} does not exist"
        assert ROOT in there.parents, f"{page}: {target} is outside the repository"
        assert not anchor or anchor in slugs(there), f"{page}: {target} names no heading"


def test_the_index_has_every_page() -> None:
    index = (DOCS / "README.md").read_text()
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")]
    assert [page for page in pages if page != "README.md" and f"({page})" not in index] == []


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_python_compiles(block: Block) -> None:
    ast.parse(block.text, block.name)


@pytest.mark.parametrize(
    "page", sorted({block.page for block in PYTHON if block.runs}), ids=lambda page: page.name
)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The marked blocks of a page run one after the other, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    names: dict[str, Any] = {"__name__": "page"}
    for block in PYTHON:
        if block.page == page and block.runs:
            exec(compile(block.text, block.name, "exec"), names)  # noqa: S102  # our own pages


def test_shell_blocks_name_commands_that_exist() -> None:
    known = {path.partition(" ")[0] for path in commands()}
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(block.text for block in BLOCKS if block.language == "sh")
    words = re.findall(r"^(?:\.venv/bin/)?montango(?: --\w+ \S+)* (\w+)", text, re.MULTILINE)
    assert set(words) - known == set()
    assert set(re.findall(r"^make (\w+)", text, re.MULTILINE)) - targets == set()
    assert len(words) > 10


def branches(schema: Mapping[str, Any], root: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a schema with references followed and alternatives spread out."""
    if "$ref" in schema:
        extra = {key: value for key, value in schema.items() if key != "$ref"}
        found = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
        return [{**branch, **extra} for branch in branches(found, root)]
    if "anyOf" in schema:
        extra = {key: value for key, value in schema.items() if key != "anyOf"}
        return [{**branch, **extra} for part in schema["anyOf"] for branch in branches(part, root)]
    return [dict(schema)]


def keys(schema: Mapping[str, Any], root: Mapping[str, Any], path: str = "") -> dict[str, list[str]]:
    """Return unit, allowed values and default of every key that holds a value, by its dotted name."""
    found: dict[str, list[str]] = {}
    for branch in branches(schema, root):
        for name, inner in branch.get("properties", {}).items():
            key = f"{path}.{name}" if path else name
            deeper = keys(inner, root, key)
            if not deeper or any(part.get("type") == "array" for part in branches(inner, root)):
                required = name in branch.get("required", ())
                found[key] = [unit(name), allowed(inner, root), default(inner, required)]
            found |= deeper
        if "items" in branch:
            found |= keys(branch["items"], root, f"{path}[]")
    return found


def unit(name: str) -> str:
    return next((text for suffix, text in UNITS.items() if name.endswith(suffix)), "")


def allowed(schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    return " or ".join(dict.fromkeys(map(_allowed, branches(schema, root))))


def _allowed(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    kind = schema.get("type", "")
    if kind == "array":
        pair = schema.get("minItems") == schema.get("maxItems") == 2
        inner = schema.get("prefixItems", [{}])[0]
        rows = inner.get("type") == "array"
        return "two rows of two numbers" if rows else f"two numbers{_bounds(inner)}" if pair else "list"
    words = {"null": "`null`", "string": "text", "boolean": "`true`, `false`", "object": "mapping"}
    if schema.get("format") == "path":
        return "path"
    kind_word = {"integer": "whole number", "number": "number"}.get(kind)
    return f"{kind_word}{_bounds(schema)}" if kind_word else words[kind]


def _bounds(schema: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    parts = [f"{sign} {schema[key]:.10g}" for key, sign in signs.items() if key in schema]
    return f" {', '.join(parts)}" if parts else ""


def default(schema: Mapping[str, Any], required: bool) -> str:
    if required:
        return "required"
    value = schema.get("default", {})
    if isinstance(value, list) and len(value) > 2:
        return f"{len(value)} entries"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, list):
        value = [int(x) if isinstance(x, float) and x.is_integer() else x for x in value]
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def montage_schema() -> dict[str, Any]:
    """Return the schema of a montage; focus and policy are models of their own, with tables of their own."""
    schema = MontageSpec.model_json_schema()
    schema["properties"]["focus"] = {"anyOf": [{"type": "object"}, {"type": "null"}], "default": None}
    schema["properties"]["policy"] = {"type": "object", "default": {}}
    return schema


def sample_schema() -> dict[str, Any]:
    """Return the schema of a list of samples; what a sample may have instead of the list's has one table."""
    schema = SampleList.model_json_schema()
    for name in ("survey", "search", "policy"):
        alternative = {"anyOf": [{"type": "object"}, {"type": "null"}], "default": None}
        schema["$defs"]["Sample"]["properties"][name] = alternative
    return schema


@pytest.mark.parametrize(
    ("page", "schema", "prefix"),
    [
        ("configuration.md", config_schema(), ""),
        ("quality.md", QCThresholds.model_json_schema(), "qc."),
        ("montage.md", montage_schema(), ""),
        ("samples.md", sample_schema(), ""),
        ("focus.md", FocusSpec.model_json_schema(), ""),
    ],
)
def test_tables_of_keys(page: str, schema: dict[str, Any], prefix: str) -> None:
    """Every key is there, with its unit, range and default, and no other."""
    wanted = {prefix + key: row for key, row in keys(schema, schema).items()}
    written = {key: cells[:3] for key, cells in table(DOCS / "reference" / page).items()}
    assert written == wanted
    assert all(len(cells) == 4 and cells[3] for cells in table(DOCS / "reference" / page).values())


def commands() -> dict[str, list[str]]:
    """Return the options of every command of the command line, by its words."""
    import typer

    from montango.cli.app import app

    found: dict[str, list[str]] = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, (*words, name))
        if not hasattr(command, "commands"):
            names = (name for param in command.params for name in (*param.opts, *param.secondary_opts))
            found[" ".join(words)] = [name for name in names if name.startswith("-") and name != "--help"]

    walk(typer.main.get_command(app), ())
    return found


def test_every_command_is_documented() -> None:
    text = (DOCS / "reference" / "cli.md").read_text()
    parts = dict(re.findall(r"^### `montango ([^`]+?)(?: [A-Z][^`]*)?`\n(.*?)(?=^##|\Z)", text, re.M | re.S))
    assert set(parts) == set(commands())
    missing = [
        (name, one) for name, options in commands().items() for one in options if one not in parts[name]
    ]
    assert [item for item in missing if item[1] not in ("-h",)] == []


def declared(server: type[InstrumentServer]) -> dict[str, str]:
    """Return the unit of each attribute and command that a server declares itself, by its name."""
    common = (
        set()
        if server is InstrumentServer
        else {*_tango(server, "attr"), *_tango(server, "cmd")}
        & {
            *_tango(InstrumentServer, "attr"),
            *_tango(InstrumentServer, "cmd"),
        }
    )
    units = {name: vars(one)["_kwargs"].get("unit", "") for name, one in _tango(server, "attr").items()}
    units |= {f"{name}()": "" for name in _tango(server, "cmd")}
    return {name: one for name, one in units.items() if name.removesuffix("()") not in common}


def _tango(server: Any, kind: str) -> dict[str, Any]:
    return dict(getattr(server.TangoClassClass, f"{kind}_list"))


@pytest.mark.parametrize(
    ("section", "wanted"),
    [
        ("Every server", declared(InstrumentServer)),
        ("Column", declared(ColumnServer) | {setting.name: setting.unit for setting in SETTINGS}),
        ("Stage", declared(StageServer)),
        ("Camera", declared(CameraServer)),
        ("Sequencer", declared(SequencerServer)),
        ("MontageControl", declared(ControlServer)),
        ("Loader", declared(LoaderServer)),
        ("Facility", {signal.name: signal.unit for signal in FACILITY_SIGNALS}),
    ],
)
def test_every_attribute_and_command_is_documented(section: str, wanted: dict[str, str]) -> None:
    rows = table(DOCS / "reference" / "devices.md", section)
    assert {name: cells[0] for name, cells in rows.items()} == wanted


def test_every_tile_column_and_fault_is_documented() -> None:
    rows = table(DOCS / "reference" / "documents.md")
    assert {column.name: rows.get(column.name, [""])[0] for column in TILE_COLUMNS} == {
        column.name: column.unit for column in TILE_COLUMNS
    }
    assert set(table(DOCS / "how-to" / "simulate-faults.md")) == set(FAULT_NAMES)


def test_every_error_is_documented() -> None:
    from devices.frames import FrameMissed
    from montango.lab.errors import LabAlreadyUp, LabError, LabNotRunning

    names = {*ERROR_CLASSES, *(one.__name__ for one in (FrameMissed, LabError, LabNotRunning, LabAlreadyUp))}
    assert set(table(DOCS / "reference" / "errors.md")) == names


def test_decision_records() -> None:
    assert [page.name[:4] for page in DECISIONS] == [f"{n:04d}" for n in range(1, len(DECISIONS) + 1)]
    for page in DECISIONS:
        text = page.read_text()
        assert len(text.splitlines()) < 60, f"{page.name} has 60 lines or more"
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"], (
            page.name
        )


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_no_paths_of_a_machine() -> None:
    files = [path for top in SOURCES for path in (ROOT / top).rglob("*") if "__pycache__" not in path.parts]
    files += [
        path
        for path in ROOT.iterdir()
        if path.suffix in (".md", ".toml", ".yaml", ".lock") or path.name == "Makefile"
    ]
    found = [
        f"{path.relative_to(ROOT)}: {mark}"
        for path in files
        if path.is_file()
        for mark in MACHINE_PATHS
        if mark in path.read_text(errors="replace")
    ]
    assert found == []
