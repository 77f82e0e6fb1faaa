from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from montango.lab.errors import LabError
from montango.lab.processes import MARK_VARIABLE, ProcessId, dies_with_parent, kill, left_behind, wait_gone
from montango.lab.state import StateDirectory
from montango.lab.status import count_restarts
from montango.lab.supervisor import Program, tail, write_supervisor_config

SLEEPER = [sys.executable, "-c", "input()"]


def test_identity_is_pid_and_start() -> None:
    with subprocess.Popen(SLEEPER, stdin=subprocess.PIPE) as child:
        identity = ProcessId.of(psutil.Process(child.pid))
        assert identity.process() is not None
        assert ProcessId(child.pid, identity.started_at_s - 10).process() is None
        kill([ProcessId(child.pid, identity.started_at_s - 10)])
        assert child.poll() is None
        kill([identity])
        assert wait_gone([identity], 0) == []
        assert identity.process() is None


def test_left_behind_is_by_state_directory(tmp_path: Path) -> None:
    with subprocess.Popen(SLEEPER, stdin=subprocess.PIPE, env={MARK_VARIABLE: str(tmp_path / "a")}) as child:
        assert [one.pid for one in left_behind(tmp_path / "a")] == [child.pid]
        assert left_behind(tmp_path / "b") == []
        kill(left_behind(tmp_path / "a"))


@pytest.mark.parametrize("with_setpriv", [True, False])
def test_child_dies_with_its_parent(monkeypatch: pytest.MonkeyPatch, with_setpriv: bool) -> None:
    if not with_setpriv:
        monkeypatch.setenv("PATH", "/nowhere")
    words = [*dies_with_parent(), *SLEEPER]
    assert words[0].endswith("setpriv") == with_setpriv
    program = f"import subprocess,sys; c=subprocess.Popen({words!r}); print(c.pid, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        grandchild = ProcessId.of(psutil.Process(int(parent.stdout.readline())))
        process = grandchild.process()
        assert process is not None
        while process.cmdline() != SLEEPER:
            assert process.is_running()
        parent.kill()
        assert wait_gone([grandchild], 5) == []


def test_restarts_are_counted_since_the_supervisor_started(tmp_path: Path) -> None:
    log = tmp_path / "supervisord.log"
    log.with_name("supervisord.log.1").write_text(
        "2026-01-01 INFO supervisord started with pid 7\n2026-01-01 INFO spawned: 'stage' with pid 8\n"
    )
    log.write_text(
        "2026-01-02 INFO supervisord started with pid 70\n"
        "2026-01-02 INFO spawned: 'stage' with pid 71\n"
        "2026-01-02 WARN exited: stage (terminated by SIGKILL; not expected)\n"
        "2026-01-02 INFO spawned: 'stage' with pid 72\n"
        "2026-01-02 INFO spawned: 'camera' with pid 73\n"
    )
    assert count_restarts(log, 70) == {"stage": 2, "camera": 1}


def test_tail(tmp_path: Path) -> None:
    path = tmp_path / "some.log"
    path.write_text("".join(f"line {number}\n" for number in range(10_000)))
    assert tail(path, 2) == "    line 9998\n    line 9999"
    assert tail(tmp_path / "none.log", 2) == ""


def test_supervisor_configuration_is_private_and_refuses_what_it_cannot_say(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "50%")
    state.prepare()
    path = write_supervisor_config(state, [Program("one", ["run", "100%", "two words"], {"KEY": "secret"})])
    text = path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert "'run' '100%%' 'two words'" in text
    assert 'environment=KEY="secret"' in text
    with pytest.raises(LabError, match="not allowed"):
        write_supervisor_config(state, [Program("one", ["it's"])])
