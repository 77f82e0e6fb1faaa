"""Does it answer? One question for each kind of process, short and without leftovers."""

from __future__ import annotations

import http.client
import socket
import struct
from dataclasses import dataclass
from urllib.parse import urlsplit

from montango.lab.ports import LOOPBACK
from montango.lab.programs import FACILITY, TANGO_DATABASE, TILED
from montango.lab.state import LabInfo

PROBE_TIMEOUT_S = 1.0
CA_VERSION, CA_SEARCH, CA_MINOR, CA_DO_REPLY = 0, 6, 13, 10


@dataclass(frozen=True)
class Answer:
    """The answer of a process: ``ready``, and in words what was heard."""

    ready: bool
    text: str


def ask(info: LabInfo, name: str) -> Answer:
    """Ask a process of a laboratory, by the name it has there, whether it can be used."""
    if name == TANGO_DATABASE:
        return ask_tango_database(info.tango_host)
    if name == TILED:
        return ask_tiled(info.tiled["uri"])
    if name == FACILITY:
        from devices.facility.signals import FACILITY_SIGNALS

        return ask_channel_access(
            int(info.epics["EPICS_CA_SERVER_PORT"]), info.facility_prefix + FACILITY_SIGNALS[0].pv
        )
    return ask_device(info.tango_host, info.devices[name])[0]


def ask_tango_database(tango_host: str) -> Answer:
    """Ask the database for its name."""
    import tango

    host, _, port = tango_host.partition(":")
    if not _listens(host, int(port)):
        return Answer(False, f"nothing listens at {tango_host}")
    try:
        tango.Database(host, int(port)).get_db_host()
    except (tango.DevFailed, RuntimeError) as error:
        return Answer(False, _first_line(error))
    return Answer(True, "answers")


def ask_device(tango_host: str, device: str) -> tuple[Answer, str]:
    """Ask a device for its State; return the answer and the State (empty without one)."""
    import tango

    try:
        proxy = tango.DeviceProxy(f"tango://{tango_host}/{device}")
        proxy.set_timeout_millis(int(PROBE_TIMEOUT_S * 1000))
        state = str(proxy.state())
        if state in ("FAULT", "ALARM", "INIT"):
            return Answer(state != "INIT", str(proxy.status())), state
    except (tango.DevFailed, RuntimeError) as error:
        return Answer(False, _first_line(error)), ""
    return Answer(True, "answers"), state


def _first_line(error: Exception) -> str:
    description = getattr(error.args[0], "desc", "") if error.args else ""
    return (str(description) or str(error)).strip().splitlines()[0]


def ask_tiled(uri: str) -> Answer:
    """Ask a Tiled server for its health."""
    parts = urlsplit(uri)
    factory = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = factory(parts.hostname or "", parts.port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", f"{parts.path.rstrip('/').removesuffix('/api/v1')}/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return Answer(False, getattr(error, "strerror", None) or str(error) or type(error).__name__)
    finally:
        connection.close()
    return Answer(status == 200, "answers" if status == 200 else f"HTTP status {status}")


def ask_channel_access(port: int, pv: str) -> Answer:
    """Search a PV on a loopback Channel Access server, and connect to the port that it names.

    A search by hand (Channel Access protocol specification, CA_PROTO_SEARCH) instead of a client library:
    a library would fix its environment for the whole process at its first use.
    """
    name = pv.encode() + b"\0"
    name += b"\0" * (-len(name) % 8)
    version = struct.pack(">HHHHII", CA_VERSION, 0, 0, CA_MINOR, 0, 0)
    search = struct.pack(">HHHHII", CA_SEARCH, len(name), CA_DO_REPLY, CA_MINOR, 1, 1) + name
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(PROBE_TIMEOUT_S / 2)
        try:
            udp.connect((LOOPBACK, port))
            udp.send(version + search)
            reply = udp.recv(1024)
        except OSError as error:
            return Answer(False, f"no answer to a search for {pv} ({error})")
    found = _found_port(reply)
    if found is None:
        return Answer(False, f"does not serve {pv}")
    return Answer(True, "answers") if _listens(LOOPBACK, found) else Answer(False, f"port {found} is closed")


def _found_port(reply: bytes) -> int | None:
    """Return the TCP port in a reply to a search."""
    offset = 0
    while offset + 16 <= len(reply):
        command, size, port, *_ = struct.unpack_from(">HHHHII", reply, offset)
        if command == CA_SEARCH:
            return int(port)
        offset += 16 + size
    return None


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), PROBE_TIMEOUT_S):
            return True
    except OSError:
        return False
