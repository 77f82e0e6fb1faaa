from __future__ import annotations

import socket

import pytest

from montango.lab.errors import LabError
from montango.lab.ports import BLOCK, LAST_PORT, reserved_ports


def listen(port: int) -> socket.socket:
    """Listen as the lab's servers do."""
    return socket.create_server(("127.0.0.1", port))


def test_ports_lie_in_one_block_below_those_the_system_gives_away() -> None:
    with reserved_ports() as reservation:
        ports = reservation.ports
        numbers = [ports.tango, ports.tiled, ports.epics, ports.pva, ports.pva_broadcast, ports.guard]
        assert len(set(numbers)) == len(numbers)
        assert all(ports.base <= number < ports.base + BLOCK <= LAST_PORT for number in numbers)


def test_server_of_the_lab_can_listen_again_and_again_and_nobody_else() -> None:
    with reserved_ports() as reservation:
        for port in (reservation.ports.tango, reservation.ports.tiled, reservation.ports.epics):
            for _ in range(2):
                with listen(port), pytest.raises(OSError, match="in use"):
                    listen(port)
            with socket.socket() as thief, pytest.raises(OSError, match="in use"):
                thief.bind(("127.0.0.1", port))


def test_two_labs_never_share_a_block() -> None:
    with reserved_ports() as one, reserved_ports(one.ports.base) as two:
        assert one.ports.base != two.ports.base


def test_block_of_before_is_taken_again() -> None:
    with reserved_ports() as one:
        base = one.ports.base
    with reserved_ports(base) as again:
        assert again.ports.base == base


def test_block_with_a_connection_that_lingers_is_taken_again() -> None:
    with reserved_ports() as one:
        base = one.ports.base
        with listen(one.ports.tango) as server, socket.create_connection(server.getsockname()) as client:
            accepted, _ = server.accept()
            accepted.close()  # the server closes first: its side lingers in TIME_WAIT
            assert client.recv(1) == b""
    with reserved_ports(base) as again:
        assert again.ports.base == base


def test_block_in_which_somebody_listens_is_left_alone() -> None:
    with reserved_ports() as one:
        base = one.ports.base
    with listen(base + 1), reserved_ports(base) as other:
        assert other.ports.base != base


def test_fixed_port() -> None:
    with reserved_ports() as lender:
        fixed = lender.ports.base + 6
        with reserved_ports(tango=fixed) as one:
            assert one.ports.tango == fixed
            with (
                pytest.raises(LabError, match=f"services.tiled.port = {fixed} cannot be used"),
                reserved_ports(tiled=fixed),
            ):
                pass
