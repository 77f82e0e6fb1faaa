"""The simulated facility, read over Channel Access by another process."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from devices.facility.signals import FACILITY_SIGNALS, FAULT_CHOICES, FacilitySignal
from sim.ca_repeater import confirm_clients
from sim.facility_ioc import Wander

PREFIX = "TEST:FAC:"
CLIENT = """
import json, sys, epics
from devices.facility.signals import FACILITY_SIGNALS
prefix = sys.argv[1]
answer = {}
for item in FACILITY_SIGNALS:
    pv = epics.PV(prefix + item.pv, form="ctrl")
    answer[item.pv] = [pv.get(timeout=60), pv.units, pv.precision, pv.lower_alarm_limit, pv.upper_alarm_limit]
fault, water = epics.PV(prefix + "FAULT"), epics.PV(prefix + "WATER_FLOW", form="time", auto_monitor=False)
answer["choices"] = [fault.get(as_string=True), *fault.enum_strs]
severities = []
for state in ("WATER_FLOW", "NONE"):
    fault.put(state, wait=True)
    for _ in range(1500):
        water.get(use_monitor=False)
        if (water.severity == 2) == (state != "NONE"):
            break
        epics.ca.poll(0.02)
    severities.append(water.severity)
answer["severities"] = severities
values = []
flow, setting = epics.PV(prefix + "WATER_FLOW", auto_monitor=False), epics.PV(prefix + "WATER_FLOW:SIM")
for value in (1.25, float("nan")):
    setting.put(value, wait=True)
    for _ in range(1500):
        if (flow.get(use_monitor=False) == 1.25) == (value == 1.25):
            break
        epics.ca.poll(0.02)
    values.append(flow.get(use_monitor=False))
answer["set"] = values
print(json.dumps(answer))
"""


@pytest.fixture
def environment() -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        repeater = probe.getsockname()[1]
    return {
        **os.environ,
        "EPICS_CA_ADDR_LIST": "127.0.0.1",
        "EPICS_CA_AUTO_ADDR_LIST": "NO",
        "EPICS_CA_SERVER_PORT": str(port),
        "EPICS_CA_REPEATER_PORT": str(repeater),
        "EPICS_CAS_INTF_ADDR_LIST": "127.0.0.1",
        "EPICS_CAS_BEACON_ADDR_LIST": "127.0.0.1",
        "EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1",
    }


@pytest.fixture
def ioc(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "sim.facility_ioc", "--prefix", PREFIX]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("READY"):
                break
        yield process
        process.kill()


@pytest.mark.system
def test_signals_limits_faults_and_the_end(ioc: subprocess.Popen[str], environment: dict[str, str]) -> None:
    client = subprocess.run(
        [sys.executable, "-c", CLIENT, PREFIX], env=environment, capture_output=True, text=True, timeout=150
    )
    assert client.returncode == 0, client.stderr
    answer = json.loads(client.stdout.splitlines()[-1])
    for item in FACILITY_SIGNALS:
        value, unit, precision, low, high = answer[item.pv]
        assert item.warning[0] <= value <= item.warning[1]
        assert (unit, precision, low, high) == (item.unit, item.precision, *item.alarm)
    assert answer["choices"] == [FAULT_CHOICES[0], *FAULT_CHOICES]
    assert answer["severities"] == [2, 0]
    by_hand, wandering = answer["set"]
    assert by_hand == 1.25
    assert 3.6 < wandering < 5.0
    ioc.send_signal(signal.SIGTERM)
    assert ioc.wait(60.0) == 0


def test_the_next_takes_the_repeater_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first:
        first.bind(("127.0.0.1", 0))
        monkeypatch.setenv("EPICS_CA_REPEATER_PORT", str(first.getsockname()[1]))
        confirm_clients()
        address = first.getsockname()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.2)
        client.connect(address)
        for _ in range(600):
            time.sleep(0.05)
            with suppress(OSError):
                client.send(struct.pack(">HHHHII", 24, 0, 0, 0, 0, 0))
                assert struct.unpack(">H", client.recv(16)[:2]) == (17,)
                return
    pytest.fail("nobody confirmed a client after the first repeater had ended")


@pytest.mark.parametrize("item", FACILITY_SIGNALS, ids=lambda item: item.pv)
def test_values_wander_within_their_limits_and_leave_them_in_a_fault(item: FacilitySignal) -> None:
    wander = Wander(item, seed=1)
    healthy = [wander.value(float(second), False) for second in range(3600)]
    assert item.warning[0] < min(healthy) < max(healthy) < item.warning[1]
    assert len(set(healthy)) > 3000
    for second in range(100):
        value = wander.value(float(second), True)
        assert not item.alarm[0] <= value <= item.alarm[1]


def test_names_end_in_their_units() -> None:
    for item in FACILITY_SIGNALS:
        assert item.name.endswith("_" + item.unit.lower().replace("/", "_"))
        assert item.alarm[0] <= item.warning[0] < item.normal < item.warning[1] <= item.alarm[1]
