"""A laboratory: start, stop, ask."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from montango.config import MontangoConfig, dump_config
from montango.lab import processes
from montango.lab.errors import LabAlreadyUp, LabError, LabNotRunning
from montango.lab.ports import PortReservation, reserved_ports
from montango.lab.processes import ProcessId
from montango.lab.programs import (
    TANGO_DATABASE,
    TILED_KEY_VARIABLE,
    epics_environment,
    instruments,
    programs,
    shared_environment,
    tango_host,
)
from montango.lab.rings import make_ring_folder, remove_ring_folder
from montango.lab.startup import Report, Startup
from montango.lab.state import (
    LabInfo,
    StateDirectory,
    default_state_dir,
    make_own_folder,
    read_json,
    write_private,
)
from montango.lab.status import LabStatus, collect_status
from montango.lab.supervisor import (
    STOP_WAIT_S,
    Supervisor,
    reap,
    start_supervisor,
    wait_supervisor,
    write_supervisor_config,
)
from montango.lab.world import ensure_world

RESTART_TIMEOUT_S = 90


def silent(line: str) -> None:
    """Take news and say nothing."""
    del line


class Lab:
    """A laboratory in a state directory.

    Parameters
    ----------
    config
        What it is made of. None is enough to ask, to stop and to restart a process of one that is up.
    state_dir
        Where it keeps everything; None for ``$MONTANGO_STATE``, ``paths.state_dir`` of the configuration, or
        a place in the home directory, in this order.
    """

    def __init__(self, config: MontangoConfig | None = None, state_dir: Path | str | None = None) -> None:
        self.config = config
        self.state = StateDirectory(Path(state_dir) if state_dir else default_state_dir(config))

    def up(self, *, wait: bool = False, owned: bool = False, report: Report = silent) -> LabInfo:
        """Start the laboratory and return when its instruments answer, or at once if it is up.

        Parameters
        ----------
        wait
            Return only when everything answers, the catalog too.
        owned
            The laboratory is the caller's own and ends with the calling thread, however that ends; one that
            is up already is refused.
        report
            Is told what happens, line by line.

        Raises
        ------
        LabError
            Something did not start; nothing is left running.
        """
        if self.config is None:
            raise LabError("a lab needs a configuration to start; give one with --config FILE")
        self.state.prepare()
        with self.state.lock():
            info = self.find()
            if info is None:
                self._clean_up(report)
                self._check_disk(self.config)
                return self._start(self.config, wait=wait, owned=owned, report=report)
        if owned:
            raise LabAlreadyUp(
                f"lab {info.name} is already up in {self.state.root} and is not this program's; "
                f"stop it with `montango down`, or choose another state directory"
            )
        report(f"lab {info.name} is already up in {self.state.root}")
        if wait:
            Startup(self.state, Supervisor(self.state.socket), info, report).wait_everything()
        return info

    def down(self, report: Report = silent) -> bool:
        """Stop everything; returns whether there was anything to stop.

        Raises
        ------
        LabError
            A process cannot be ended.
        """
        if not self.state.run.is_dir():
            return False
        with self.state.lock():
            return self._stop(report)

    def find(self) -> LabInfo | None:
        """Return the laboratory that is up in this state directory, if there is one."""
        identity = ProcessId.read(self.state.supervisor_file)
        if identity is None or identity.process() is None:
            return None
        try:
            info = self.state.read_lab()
        except LabNotRunning:
            return None
        return info if info.pid == identity.pid else None

    def info(self) -> LabInfo:
        """Return the laboratory that is up.

        Raises
        ------
        LabNotRunning
            There is none.
        """
        info = self.find()
        if info is None:
            stale = " (one was, and ended without `montango down`)" if self.state.lab_file.exists() else ""
            raise LabNotRunning(f"no lab is up in {self.state.root}{stale}; start one with `montango up`")
        return info

    def connect(self) -> LabInfo:
        """Point this process at the laboratory: sets the variables of Tango and EPICS.

        Call it before ophyd is imported: Channel Access reads its environment once.
        """
        info = self.info()
        os.environ.update(info.environment())
        return info

    def status(self) -> LabStatus:
        """Ask every process and device how it is.

        Raises
        ------
        LabNotRunning
            There is no laboratory that is up.
        """
        return collect_status(self.info(), self.state, Supervisor(self.state.socket))

    def restart(self, name: str, *, report: Report = silent) -> None:
        """Stop one process and start it again; returns when it answers.

        Raises
        ------
        LabError
            There is no such process, or it does not come back.
        """
        info = self.info()
        supervisor = Supervisor(self.state.socket)
        stopped = ("STOPPED", "EXITED", "FATAL")
        names = [one.name for one in supervisor.processes()]
        if name not in names:
            raise LabError(f"the lab has no process {name!r}; it has {', '.join(names)}")
        with self.state.lock():
            if any(one.name == name and one.state not in stopped for one in supervisor.processes()):
                supervisor.stop(name)
            supervisor.start(name)
            Startup(self.state, supervisor, info, report).wait_for([name], RESTART_TIMEOUT_S)

    def log_path(self, name: str) -> Path:
        """Return the log of a process.

        Raises
        ------
        LabError
            There is none of this name.
        """
        path = self.state.log / f"{name}.log"
        if not path.exists():
            known = sorted(one.stem for one in self.state.log.glob("*.log"))
            raise LabError(
                f"there is no log of {name!r} in {self.state.log}; logs: {', '.join(known) or 'none'}"
            )
        return path

    def _check_disk(self, config: MontangoConfig) -> None:
        folder = config.paths.data_dir or self.state.root
        try:
            folder.mkdir(parents=True, exist_ok=True)
            free_gb = shutil.disk_usage(folder).free / 1e9
        except OSError as error:
            raise LabError(
                f"data directory {folder} cannot be used ({error.strerror}); set paths.data_dir"
            ) from None
        if free_gb < config.paths.minimum_free_gb:
            raise LabError(
                f"disk nearly full: {free_gb:.1f} GB free at {folder}, paths.minimum_free_gb asks for "
                f"{config.paths.minimum_free_gb:g}; free some space, or set paths.data_dir to another disk"
            )

    def _start(self, config: MontangoConfig, *, wait: bool, owned: bool, report: Report) -> LabInfo:
        try:
            if made := ensure_world(config, self.state):
                report(made)
            rings = make_ring_folder(config, self.state)
            base = read_json(self.state.run / "ports.json").get("base")
            services = config.services
            with reserved_ports(base, tango=services.tango.port, tiled=services.tiled.port) as reservation:
                info, supervisor = self._launch(config, reservation, owned=owned)
            startup = Startup(self.state, supervisor, info, report)
            startup.start_instruments(config, rings)
            if wait:
                startup.wait_everything()
        except BaseException:
            self._stop(silent)
            raise
        return info

    def _launch(
        self, config: MontangoConfig, reservation: PortReservation, *, owned: bool
    ) -> tuple[LabInfo, Supervisor]:
        """Start the supervisor with the lab's ports in its hands, and publish where the lab is."""
        ports = reservation.ports
        write_private(self.state.run / "ports.json", f'{{"base": {ports.base}}}\n')
        write_private(self.state.config_file, dump_config(config))
        data_dir = config.paths.data_dir or self.state.root / "data"
        data_dir.mkdir(parents=True, exist_ok=True)
        key = self.state.api_key()
        wanted = programs(config, self.state, ports, data_dir, {TILED_KEY_VARIABLE: key})
        path = write_supervisor_config(self.state, wanted)
        make_own_folder(self.state.socket.parent)
        environment = shared_environment(config, self.state, ports)
        identity = start_supervisor(self.state, path, environment, reservation.descriptors, owned=owned)
        supervisor = wait_supervisor(self.state, identity)
        info = self._describe(config, reservation, identity, data_dir, key)
        self.state.write_lab(info)
        return info, supervisor

    def _describe(
        self,
        config: MontangoConfig,
        reservation: PortReservation,
        identity: ProcessId,
        data_dir: Path,
        key: str,
    ) -> LabInfo:
        tiled = config.services.tiled
        if tiled.uri is None:
            access = "single user" if tiled.access is None else str(tiled.access)
            uri = f"http://127.0.0.1:{reservation.ports.tiled}"
            catalog = {"uri": uri, "api_key": key, "access": access}
        else:
            key = os.environ.get(tiled.api_key_env, "")
            catalog = {"uri": tiled.uri, "api_key": key, "access": "site"}
        if tiled.mongo is not None:
            catalog["mongo"] = tiled.mongo
        return LabInfo(
            name=config.lab.name,
            pid=identity.pid,
            started_at_s=identity.started_at_s,
            config=str(self.state.config_file),
            config_source=str(config.source) if config.source else None,
            tango_host=tango_host(config, reservation.ports),
            tiled=catalog,
            epics=epics_environment(config, reservation.ports),
            facility_prefix=config.facility.prefix,
            devices={name: one.device for name, one in instruments(config).items()},
            data_dir=str(data_dir),
            journal_dir=str(self.state.journal),
            state_dir=str(self.state.root),
            log_dir=str(self.state.log),
            world=str(self.state.world) if config.simulation else None,
        )

    def _clean_up(self, report: Report) -> None:
        """Remove what a laboratory that ended badly left behind."""
        if self._stop(silent):
            report(f"cleaned up after a lab that had ended badly in {self.state.root}")

    def _stop(self, report: Report) -> bool:
        identity = ProcessId.read(self.state.supervisor_file)
        members = processes.family(identity)
        if members:
            report("stopping")
            self._ask_to_stop(members)
        orphans = [one for one in processes.left_behind(self.state.root) if one not in members]
        remaining = processes.wait_gone([*members, *orphans], 0)
        processes.kill(remaining)
        if stubborn := processes.wait_gone(remaining, 0):
            pids = ", ".join(str(one.pid) for one in stubborn)
            raise LabError(
                f"processes {pids} cannot be ended; as the user they belong to, try `kill -9 {pids}`"
            )
        if identity:
            reap(identity)
        self._remove_run_files()
        return bool(members or orphans)

    def _ask_to_stop(self, members: list[ProcessId]) -> None:
        """Stop in order: what others need goes last.

        The sequencer leaves the beam blanked and the stage still while column and stage still answer; the
        servers take their names out of the Tango database while that still answers.
        """
        supervisor = Supervisor(self.state.socket, timeout_s=2)
        deadline = time.monotonic() + STOP_WAIT_S + 1.2
        try:
            running = {one.name: one.pid for one in supervisor.processes() if one.pid}
            rest = [name for name in running if name not in ("sequencer", TANGO_DATABASE)]
            for names, limit_s in ((["sequencer"], 1.0), (rest, STOP_WAIT_S)):
                for name in running.keys() & set(names):
                    supervisor.stop(name, wait=False)
                pids = {running[name] for name in running.keys() & set(names)}
                wait_s = min(limit_s, deadline - time.monotonic())
                processes.wait_gone([one for one in members if one.pid in pids], wait_s)
            supervisor.shutdown()
        except LabError:
            return
        processes.wait_gone(members, max(0.3, deadline - time.monotonic()))

    def _remove_run_files(self) -> None:
        remove_ring_folder(self.state)
        for path in (self.state.lab_file, self.state.supervisor_file, self.state.socket):
            path.unlink(missing_ok=True)
        if self.state.socket.parent != self.state.run:
            shutil.rmtree(self.state.socket.parent, ignore_errors=True)
