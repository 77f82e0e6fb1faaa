"""The part of EPICS's caRepeater that Channel Access clients wait for, on loopback alone.

A client asks the repeater on its host to pass beacons on, and complains aloud if none confirms; the program
is in no Python package, and listens on every interface. A lab on one host has no beacons to pass on: its
clients notice a restarted IOC by its broken connection.

Protocol: https://docs.epics-controls.org/en/latest/internal/ca_protocol.html (CA_REPEATER_REGISTER,
CA_REPEATER_CONFIRM).
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from typing import Final

_HEADER: Final = struct.Struct(">HHHHII")
_CONFIRM: Final = 17
_DEFAULT_PORT: Final = 5065
_AGAIN_S: Final = 1.0


def confirm_clients() -> None:
    """Confirm registrations in a thread, on the port that EPICS_CA_REPEATER_PORT names.

    While another has the port, as the laboratory that was started first, the thread waits for its end.
    """
    port = int(os.environ.get("EPICS_CA_REPEATER_PORT", _DEFAULT_PORT))
    server = _bound(port)
    threading.Thread(target=_run, args=(port, server), name="CA repeater", daemon=True).start()


def _bound(port: int) -> socket.socket | None:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        server.bind(("127.0.0.1", port))
    except OSError:
        server.close()
        return None
    return server


def _run(port: int, server: socket.socket | None) -> None:
    while server is None:
        time.sleep(_AGAIN_S)
        server = _bound(port)
    _serve(server)


def _serve(server: socket.socket) -> None:
    reply = _HEADER.pack(_CONFIRM, 0, 0, 0, 0, int.from_bytes(socket.inet_aton("127.0.0.1"), "big"))
    while True:
        _, client = server.recvfrom(1024)
        server.sendto(reply, client)
