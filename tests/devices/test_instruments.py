"""Servers and wrappers over the simulated microscope, in a laboratory that is up."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import h5py
import numpy as np
import pytest
import tango
from bluesky.run_engine import RunEngine, call_in_bluesky_event_loop
from bluesky.utils import FailedStatus, Msg
from ophyd_async.core import SignalR

from devices.column.settings import SETTINGS
from devices.errors import Aborted, InstrumentFault, LimitError
from devices.sequencer.driver import MoveOptions, Table, TileRequest, pack, unpack
from devices.stage.moves import MoveRequest
from devices.tiles import SEQUENCER_COLUMNS, TILE_COLUMNS
from montango.lab import Lab
from plans.preprocessors import cause_of
from tests.devices.instruments_bench import proxy, refused

if TYPE_CHECKING:
    from profiles.simulated.devices import Devices

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

SUFFIX_UNITS = {
    "nm_s": "nm/s",
    "um": "um",
    "nm": "nm",
    "mm": "mm",
    "deg": "deg",
    "mrad": "mrad",
    "kv": "kV",
    "na": "nA",
    "pa": "Pa",
    "s": "s",
    "px": "px",
    "hz": "Hz",
    "degc": "degC",
}


def signals(devices: Devices) -> list[tuple[str, str, SignalR[Any]]]:
    """Return device name, attribute and signal of every signal of the Tango devices."""
    return [
        (name, attribute, child)
        for name, device in devices.named().items()
        if name != "facility"
        for attribute, child in device.children()
        if isinstance(child, SignalR) and attribute not in ("State", "events_to_kickoff")
    ]


def one_tile(**options: float) -> Any:
    """Return a packed table of one tile near the left limit of the stage."""
    return pack(Table((TileRequest(0, 0, 0, 0, 0, 988.0, 0.0, 0.0),), MoveOptions(**options)))  # type: ignore[arg-type]


def test_name_tango_unit_and_ophyd_unit_agree(lab: Lab, devices: Devices) -> None:
    compared = 0
    for name, attribute, child in signals(devices):
        unit = proxy(lab, name).get_attribute_config(attribute).unit
        described = call_in_bluesky_event_loop(child.describe())[child.name].get("units", "")
        assert (unit or "") == (described or ""), f"{name}/{attribute}"
        suffix = next((s for s in SUFFIX_UNITS if attribute.endswith(f"_{s}")), None)
        if suffix:
            compared += 1
            assert unit == SUFFIX_UNITS[suffix], f"{name}/{attribute}"
    assert compared > 25


def test_every_attribute_pushes_change_events(lab: Lab, devices: Devices) -> None:
    for name in ("column", "stage", "camera", "sequencer"):
        device = proxy(lab, name)
        for attribute in device.get_attribute_list():
            if attribute == "Status":
                continue
            events: list[Any] = []
            subscription = device.subscribe_event(attribute, tango.EventType.CHANGE_EVENT, events.append)
            device.unsubscribe_event(subscription)
            assert events, f"{name}/{attribute}"
            assert not events[0].err, f"{name}/{attribute}: {events[0].errors}"


def test_every_writable_setting_has_limits_or_choices(lab: Lab) -> None:
    column = proxy(lab, "column")
    for setting in SETTINGS:
        config = column.get_attribute_config(setting.name)
        writable = config.writable == tango.AttrWriteType.READ_WRITE
        assert writable == setting.writable
        if writable and setting.kind in ("float", "int", "pair"):
            assert float(config.min_value) == setting.low
            assert float(config.max_value) == setting.high
        if setting.alarm:
            assert float(config.alarms.max_alarm) == setting.alarm[1]


def test_stage_moves_and_reads_back(engine: RunEngine, devices: Devices) -> None:
    engine(bps.mv(devices.stage, (12.5, -7.25)))
    position, _ = call_in_bluesky_event_loop(devices.stage.position_now())
    assert position[:2] == pytest.approx((12.5, -7.25), abs=0.5)
    engine(bps.mv(devices.stage.x, 3.0))
    position, _ = call_in_bluesky_event_loop(devices.stage.position_now())
    assert position[:2] == pytest.approx((3.0, -7.25), abs=0.5)


def test_a_careful_move_is_a_status_with_a_result(engine: RunEngine, devices: Devices) -> None:
    statuses: list[Any] = []

    def plan() -> Generator[Msg, Any, None]:
        statuses.append((yield from bps.abs_set(devices.stage, MoveRequest(4.0, -2.0), wait=True)))
        yield from bps.abs_set(devices.stage, MoveRequest(4.0, 1e4), wait=True)

    assert isinstance(refused(engine, plan()), LimitError)
    result = statuses[0].result()
    assert (result.x_um, result.y_um, result.tries) == (
        pytest.approx(4.0, abs=0.5),
        pytest.approx(-2.0, abs=0.5),
        1,
    )


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ((1e4, 0.0), ["x_um", "10000", "990"]),
        ((0.0, -991.0), ["y_um", "-991", "-990"]),
        ((math.nan, math.nan, 376.0), ["z_um", "376", "375"]),
        ((1.0,), ["x_um, y_um"]),
    ],
)
def test_stage_out_of_range_is_refused_in_the_plan(
    engine: RunEngine, devices: Devices, target: tuple[float, ...], words: list[str]
) -> None:
    before, _ = call_in_bluesky_event_loop(devices.stage.position_now())
    error = refused(engine, bps.mv(devices.stage, target))
    assert isinstance(error, LimitError)
    for word in words:
        assert word in str(error)
    after, _ = call_in_bluesky_event_loop(devices.stage.position_now())
    assert after == pytest.approx(before, abs=0.05)


@pytest.mark.parametrize(
    ("name", "command", "argument"),
    [
        ("stage", "MoveTo", [1e4, 0.0]),
        ("stage", "MoveAndSettle", [0.0, 1e4, 0.0]),
        ("stage", "MoveAndSettle", [0.0] * 11),
        ("stage", "MoveAndSettle", [0.0, 0.0, -1.0]),
        ("stage", "MoveAndSettle", [0.0, 988.0, 0.0, 0.0, 3, 0.0, -5.0]),
        ("stage", "MoveAndSettle", [0.0, 0.0, 0.0, 0.0, 3, 0.0, 0.0, 1, 2.0]),
        ("sequencer", "QueueTable", pack([TileRequest(0, 0, 0, 0, 0, 1e4, 0.0, 0.0)])),
        ("sequencer", "QueueTable", pack([TileRequest(0, 0, 0, 0, 0, 0.0, 0.0, -1.0)])),
        ("sequencer", "QueueTable", one_tile(approach_x_um=-5.0)),
        ("sequencer", "QueueTable", one_tile(settle_mode=1, settle_limit_nm_s=2.0)),
        ("sequencer", "QueueTable", one_tile(settle_mode=3)),
        ("sequencer", "QueueTable", one_tile(blanking=3)),
        ("sequencer", "QueueTable", one_tile(tolerance_um=-1.0)),
        ("sequencer", "QueueTable", [1.0, 2.0]),
        ("sequencer", "Acquire", " "),
        ("camera", "Expose", [1.0]),
        ("camera", "Snap", [1e6]),
        ("camera", "Snap", [0.01, 3.0]),
        ("camera", "Snap", [0.01, 1.0, 200.0, 0.0, 100.0, 100.0]),
        ("camera", "Arm", 0),
        ("column", "Normalize", "NOSUCH"),
    ],
)
def test_server_refuses_by_itself(lab: Lab, name: str, command: str, argument: Any) -> None:
    with pytest.raises(tango.DevFailed) as caught:
        proxy(lab, name).command_inout(command, argument)
    assert caught.value.args[0].reason == "Montango_LimitError"


def test_setting_out_of_range_is_refused_and_unchanged(lab: Lab, engine: RunEngine, devices: Devices) -> None:
    before = proxy(lab, "column").defocus_um
    with pytest.raises(FailedStatus):
        engine(bps.mv(devices.column.defocus_um, 5000.0))
    assert proxy(lab, "column").defocus_um == before
    engine(bps.mv(devices.column.defocus_um, -3.5))
    assert proxy(lab, "column").defocus_um == -3.5
    engine(bps.mv(devices.column.defocus_um, before))


def test_exposure_out_of_range_names_the_limit(lab: Lab, engine: RunEngine, devices: Devices) -> None:
    with pytest.raises(FailedStatus):
        engine(bps.mv(devices.camera.exposure_time_s, 1e6))
    with pytest.raises(tango.DevFailed) as caught:
        proxy(lab, "camera").exposure_time_s = 1e6
    assert "exposure" in caught.value.args[0].desc
    assert caught.value.args[0].reason == "Montango_LimitError"


def test_stock_count_takes_frames(engine: RunEngine, devices: Devices) -> None:
    documents: list[tuple[str, Any]] = []
    engine(bp.count([devices.camera], num=3), lambda name, doc: documents.append((name, doc)))
    uri = next(doc["uri"] for name, doc in documents if name == "stream_resource")
    with h5py.File(uri.removeprefix("file://localhost"), "r", libver="latest", swmr=True) as file:
        assert file["/entry/data"].shape == (3, 256, 256)
        assert set(file["/entry/tiles"]) == {column.name for column in TILE_COLUMNS}
        counts = file["/entry/tiles/exposure_count"][:]
    assert (np.diff(counts) == 1).all()


def test_stock_scan_of_one_axis(engine: RunEngine, devices: Devices) -> None:
    events: list[Any] = []
    scan = bp.scan([devices.column], devices.stage.x, -4, 4, 3)
    engine(scan, {"event": [lambda name, doc: events.append(doc)]})
    assert [event["data"]["stage-x"] for event in events] == pytest.approx([-4, 0, 4], abs=0.5)


def test_expose_without_a_file_says_so(lab: Lab) -> None:
    camera = proxy(lab, "camera")
    camera.CloseFile()
    with pytest.raises(tango.DevFailed) as caught:
        camera.Expose([0.0] * len(SEQUENCER_COLUMNS))
    assert "no file is open" in caught.value.args[0].desc


def test_what_is_queued_behind_a_failure_is_not_begun_even_when_that_is_over(
    lab: Lab, devices: Devices
) -> None:
    def table(raster_index: int) -> list[TileRequest]:
        return [TileRequest(raster_index, 0, 0, 0, 0, 0.0, 0.0, 0.0)]

    async def queue() -> None:
        first = devices.sequencer.set(table(7))
        with pytest.raises(InstrumentFault, match="no file is open"):
            await first
        behind = devices.sequencer.set(table(8), behind=[first])
        with pytest.raises(Aborted, match="a table before it has failed") as refused:
            await behind
        assert "no file is open" in str(cause_of(refused.value))
        # and in the moment in which the server knows of the failure, and the client does not
        (failed,) = await devices.sequencer.read_now("failed_id")
        devices.sequencer._running.add(int(failed))
        try:
            with pytest.raises(InstrumentFault, match="no file is open") as followed:
                await devices.sequencer.set(table(9))
        finally:
            devices.sequencer._running.clear()
        assert "no file is open" in str(cause_of(followed.value))

    call_in_bluesky_event_loop(queue())
    assert proxy(lab, "sequencer").current_tile == 7


def test_table_round_trip() -> None:
    tiles = tuple(
        TileRequest(k, 1, k // 3, k % 3, 0, 1.5 * k, -k, 0.05, 0.1 * k, 0.2, -2.0, 0.03, 0.1, 0.2, 12.5)
        for k in range(7)
    )
    table = Table(tiles, MoveOptions(0.5, 2, 5.0, -5.0, 2, 20.0, 3.0, 0.02, 8, 1))
    packed = pack(table, token=7)
    assert unpack(packed) == (table, 7)
    assert unpack(pack(tiles))[0].tiles[3].x_um == 4.5
    for broken in (packed[:-1], packed[:11], packed[:0]):
        with pytest.raises(LimitError, match="table"):
            unpack(broken)


def test_facility_signals_are_read_in_the_same_engine(engine: RunEngine, devices: Devices) -> None:
    devices.facility.wait_for_connection(timeout=20)
    events: list[Any] = []
    engine(bp.count([devices.facility, devices.column]), {"event": [lambda name, doc: events.append(doc)]})
    data = events[0]["data"]
    assert 15 < data["facility_hall_temperature_degc"] < 30
    assert data["facility_water_flow_l_min"] > 0
    assert "column-defocus_um" in data


def test_a_table_queued_while_the_beam_is_being_blanked_is_exposed_with_beam(
    lab: Lab, engine: RunEngine, devices: Devices
) -> None:
    camera, sequencer, column = (proxy(lab, name) for name in ("camera", "sequencer", "column"))
    path = str(lab.state.root / "data" / "late_tables.h5")
    camera.OpenFile(path)
    before = sequencer.tiles_done
    for count in range(1, 31):
        table = sequencer.QueueTable(pack([TileRequest(count, 0, 0, 0, 0, 0.0, 0.0, 0.0)]))
        while sequencer.tiles_done < before + count or not column.beam_blanked:
            assert sequencer.failed_id < table, sequencer.last_error
    while sequencer.tables_done < table:
        assert sequencer.failed_id < table, sequencer.last_error
    assert column.beam_blanked
    camera.CloseFile()
    with h5py.File(path, "r") as file:
        means = file["/entry/data"][:].mean(axis=(1, 2))
    assert len(means) == 30
    assert means.min() > 0.5 * np.median(means)
