"""The board between an engine and its operators, without Tango."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.errors import ConfigurationError, MontangoError
from devices.montage_control.board import ACTIVE_STATES, Board, Progress, Request
from devices.montage_control.device import COMMANDS
from devices.montage_control.server import ControlServer


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


RUNNING = Progress("m1", "in_progress", current_tile=3, total_tiles=9)


def test_a_request_stays_until_the_engine_has_it_and_is_given_in_order() -> None:
    board = Board()
    assert board.exchange("e", RUNNING, (), 0) == ()
    first, second = board.ask(Request.PAUSE), board.ask(Request.RESUME)
    both = ((first, Request.PAUSE), (second, Request.RESUME))
    assert board.exchange("e", RUNNING, (), 0) == both
    assert board.exchange("e", RUNNING, (), 0) == both  # the answer was lost on its way
    assert board.exchange("e", RUNNING, (), first) == both[1:]
    assert board.exchange("e", RUNNING, (), second) == ()


@pytest.mark.parametrize("state", ["idle", "cancelled", "completed", "error"])
def test_nothing_is_asked_of_a_montage_that_does_not_run(state: str) -> None:
    assert state not in ACTIVE_STATES
    board = Board()
    board.exchange("e", Progress("m1", state), (), 0)  # type: ignore[arg-type]
    with pytest.raises(MontangoError, match=f"state {state}.*skip roi"):
        board.ask(Request.SKIP_ROI)


def test_a_request_to_one_montage_is_not_given_to_the_next() -> None:
    board = Board()
    board.exchange("e", RUNNING, (), 0)
    board.ask(Request.ABORT)
    assert board.exchange("e", Progress("m2", "started"), (), 0) == ()


def test_a_silent_engine_is_lost_only_while_it_drives() -> None:
    clock = Clock()
    board = Board(lost_after_s=5, clock=clock)
    board.exchange("anna@em pid 7", RUNNING, ("vacuum",), 0)
    clock.now_s += 4.9
    assert not board.view().lost
    clock.now_s += 0.2
    view = board.view()
    assert view.lost
    assert view.holds == ("vacuum",)
    with pytest.raises(MontangoError, match=r"anna@em pid 7 has not reported for 5 s.*montango resume m1"):
        board.ask(Request.PAUSE)
    board.exchange("anna@em pid 7", RUNNING, (), 0)
    assert not board.view().lost
    board.exchange("anna@em pid 7", Progress("m1", "completed"), (), 0)
    clock.now_s += 1000
    assert not board.view().lost


def test_an_engine_that_died_with_the_server_is_noticed_by_the_next_server(tmp_path: Path) -> None:
    clock = Clock()
    file = str(tmp_path / "control.json")
    board = Board(state_file=file, clock=clock)
    board.open()
    board.exchange("e", RUNNING, (), 0)
    clock.now_s = 7000.0
    after = Board(state_file=file, clock=clock)
    after.open()
    assert not after.view().lost  # it has five seconds to report
    clock.now_s += 5.1
    assert after.view().lost
    assert after.view().progress.montage_id == "m1"
    after.exchange("e", Progress("m1", "completed"), (), 0)
    third = Board(state_file=file, clock=clock)
    third.open()
    clock.now_s += 100
    assert not third.view().lost


def test_a_new_engine_leaves_what_was_and_ends_what_had_not_ended() -> None:
    board = Board()
    board.exchange("old", Progress("m1", "completed", current_tile=9), (), 0)
    board.exchange("new", None, (), 0)
    assert board.view().progress == Progress("m1", "completed", current_tile=9)
    board.exchange("new", RUNNING, (), 0)
    board.exchange("newer", None, (), 0)
    progress = board.view().progress
    assert (progress.state, progress.current_tile) == ("error", 3)
    assert "new ended in its middle; `montango resume m1`" in progress.reason
    assert not board.view().lost


def test_a_damaged_state_file_is_no_reason_not_to_start(tmp_path: Path) -> None:
    file = tmp_path / "control.json"
    for text in ("", "{", '{"engine": "e"}', '{"engine": "e", "progress": {"state": 1, "new": 2}}', "[1]"):
        file.write_text(text)
        Board(state_file=str(file)).open()


def test_a_board_needs_patience() -> None:
    with pytest.raises(ConfigurationError, match="lost_after_s = 0"):
        Board(lost_after_s=0)


def test_every_request_is_a_command_of_the_server() -> None:
    commands = ControlServer.TangoClassClass.cmd_list  # type: ignore[attr-defined]
    assert set(COMMANDS.values()) <= set(commands)
    assert len(COMMANDS) == len(Request) == 9
