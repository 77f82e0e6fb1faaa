"""Ports of a laboratory, chosen so that nothing can take them between the choice and the use.

A laboratory owns a block of eight ports below the range from which the system serves other programs.
Whoever binds the UDP socket of a block's last port owns the block; the TCP ports are bound as well, without
listening, and marked shareable afterwards, so that the lab's own servers (which all set SO_REUSEADDR) can
listen there and nobody else gets them. The supervisor inherits these sockets: the block stays the lab's for
as long as the supervisor lives, however often a server is restarted.

The last port is also the lab's ``EPICS_CA_REPEATER_PORT``: a Channel Access client that finds it taken does
not start a repeater, which would outlive it and listen on every interface.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from montango.lab.errors import LabError

LOOPBACK = "127.0.0.1"
BLOCK = 8
GUARD = BLOCK - 1
FIRST_PORT = 20_000
LAST_PORT = 32_000
TRIES = 400
PATIENCE_S = 0.5
"""How long the block that a laboratory had before is waited for."""


@dataclass(frozen=True)
class Ports:
    """The ports of a laboratory on the loopback interface."""

    tango: int
    tiled: int
    epics: int
    pva: int
    pva_broadcast: int
    guard: int

    @property
    def base(self) -> int:
        """First port of the block."""
        return self.guard - GUARD


class PortReservation:
    """The sockets that hold a laboratory's ports; close it once the supervisor has inherited them."""

    def __init__(self, ports: Ports, sockets: list[socket.socket]) -> None:
        self.ports = ports
        self._sockets = sockets

    @property
    def descriptors(self) -> tuple[int, ...]:
        """File descriptors to pass to the supervisor."""
        return tuple(one.fileno() for one in self._sockets)

    def close(self) -> None:
        """Let go of the sockets in this process."""
        for one in self._sockets:
            one.close()


@contextmanager
def reserved_ports(
    preferred_base: int | None = None, *, tango: int | None = None, tiled: int | None = None
) -> Iterator[PortReservation]:
    """Reserve a block of ports; ``tango`` and ``tiled`` are fixed ports from the configuration.

    Raises
    ------
    LabError
        A fixed port is taken (by whom is said, where that can be found out), or there is no free block.
    """
    reservation = _reserve(preferred_base, tango, tiled)
    try:
        yield reservation
    finally:
        reservation.close()


def _reserve(preferred_base: int | None, tango: int | None, tiled: int | None) -> PortReservation:
    for base in _candidates(preferred_base):
        ports = Ports(tango or base, tiled or base + 1, base + 2, base + 3, base + 4, base + GUARD)
        with ExitStack() as stack:
            try:
                sockets = [stack.enter_context(_bound(socket.SOCK_DGRAM, ports.guard))]
                for port in (base, base + 1, ports.epics, ports.pva):
                    sockets.append(stack.enter_context(_held(port)))
                for port in (ports.epics, ports.pva_broadcast):
                    _bound(socket.SOCK_DGRAM, port).close()
            except OSError:
                continue
            for key, fixed in (("services.tango.port", tango), ("services.tiled.port", tiled)):
                if fixed is not None:
                    sockets += [stack.enter_context(one) for one in _fixed(key, fixed)]
            stack.pop_all()
            return PortReservation(ports, sockets)
    raise LabError(
        f"no {BLOCK} free ports in a row were found between {FIRST_PORT} and {LAST_PORT}; "
        f"`montango doctor` lists the labs that hold some"
    )


def _candidates(preferred_base: int | None) -> Iterator[int]:
    """Return blocks to try: the one of before, for a moment (it may just be let go), then others."""
    if preferred_base is not None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            yield preferred_base
            time.sleep(PATIENCE_S / 10)
    for _ in range(TRIES):
        yield FIRST_PORT + BLOCK * random.randrange((LAST_PORT - FIRST_PORT) // BLOCK)


def _bound(kind: socket.SocketKind, port: int) -> socket.socket:
    one = socket.socket(socket.AF_INET, kind)
    try:
        if kind == socket.SOCK_STREAM:
            # Connections of a lab that ran here a moment ago still linger, and do not matter.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            # Nobody reads the guard: what is sent to it should not pile up.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        one.bind((LOOPBACK, port))
    except OSError:
        one.close()
        raise
    return one


def _held(port: int) -> socket.socket:
    return _bound(socket.SOCK_STREAM, port)


def _fixed(key: str, port: int) -> list[socket.socket]:
    """Hold a port that the configuration names: TCP for the server, UDP against another laboratory."""
    held: list[socket.socket] = []
    try:
        held.append(_held(port))
        held.append(_bound(socket.SOCK_DGRAM, port))
        return held
    except OSError as error:
        for one in held:
            one.close()
        raise LabError(
            f"{key} = {port} cannot be used ({error.strerror}{_listener(port)}); choose another "
            f"port, or null for a free one"
        ) from None


def _listener(port: int) -> str:
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()}, pid {connection.pid}"
    except psutil.Error:
        pass
    return ""
