"""Where chunks run: in this thread, in threads, in worker processes, or on a cluster.

All are driven through the interface of :mod:`concurrent.futures`, so that one loop serves them. Worker processes are
loky's: they start from nothing rather than run the user's script again, and receive functions by value.
"""

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from dask.system import CPU_COUNT
from loky import ProcessPoolExecutor

from dasksim._execution._cluster_pool import announces_gpus, open_cluster_pool
from dasksim._execution._worker import run_in_worker, start_worker
from dasksim._execution.jobs import Job, SentJob
from dasksim.errors import ArgumentError, ArgumentTypeError

__all__ = ["Pool", "check_scheduler", "connect", "n_local_workers", "open_pool"]

_LOCAL = ("synchronous", "threads", "processes")

# Threads that share a GPU at most: while one writes, another computes.
_GPU_THREADS = 4


class Pool(Protocol):
    """Workers that a job was sent to."""

    def submit(self, chunk: int, conditions: Any, n_tries: int) -> "Future[Any]":
        """Start the job on a chunk that was tried some times.

        What the job raises in another process is the future's result, a :class:`Raised`: what its future raises is a
        fault of the workers.
        """

    def window(self) -> int:
        """Return how many chunks may be in flight now."""

    def n_workers(self) -> int:
        """Return how many chunks are simulated at once."""

    def n_failed(self, error: BaseException) -> int:
        """Return how many tries of a chunk failed by a fault of the workers when an error is seen; else none."""


def check_scheduler(scheduler: Any, use_threads: bool) -> Any:
    """Return the scheduler in force: a client, or one of the names.

    Threads are the default where all stages are batched, so that they can run at the same time, or where a GPU
    computes, which processes would have to share.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If it is none of these.
    """
    if scheduler is None:
        # a daemonic process, such as one of multiprocessing.Pool's, may have no children
        use_threads = use_threads or multiprocessing.current_process().daemon
        return _active_client() or ("threads" if use_threads else "processes")
    if isinstance(scheduler, str):
        if scheduler == "processes" and multiprocessing.current_process().daemon:
            raise ArgumentError(
                "scheduler='processes' cannot be used in a daemonic process, such as a worker of multiprocessing.Pool, "
                "which may start no others; use scheduler='threads'"
            )
        if scheduler not in _LOCAL and "://" not in scheduler:
            raise ArgumentError(
                f"scheduler must be one of {', '.join(map(repr, _LOCAL))}, a Client or an address such as "
                f"'tcp://host:8786'; got {scheduler!r}"
            )
        return scheduler
    if not hasattr(scheduler, "get_executor") or scheduler.asynchronous:
        raise ArgumentTypeError(
            f"scheduler must be None, a name, a distributed.Client that is not asynchronous, or its address; "
            f"got {scheduler!r}"
        )
    return scheduler


def _active_client() -> Any:
    """Return the active distributed client, without importing distributed where nobody has."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return distributed.get_client()
    except ValueError:
        return None


def lacks_gpus(scheduler: Any) -> bool:
    """Whether chunks go to a cluster, none of whose workers announces a GPU."""
    client = _active_client() if scheduler is None else scheduler
    # a str is a scheduler of this machine: addresses have become clients by now
    return client is not None and not isinstance(client, str) and not announces_gpus(client)


def n_local_workers(scheduler: Any) -> int:
    """Return how many chunks a scheduler simulates at once in this machine's memory; none if it is a cluster's."""
    return {"synchronous": 1, "threads": CPU_COUNT, "processes": CPU_COUNT}.get(scheduler, 0)


@contextlib.contextmanager
def connect(scheduler: Any) -> Iterator[Any]:
    """Give a client where the scheduler is an address, else the scheduler itself.

    Raises
    ------
    ArgumentError
        If there is no scheduler at the address.
    """
    if not isinstance(scheduler, str) or scheduler in _LOCAL:
        yield scheduler
        return
    from distributed import Client  # only where a cluster is asked for: importing it takes half a second

    try:
        # the caller's default client stays what it was
        client = Client(scheduler, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ArgumentError(f"cannot reach a scheduler at scheduler={scheduler!r}: {error}") from error
    except (KeyError, TypeError) as error:  # distributed has no other words for certificates that it lacks
        raise ArgumentError(
            f"cannot reach a scheduler at scheduler={scheduler!r} without certificates: set "
            "distributed.comm.tls.ca-file, and distributed.comm.tls.client.cert and .key, in Dask's configuration, or "
            f"give a distributed.Client that is made with security=distributed.Security(...) ({error})"
        ) from error
    # outside of the try, so that what the block raises is not taken for a failure to connect
    with client:
        yield client


class _LocalPool:
    """Workers of this machine, whose number is fixed.

    Parameters
    ----------
    submit
        Starts a chunk.
    n_workers
        How many are simulated at once.
    lost
        What a future raises where a worker has died; in threads all that is raised is the job's.
    n_ahead
        How many more may be in flight for each worker, so that a next chunk is there before a receipt has come back.
    """

    def __init__(
        self,
        submit: Callable[[int, Any], "Future[Any]"],
        n_workers: int,
        lost: tuple[type[Exception], ...] = (),
        n_ahead: int = 1,
    ) -> None:
        self._submit = submit
        self._n_workers = n_workers
        self._n_ahead = n_ahead
        self._lost = lost

    def submit(self, chunk: int, conditions: Any, n_tries: int) -> "Future[Any]":
        return self._submit(chunk, conditions)

    def window(self) -> int:
        return (1 + self._n_ahead) * self._n_workers

    def n_workers(self) -> int:
        return self._n_workers

    def n_failed(self, error: BaseException) -> int:
        return int(isinstance(error, self._lost))


@contextlib.contextmanager
def open_pool(scheduler: Any, job: Job, name: str, on_gpu: bool = False) -> Iterator[Pool]:
    """Send a job to the workers of a scheduler; on a cluster, if it needs a GPU, to those that announce one.

    When the block ends by an exception, the chunks that workers have begun, and a few more, are finished first, so that
    nothing writes after the block. Ctrl-C drops those that are not begun, and ends worker processes.
    """
    if scheduler == "synchronous":
        yield _LocalPool(lambda chunk, conditions: _done(job, chunk, conditions), 1, n_ahead=0)
    elif scheduler == "threads":
        n_threads = min(CPU_COUNT, _GPU_THREADS) if on_gpu else CPU_COUNT
        threads = ThreadPoolExecutor(n_threads, thread_name_prefix="dasksim")
        with _shut_down(threads.shutdown, cancel_futures=True):
            yield _LocalPool(lambda chunk, conditions: threads.submit(job, chunk, conditions), n_threads)
    elif scheduler == "processes":
        processes = _Processes(job)
        # workers ignore Ctrl-C, and a call that is under way may take long
        with _shut_down(processes.shutdown, kill_workers=True):
            yield _LocalPool(processes.submit, CPU_COUNT, (BrokenProcessPool,))
    else:
        with open_cluster_pool(scheduler, job, name, on_gpu) as pool:
            yield pool


def _done(job: Job, chunk: int, conditions: Any) -> "Future[Any]":
    future: Future[Any] = Future()
    try:
        future.set_result(job(chunk, conditions))
    except Exception as error:  # noqa: BLE001
        # not Ctrl-C, which is raised in this very thread, and ends the run at once
        future.set_exception(error)
    return future


@contextlib.contextmanager
def _shut_down(shutdown: Callable[..., None], **when_interrupted: bool) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        shutdown(wait=True, **when_interrupted)
        raise
    except BaseException:
        shutdown(wait=True)
        raise
    shutdown(wait=True)


class _Processes:
    """Worker processes, started anew where one has died: loky then ends the others too."""

    def __init__(self, job: Job) -> None:
        self._sent = SentJob.of(job)
        self._executor = self._start()

    def _start(self) -> Executor:
        executor: Executor = ProcessPoolExecutor(
            CPU_COUNT, initializer=start_worker, initargs=(self._sent, os.getpid())
        )
        return executor

    def submit(self, chunk: int, conditions: Any) -> "Future[Any]":
        try:
            return self._executor.submit(run_in_worker, chunk, conditions)
        except BrokenProcessPool:
            # it stays broken; none of its workers writes any more when their chunks are tried again
            self._executor.shutdown(wait=True)
            self._executor = self._start()
            return self._executor.submit(run_in_worker, chunk, conditions)

    def shutdown(self, **how: Any) -> None:
        self._executor.shutdown(**how)
