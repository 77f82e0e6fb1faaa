"""What a montage and its results come from."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import pandas as pd

from tiled_server.client.runs import start_of, stop_of, uid_of

_ABOUT: Final = ("sample", "operator", "proposal", "data_session", "instrument")
_FILES: Final = ("mosaic", "solution", "png")
Tree = list["tuple[str, Tree]"]


class Provenance(dict[str, Any]):
    """Runs, calibrations, software and results of a montage: a dictionary of JSON that prints as a tree.

    Keys: ``montage_id``; ``about`` (sample, operator, ...); ``calibration`` (size of a pixel, rotation);
    ``runs``, ``calibrations`` and ``results``, a list each, oldest first; ``software``, name to versions.
    """

    def text(self) -> str:
        """Return it as a tree in text."""
        about = ", ".join(f"{name} {value}" for name, value in self["about"].items())
        return "\n".join([f"montage {self['montage_id']} ({about})", *_drawn(self._tree(), "")])

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.text())}</pre>"

    def _tree(self) -> Tree:
        tree: Tree = [(_run_line(run), []) for run in self["runs"]]
        calibrations: Tree = [(_calibration_line(one), []) for one in self["calibrations"]]
        tree.append((f"calibrations: {len(calibrations) or 'none named'}", calibrations))
        software = ", ".join(f"{name} {' and '.join(found)}" for name, found in self["software"].items())
        tree.append((f"software: {software or 'not recorded'}", []))
        tree.append(
            (f"results: {len(self['results']) or 'none'}", [_result_line(one) for one in self["results"]])
        )
        return tree


def provenance(
    client: Any, montage_id: str, runs: Sequence[Any], results: Sequence[Any], tiles: pd.DataFrame
) -> Provenance:
    """Return what a montage comes from, and what was made of it.

    Parameters
    ----------
    client
        Of the catalog: the calibrations are looked up in it.
    montage_id
        The montage.
    runs, results
        The runs that acquired, and those of results, oldest first.
    tiles
        As `Montage.tiles`: how many frames each run has.
    """
    frames = tiles["run_uid"].value_counts()
    first = start_of(runs[0])
    software: dict[str, list[str]] = {}
    uids: dict[str, None] = {}
    for run in runs:
        start = start_of(run)
        for name, version in (start.get("software") or {}).items():
            software.setdefault(name, [])
            if str(version) not in software[name]:
                software[name].append(str(version))
        named = start.get("calibration_uids") or ()
        uids |= dict.fromkeys(named.values() if isinstance(named, Mapping) else named)
    return Provenance(
        montage_id=montage_id,
        about={name: first[name] for name in _ABOUT if name in first},
        calibration=dict(first.get("calibration") or {}),
        runs=[_run(run, int(frames.get(uid_of(run), 0))) for run in runs],
        calibrations=[_calibration(client, str(uid)) for uid in uids],
        software=software,
        results=[_result(run) for run in results],
    )


def _run(run: Any, frames: int) -> dict[str, Any]:
    start, stop = start_of(run), stop_of(run) or {}
    return {
        "uid": uid_of(run),
        "plan_name": start.get("plan_name"),
        "started": start["time"],
        "ended": stop.get("time"),
        "exit_status": stop.get("exit_status"),
        "reason": stop.get("reason") or "",
        "resumes": list(start.get("resumes") or ()),
        "replaces": list(start.get("replaces") or ()),
        "frames": frames,
    }


def _calibration(client: Any, uid: str) -> dict[str, Any]:
    try:
        start = start_of(client[uid])
    except (KeyError, ValueError):
        return {"uid": uid, "found": False, "what": None, "time": None}
    what = start.get("kind") or start.get("calibration_kind") or start.get("plan_name")
    return {"uid": uid, "found": True, "what": what, "time": start["time"]}


def _result(run: Any) -> dict[str, Any]:
    start = start_of(run)
    return {
        "uid": uid_of(run),
        "recipe": start.get("recipe") or start.get("plan_name"),
        "time": start["time"],
        "inputs": list(start.get("input_uids") or ()),
        "parameters": dict(start.get("parameters") or {}),
        "software": dict(start.get("software") or {}),
        "files": {name: start[name] for name in _FILES if name in start},
        "roi": start.get("roi"),
    }


def _run_line(run: Mapping[str, Any]) -> str:
    end = run["exit_status"] or "goes on"
    reason = f" ({run['reason']})" if run["reason"] else ""
    resumes = f", resumes {', '.join(uid[:8] for uid in run['resumes'])}" if run["resumes"] else ""
    return (
        f"run {run['uid'][:8]} {run['plan_name']}, {_when(run['started'])}, {run['frames']} frames, "
        f"{end}{reason}{resumes}"
    )


def _calibration_line(one: Mapping[str, Any]) -> str:
    about = f"{one['what']}, {_when(one['time'])}" if one["found"] else "(not in this catalog)"
    return f"{one['uid'][:8]} {about}"


def _result_line(result: Mapping[str, Any]) -> tuple[str, Tree]:
    region = f", region {result['roi']}" if result["roi"] is not None else ""
    inputs = ", ".join(uid[:8] for uid in result["inputs"])
    parameters = ", ".join(f"{name} {value}" for name, value in result["parameters"].items())
    software = ", ".join(f"{name} {value}" for name, value in result["software"].items())
    lines = [
        f"of {inputs}",
        *([f"with {parameters}"] if parameters else []),
        *([f"by {software}"] if software else []),
    ]
    head = f"{result['recipe']} {result['uid'][:8]}{region}, {_when(result['time'])}"
    return head, [(line, []) for line in lines]


def _when(time_s: float) -> str:
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _drawn(tree: Tree, indent: str) -> list[str]:
    lines = []
    for at, (text, inner) in enumerate(tree):
        last = at == len(tree) - 1
        lines.append(f"{indent}{'└─ ' if last else '├─ '}{text}")
        lines += _drawn(inner, indent + ("   " if last else "│  "))
    return lines
