"""A laboratory for the length of a block: of a test, of a demonstration."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from montango.config import MontangoConfig
from montango.lab.errors import LabAlreadyUp
from montango.lab.lab import Lab, silent
from montango.lab.startup import Report


@contextmanager
def running_lab(
    config: MontangoConfig, state_dir: Path | str, *, wait: bool = False, report: Report | None = None
) -> Iterator[Lab]:
    """Bring a laboratory up, connect this process to it, and bring it down at the end, however that comes.

    The process's environment is then as it was before.

    SIGTERM and Ctrl-C, in the middle of the start too, end the block with KeyboardInterrupt; SIGKILL of this
    process ends the laboratory as well. Must be called in the main thread for the former to hold, and in a
    thread that lives at least as long as the block for the latter.

    Raises
    ------
    LabError
        The laboratory does not start, or one is up in this state directory already.
    """
    lab = Lab(config, state_dir)
    with _terminate_as_interrupt(), _environment_put_back():
        try:
            lab.up(wait=wait, owned=True, report=report or silent)
            lab.connect()
            yield lab
        except LabAlreadyUp:
            raise
        except BaseException:
            _down(lab)
            raise
        else:
            _down(lab)


@contextmanager
def _environment_put_back() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _down(lab: Lab) -> None:
    """Stop a laboratory; a second Ctrl-C does not get in the way, it takes less than five seconds."""
    if threading.current_thread() is not threading.main_thread():
        lab.down()
        return
    before = [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        lab.down()
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
