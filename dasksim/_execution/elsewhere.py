"""Run a job in another process than this one, with another hash seed."""

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from loky import ProcessPoolExecutor

from dasksim._execution._cluster_pool import ClusterPool, announces_gpus
from dasksim._execution._raised import Raised
from dasksim._execution._worker import start_watch
from dasksim._execution.jobs import Job, SentJob
from dasksim._execution.starting import starting

__all__ = ["Run", "in_cluster", "in_process"]

#: What runs a job on a part of a dataset.
Run = Callable[[int, Any], Any]

# Seconds after which a process that is not used ends by itself.
_IDLE_SECONDS = 300

# Seconds for which no worker may have taken what is to be simulated again.
_PATIENCE_SECONDS = 60.0

_lock = threading.Lock()
# Executors of one process each, by who has started them, since a fork has none, and their numbers.
_kept: dict[tuple[int, int], Any] = {}


@contextlib.contextmanager
def in_process(sent: SentJob, number: int = 0) -> Iterator[Run]:
    """Run a job in a process, one a number, that is kept for the next time, since to start one takes a second."""

    def run(unit: int, conditions: Any) -> Any:
        try:
            with starting():
                future = _executor(number).submit(sent, unit, conditions)
            return _result(future.result())
        except BrokenProcessPool:
            _kept.pop((os.getpid(), number), None)  # it stays broken
            raise

    try:
        yield run
    finally:
        with contextlib.suppress(BrokenProcessPool):
            _executor(number).submit(sent.close)


@contextlib.contextmanager
def in_cluster(job: Job, client: Any, on_gpu: bool, made_by: str) -> Iterator[Run]:
    """Run a job on a worker of a cluster, another than one of them if there are others."""
    others = _able_workers(client, on_gpu) - {made_by}
    pool = ClusterPool(client, job, "audit", on_gpu, sorted(others))
    tries = itertools.count()

    def run(unit: int, conditions: Any) -> Any:
        future = pool.submit(unit, conditions, next(tries))
        taken = time.monotonic()
        # a future stays pending whose scheduler is lost, at which the pool's window looks, or that no worker can take
        while not wait([future], timeout=1).done:
            pool.window()
            taken = time.monotonic() if pool.is_with_worker() else taken
            if time.monotonic() - taken > _PATIENCE_SECONDS:
                pool.cancel()
                error = ConnectionError("no worker of the cluster could simulate samples again")
                raise error
        return _result(future.result())

    try:
        yield run
    finally:
        pool.forget_job()


def _able_workers(client: Any, on_gpu: bool) -> set[str]:
    """Return the addresses of the workers of a cluster; where some have GPUs and one is needed, of those."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    needs_gpu = on_gpu and announces_gpus(client)
    return {address for address, worker in workers.items() if worker["resources"].get("GPU") or not needs_gpu}


def _result(made: Any) -> Any:
    if isinstance(made, Raised):
        raise made.error()
    return made


def _executor(number: int) -> Any:
    with _lock:
        pid = os.getpid()
        key = (pid, number)
        if key not in _kept:
            # a hash seed of its own, though the caller's environment may have set one for all
            env = {"PYTHONHASHSEED": str(int.from_bytes(os.urandom(4), "little"))}
            _kept[key] = ProcessPoolExecutor(
                1, timeout=_IDLE_SECONDS, initializer=start_watch, initargs=(pid,), env=env
            )
        return _kept[key]
