"""Sums of rows, contents of runs, and what is read of an array: without a server."""

from __future__ import annotations

import math
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiled.structures.core import StructureFamily

from devices.errors import ConfigurationError
from montango.cli.catalog_moving import _address
from montango.lab import Lab
from processing.frame_list import MIMETYPE
from tiled_server.moving.content import content_of, differences
from tiled_server.moving.exported import exported_documents, frame_reader, stream_parameters
from tiled_server.moving.sums import Compared, Sum, plain, row_bytes, values_bytes

HDF5 = "application/x-hdf5"


def test_a_sum_is_of_rows_in_any_order() -> None:
    rows = [b"a", b"b", b"b", b"c"]
    assert Sum().plus(rows) == Sum().plus(rows[2:]).plus(rows[:2])
    assert Sum().plus(rows) != Sum().plus([b"a", b"b", b"c", b"c"])
    assert Sum().plus([b"ab"]) != Sum().plus([b"a", b"b"])


def test_a_row_is_the_same_whatever_the_database_makes_of_it() -> None:
    sqlite = {
        "b": 1e5,
        "a": {"y": -0.0, "x": [1, 2.5]},
        "kind": StructureFamily.array,
        "at": datetime(2026, 1, 2),
    }
    postgres = {"at": datetime(2026, 1, 2), "kind": "array", "a": {"x": (1, 2.5), "y": 0}, "b": 100000}
    assert row_bytes(sqlite) == row_bytes(postgres)
    assert row_bytes({"a": 1}) != row_bytes({"a": True})
    assert row_bytes({"a": "1"}) != row_bytes({"a": 1})
    assert plain({"a": math.inf, 3: b"\x01"}) == {"a": None, "3": "01"}
    assert list(values_bytes([[1.0, math.nan], ["x", None]])) == list(
        values_bytes([[1.0, None], ["x", None]])
    )


def test_what_is_compared_is_said() -> None:
    same, other = Sum().plus([b"a"]), Sum().plus([b"b"])
    assert str(Compared("nodes", same, same)) == "nodes: 1 rows, equal"
    assert str(Compared("nodes", same, other)) == "nodes: 1 rows, of which some differ"
    assert str(Compared("nodes", same, Sum())) == "nodes: 1 rows here, 0 there"


def test_a_resource_gets_back_what_the_server_leaves_out() -> None:
    source = SimpleNamespace(
        assets=[SimpleNamespace(num=number, data_uri=f"file://localhost/{number}") for number in (2, 0, 1)]
    )
    array: Any = SimpleNamespace(
        chunks=((2, 2, 1), (1,), (8,), (8,)),
        include_data_sources=lambda: SimpleNamespace(data_sources=lambda: [source]),
    )
    given = {"dataset": "/entry/data", "locking": None, "join_method": "concat", "swmr": True}
    assert stream_parameters({"mimetype": HDF5, "parameters": given}, array) == {
        "dataset": "/entry/data", "swmr": True, "chunk_shape": [2, 1, 8, 8]
    }  # fmt: skip
    listed = {"mimetype": MIMETYPE, "parameters": {"one_each": True, "template": "%d"}}
    assert stream_parameters(listed, array) == {
        "files": ["file://localhost/1", "file://localhost/2"], "one_each": True, "chunk_shape": [2, 1, 8, 8]
    }  # fmt: skip


class _Array:
    """An array of a server; counts what is asked for."""

    def __init__(self, data: Any, nbytes: int) -> None:
        self._data, self.ndim, self.nbytes = data, data.ndim, nbytes
        self.asked: list[str] = []

    def __getitem__(self, key: slice) -> Any:
        self.asked.append(f"{key.start}:{key.stop}")
        return self._data[key]

    def read(self) -> Any:
        self.asked.append("all")
        return self._data


@pytest.mark.parametrize(
    ("shape", "frame", "rows"),
    [((4, 1, 2, 3), [1, 2, 3], 1), ((8, 3), [2, 3], 2), ((4,), [1], 1), ((4, 5), [5], 1)],
)
def test_a_frame_is_read_alone_or_a_small_array_at_once(
    shape: tuple[int, ...], frame: list[int], rows: int
) -> None:
    data = np.arange(math.prod(shape)).reshape(shape)
    large, small = _Array(data, 10**9), _Array(data, 100)
    for array in (large, small):
        read = frame_reader(array, frame)
        for index in (0, 2):
            np.testing.assert_array_equal(read(index), data[rows * index : rows * (index + 1)])
    assert large.asked == [f"0:{rows}", f"{2 * rows}:{3 * rows}"]
    assert small.asked == ["all"]


def test_an_event_may_be_older_than_its_descriptor() -> None:
    lines = [
        '{"name": "start", "doc": {"uid": "s"}}', '{"name": "event", "doc": {"time": 1}}',
        '{"name": "descriptor", "doc": {"time": 2}}', '{"name": "stream_datum", "doc": {}}',
        '{"name": "stream_resource", "doc": {}}', '{"name": "stop", "doc": {}}',
    ]  # fmt: skip
    node = SimpleNamespace(
        export=lambda buffer, format: buffer.write("".join(f"\x1e{x}\n" for x in lines).encode())
    )
    assert [name for name, _ in exported_documents(node)] == [
        "start", "descriptor", "event", "stream_resource", "stream_datum", "stop"
    ]  # fmt: skip


def _documents(**changes: Any) -> list[tuple[str, dict[str, Any]]]:
    key = {"source": "x", "dtype": "number", "shape": [], "units": changes.get("units", "um")}
    event = {"descriptor": "d", "seq_num": 1, "time": 1.0, "data": {"a": changes.get("a", 1.0)}}
    resource = {
        "uid": "r",
        "data_key": "image",
        "mimetype": HDF5,
        "uri": "file://localhost/x",
        "parameters": {},
    }
    span = {"start": 0, "stop": changes.get("frames", 3)}
    return [
        ("start", {"uid": "s", "time": 1, "sample": changes.get("sample", "m"), "tiled_specs": [changes]}),
        (
            "descriptor",
            {"uid": "d", "name": changes.get("stream", "qc"), "data_keys": {"a": key, "image": key}},
        ),
        ("event", {**event, "timestamps": {"a": 1.0}}),
        ("stream_resource", resource),
        ("stream_datum", {"descriptor": "d", "stream_resource": "r", "indices": span}),
        ("stop", {"exit_status": "success"}),
    ]


def _frames(add: int) -> Any:
    """Return what reads frames that have their index in every pixel, and something added."""
    return lambda *_: lambda index: np.full((2, 2), index + add, np.uint16)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"a": 1}, []),
        ({"sample": "n"}, ["start: sample is 'm' and 'n'"]),
        ({"a": 2}, ["qc: event 1 data: a is 1 and 2"]),
        ({"a": math.nan}, ["qc: event 1 data: a is 1 and None"]),
        ({"units": "nm"}, ["qc: descriptor data_keys a: units is 'um' and 'nm'"] * 2),
        ({"frames": 2}, ["qc: image has 3 and 2 frames"]),
        ({"pixel": 1}, ["qc: image has other values"]),
        ({"stream": "tiles"}, ["streams: qc is only in the first", "streams: tiles is only in the second"]),
    ],
)
def test_what_differs_between_two_runs(changes: dict[str, Any], said: list[str]) -> None:
    first, second = (content_of(_documents(**some), _frames(some.get("pixel", 0))) for some in ({}, changes))
    found = [one.replace(" image:", " a:") for one in differences(first, second)]
    assert found == said


def test_an_address_may_be_in_a_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    lab = Lab(None, tmp_path)
    monkeypatch.setenv("MONGO", "mongodb://ada:sesame@host/runs")
    assert _address("$MONGO", lab) == ("mongodb://ada:sesame@host/runs", "")
    assert _address("http://host", lab) == ("http://host", "")
    with pytest.raises(ConfigurationError, match="variable NOWHERE of the environment is not set"):
        _address("$NOWHERE", lab)
