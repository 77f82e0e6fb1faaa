"""Jobs done by the workers of a Dask cluster: https://distributed.dask.org.

Only jobs and what they return pass the scheduler, which is numbers; frames are read, and shards written, by
the workers. A worker that dies is no loss: its jobs are done again elsewhere.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from devices.errors import ConfigurationError, MontangoError
from processing.stitching.frame_files import Frame

Job = TypeVar("Job")
Result = TypeVar("Result")
LOCAL: Final = "local"
_LOOKED_FOR: Final = 200
"""Frames, about, that every worker is asked for before the first job."""


class DaskWorkers:
    """Does jobs on the workers of a client.

    Parameters
    ----------
    client
        Of the cluster; it stays open.
    single_threaded
        Whether OpenCV is to use one thread a job: where as many workers as cores share a host.
    """

    def __init__(self, client: Any, *, single_threaded: bool = False) -> None:
        self.client, self._single = client, single_threaded

    def run(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], done: Callable[[int, Result], None]
    ) -> None:
        """Do all jobs, in any order.

        Raises
        ------
        MontangoError
            The scheduler went away, or a job took several workers with it; what is done is done.
        """
        import distributed
        from distributed.scheduler import KilledWorker

        as_completed: Any = distributed.as_completed

        if not jobs:
            return
        futures = self.client.map(
            _one, jobs, function=function, single=self._single, pure=False, retries=0, key=function.__name__
        )
        index = {future.key: k for k, future in enumerate(futures)}
        try:
            for future in as_completed(futures):
                if future.status in ("cancelled", "lost"):
                    raise MontangoError(
                        "the scheduler of the cluster went away: start it again, and then the same command "
                        "to go on"
                    )
                done(index[future.key], future.result())
                future.release()
        except KilledWorker as error:
            raise MontangoError(
                f"{error.allowed_failures + 1} workers died, one after another, at the same job "
                f"({function.__name__}), the last at {error.last_worker.address}: see their logs; they may "
                "need more memory (dask worker --memory-limit), or fewer of them on a host. Start the same "
                "command again to go on"
            ) from error
        finally:
            self.client.cancel(futures)

    def check(self, frames: Sequence[Frame], folder: Path) -> None:
        """Make sure that all workers have this package, the frames, and the folder of the results.

        Raises
        ------
        ConfigurationError
            One does not; the message names it and its host.
        """
        marker = folder / f".from-{socket.gethostname()}-{os.getpid()}"
        marker.touch()
        try:
            some = list(frames)[:: max(1, len(frames) // _LOOKED_FOR)]
            answers = self.client.run(_missing, some, marker.resolve(), on_error="return")
        finally:
            marker.unlink()
        for address, answer in answers.items():
            if isinstance(answer, BaseException):
                raise ConfigurationError(
                    f"worker {address} cannot stitch ({answer!r}): install the same montango there as here"
                )
            host, missing = answer
            if missing:
                raise ConfigurationError(
                    f"worker {address} on host {host} does not have {missing}, which is here: mount the "
                    f"folder at the same path there (or let it reach the server), or stitch with "
                    f"--dask {LOCAL}"
                )


@contextmanager
def cluster(address: str, workers: int | None = None, *, timeout_s: float = 10.0) -> Iterator[DaskWorkers]:
    """Give the workers of a cluster.

    Parameters
    ----------
    address
        Of a scheduler, as ``tcp://host:8786``; "local": workers of its own on this host.
    workers
        How many local ones; None: one a core.
    timeout_s
        How long to wait for a scheduler and its first worker.

    Raises
    ------
    ConfigurationError
        No scheduler answers there, it has no workers, or a number of workers is given and it is not local.
    """
    import distributed

    dask: Any = distributed
    if address == LOCAL:
        count = workers or len(os.sched_getaffinity(0))
        with (
            dask.LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                memory_limit=0,
                silence_logs=logging.ERROR,
            ) as local,
            dask.Client(local) as client,
        ):
            yield DaskWorkers(client, single_threaded=count > 1)
        return
    if workers is not None:
        raise ConfigurationError(f"--workers is for --dask {LOCAL}: the cluster at {address} has its own")
    try:
        client = dask.Client(address, timeout=timeout_s, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"no Dask scheduler answers at {address} ({error}): start one with `dask scheduler`, workers "
            f"with `dask worker {address}`, or stitch with --dask {LOCAL}"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=timeout_s)
        except TimeoutError as error:
            raise ConfigurationError(
                f"the Dask scheduler at {address} has no workers: start some with `dask worker {address}`"
            ) from error
        yield DaskWorkers(client)


def _one(job: Any, *, function: Callable[[Any], Any], single: bool) -> Any:
    """Do a job, on a worker."""
    if single:
        import cv2

        cv2.setNumThreads(1)
    return function(job)


def _missing(frames: Sequence[Frame], marker: Path) -> tuple[str, str]:
    """Return the host, and the first thing that is not there, on a worker."""
    import processing.stitching.drawing  # noqa: F401 - a worker without it cannot draw

    absent = next((frame.where for frame in frames if frame.absent()), "")
    return socket.gethostname(), absent or ("" if marker.exists() else str(marker.parent))
