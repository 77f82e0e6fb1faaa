"""A montage to be exported, from a Tiled catalog; frames from their files where these are at hand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd

from devices.errors import ConfigurationError
from devices.tiles import IMAGE_KEY, TILE_COLUMNS, TILE_GROUP
from plans.judgements import PLAN_NAME, RUN_KEY
from plans.record import PURPOSES
from processing.callbacks._frame_file import read_parts
from processing.frame_list import unlisted
from tiled_server.client.address import Address, montage_id_of
from tiled_server.exports.montage import Montage, Mosaic, Run, make_table

_RECIPE = "live_mosaic"


def from_address(address: str, api_key: str = "") -> Montage:
    """Return a montage of a catalog with all its attempts.

    Parameters
    ----------
    address
        ``http://HOST:PORT/NAME``, also as the server's pages have it; NAME is a montage id or the uid of one
        of its runs, and may have an ``?api_key=`` after it.
    api_key
        What opens the server; empty: that of the address, or of the variable TILED_API_KEY.

    Raises
    ------
    ConfigurationError
        No server answers, or it does not have the montage.
    """
    where = Address.parse(address, api_key)
    with where.asked():
        return from_client(where.catalog(), where.name, api_key=where.api_key)


def from_client(
    catalog: Any, name: str, *, api_key: str = "", readable: Sequence[Path] | None = None
) -> Montage:
    """Return a montage of a catalog with all its attempts.

    Parameters
    ----------
    catalog
        A Tiled client of the catalog.
    name
        Montage id, or the uid of one of its runs.
    api_key
        What opens the server, for frames that are read over HTTP.
    readable
        Folders in which files may be read; None: any that this process may.

    Raises
    ------
    ConfigurationError
        The catalog does not have it.
    """
    from tiled.queries import Key

    montage_id = montage_id_of(catalog, name)
    found = catalog.search(Key("start.montage_id") == montage_id).values()
    nodes = sorted(found, key=lambda one: float(one.metadata["start"]["time"]))
    files = _Files(readable)
    runs, frames, missing = [], [], []
    for node in nodes:
        if node.metadata["start"].get("purpose") in PURPOSES and "tiles" in node:
            run = _run(node, files, api_key)
            runs.append(run)
            frames.append(_columns(node, run))
            missing += files.missing(run, int(node["tiles"][IMAGE_KEY].shape[0]))
    if not runs:
        raise ConfigurationError(
            f"the catalog has no montage {montage_id!r} with tiles; montango journal replay completes it"
        )
    verdicts = pd.concat([pd.DataFrame({"run_uid": []}), *_verdicts(nodes)], ignore_index=True)
    placed, mosaics = _mosaics(nodes, files)
    table = make_table(pd.concat(frames, ignore_index=True), verdicts, placed)
    return Montage(montage_id, tuple(runs), table, mosaics, tuple(missing))


class _Files:
    """Which files of the catalog may be read here, past the server."""

    def __init__(self, readable: Sequence[Path] | None) -> None:
        self._folders = None if readable is None else [folder.resolve() for folder in readable]

    def allowed(self, path: Path) -> bool:
        """Return whether a file or folder is there, and in a folder that may be read."""
        whole = path.resolve()
        inside = self._folders is None or any(whole.is_relative_to(folder) for folder in self._folders)
        return inside and whole.exists()

    def of(self, node: Any) -> Path | None:
        """Return the file or folder that an array of the catalog is in, if it may be read here."""
        for source in node.data_sources() or ():
            for asset in source.assets:
                parts = urlsplit(asset.data_uri)
                path = Path(unquote(parts.path))
                if parts.scheme == "file" and self.allowed(path):
                    return path if self._all_listed(path) else None
        return None

    def _all_listed(self, path: Path) -> bool:
        """Return whether all files may be read that a list of frames names; a file that is none may."""
        return path.suffix != ".h5" or self._folders is None or not unlisted(path, self._folders)

    def missing(self, run: Run, announced: int) -> list[str]:
        """Return which frames of a run its file does not have, where it is at hand."""
        from processing.stored_frames import stored_frames

        if run.path is None:
            return []
        there = {frame.index for frame in stored_frames(run.path) if frame.readable}
        return [
            f"run {run.uid}: frame {index} is not in {run.path}"
            for index in range(announced)
            if index not in there
        ]


def _run(node: Any, files: _Files, api_key: str) -> Run:
    image = node["tiles"][IMAGE_KEY]
    *_, height, width = image.shape
    path = files.of(image)
    start, stop = node.metadata["start"], node.metadata.get("stop") or {}
    settings = dict(_settings(node))
    return Run(start["uid"], start, stop, settings, (width, height), path, image.uri, api_key)


def _settings(node: Any) -> Iterator[tuple[str, Any]]:
    for stream in ("tiles", "baseline"):
        if stream in node:
            for device in (node[stream].metadata.get("configuration") or {}).values():
                yield from (device.get("data") or {}).items()
    if "baseline" in node:
        read = node["baseline"].read()
        names = [str(name) for name in read if not str(name).startswith(("ts_", "seq_num", "time"))]
        for name in names:
            values = np.asarray(read[name])
            if len(values):
                yield (
                    name,
                    values[0].tolist() if isinstance(values[0], np.ndarray | np.generic) else values[0],
                )


def _events(stream: Any) -> pd.DataFrame:
    """Return the events of a stream, one row each."""
    read = stream.read()
    frame = read if isinstance(read, pd.DataFrame) else read.to_dataframe()
    return frame.reset_index(drop=True)


def _columns(node: Any, run: Run) -> pd.DataFrame:
    tiles = node["tiles"]
    count = int(tiles[IMAGE_KEY].shape[0])
    columns: dict[str, Any] = {"run_uid": run.uid, "tile_index": np.arange(count)}
    columns |= {column.name: np.full(count, math.nan) for column in TILE_COLUMNS}
    columns["roi"] = np.zeros(count)
    for name, values in _numbers(tiles, run, count):
        columns[name] = np.asarray(values, np.float64).reshape(-1)[:count]
    return pd.DataFrame(columns)


def _numbers(tiles: Any, run: Run, count: int) -> Iterator[tuple[str, Any]]:
    """Yield the columns of a run: from its file in one go, or else from the server one by one."""
    names = [column.name for column in TILE_COLUMNS]
    if run.path is not None:
        try:
            datasets = [f"{TILE_GROUP}/{name}" for name in names]
            yield from zip(names, read_parts(run.path, datasets, slice(0, count)), strict=True)
        # a file that lacks a column
        except (OSError, KeyError, ValueError, RuntimeError):
            pass
        else:
            return
    known = set(tiles)
    for name in names:
        if name in known:
            yield name, tiles[name].read()


def _verdicts(nodes: Sequence[Any]) -> Iterator[pd.DataFrame]:
    """Yield the verdicts: those that were given afterwards first, as any of the run itself counts more."""
    for late in (True, False):
        for node in nodes:
            start = node.metadata["start"]
            if "qc" not in node or (start.get("plan_name") == PLAN_NAME) != late:
                continue
            events = _events(node["qc"])
            kept = [name for name in events if not str(name).startswith(("ts_", "seq_num", "time"))]
            events = events[kept]
            yield events.rename(columns={RUN_KEY: "run_uid"}) if late else events.assign(run_uid=start["uid"])


def _mosaics(nodes: Sequence[Any], files: _Files) -> tuple[pd.DataFrame | None, tuple[Mosaic, ...]]:
    """Return the alignment of the newest live mosaic of each region, and the mosaics."""
    newest: dict[int, Any] = {}
    for node in nodes:
        start: Mapping[str, Any] = node.metadata["start"]
        if start.get("plan_name") == _RECIPE:
            newest[int(start.get("roi", 0))] = node
    placed, mosaics = [], []
    for roi, node in sorted(newest.items()):
        start = node.metadata["start"]
        if "alignment" in node:
            placed.append(_events(node["alignment"]))
        level = files.of(node["mosaic"]["level_0"]) if "mosaic" in node else None
        solution = Path(str(start.get("solution") or "/none"))
        # level 0 is a folder of the mosaic's
        folder = None if level is None or not (level.parent / "zarr.json").is_file() else level.parent
        mosaics.append(
            Mosaic(start["uid"], roi, start, folder, solution if files.allowed(solution) else None)
        )
    return (pd.concat(placed, ignore_index=True) if placed else None), tuple(mosaics)
