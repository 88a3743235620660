"""Where chunks run: in this thread, in threads, in worker processes, or on a cluster.

All are driven through the interface of :mod:`concurrent.futures`, so that one loop serves them.
"""

import contextlib
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol

from dask.system import CPU_COUNT

from dasksim._core.plan import Plan
from dasksim._engine.pipeline import Pipeline
from dasksim._execution._cluster_pool import announces_gpus, open_cluster_pool
from dasksim._execution.jobs import Job
from dasksim._execution.processes import HereAtFirst, WorkerProcesses, done
from dasksim.errors import ArgumentError, ArgumentTypeError

__all__ = ["HERE_AT_FIRST", "Pool", "Work", "check_scheduler", "connect", "lacks_gpus", "n_local_workers", "open_pool"]

#: The default on one machine: this process, and worker processes where a run is longer than they take to start.
HERE_AT_FIRST = "here at first"

_NAMES = ("synchronous", "threads", "processes")

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


def check_scheduler(scheduler: Any, on_gpu: bool) -> Any:
    """Return the scheduler in force: a client, one of the names, or ``HERE_AT_FIRST``.

    Threads are the default where a GPU computes, which processes would have to share.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If it is none of these.
    """
    if scheduler is None:
        # a daemonic process, such as one of multiprocessing.Pool's, may have no children
        use_threads = on_gpu or multiprocessing.current_process().daemon
        return _active_client() or ("threads" if use_threads else HERE_AT_FIRST)
    if isinstance(scheduler, str):
        if scheduler == "processes" and multiprocessing.current_process().daemon:
            raise ArgumentError(
                "scheduler='processes' cannot be used in a daemonic process, such as a worker of multiprocessing.Pool, "
                "which may start no others; use scheduler='threads'"
            )
        if scheduler not in _NAMES and "://" not in scheduler:
            raise ArgumentError(
                f"scheduler must be one of {', '.join(map(repr, _NAMES))}, a Client or an address such as "
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
    many = dict.fromkeys(("threads", "processes", HERE_AT_FIRST), CPU_COUNT)
    return {"synchronous": 1, **many}.get(scheduler, 0)


@contextlib.contextmanager
def connect(scheduler: Any) -> Iterator[Any]:
    """Give a client where the scheduler is an address, else the scheduler itself.

    Raises
    ------
    ArgumentError
        If there is no scheduler at the address.
    """
    if not isinstance(scheduler, str) or scheduler in (*_NAMES, HERE_AT_FIRST):
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


@dataclass(frozen=True)
class Work:
    """What a run has to do, as far as it matters to who does it.

    Parameters
    ----------
    n_chunks
        How many chunks there are.
    chunk_seconds
        How long one takes, where that is known before one was made.
    on_gpu
        Whether a GPU computes.
    can_use_threads
        Whether threads gain something, and no stage minds them.
    keeps_workers
        Whether worker processes may serve other runs afterwards.
    """

    n_chunks: int
    chunk_seconds: float | None = None
    on_gpu: bool = False
    can_use_threads: bool = False
    keeps_workers: bool = True

    @classmethod
    def of(cls, pipeline: Pipeline, plan: Plan, n_chunks: int, *, keeps_workers: bool) -> "Work":
        """Return what it takes to simulate some chunks of a plan."""
        steps = [step.stage for step in pipeline.steps if step.is_run]
        # what batched functions take is not known from a probe of two samples
        is_known = not any(stage.is_batched for stage in steps)
        seconds = pipeline.cost(on_gpu=False).seconds * min(plan.chunk_size, plan.n_samples) if is_known else None
        on_gpu = pipeline.device == "gpu"
        return cls(n_chunks, seconds, on_gpu, pipeline.can_use_threads, keeps_workers)


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
def open_pool(scheduler: Any, job: Job, name: str, work: Work) -> Iterator[Pool]:
    """Send a job to the workers of a scheduler; on a cluster, if it needs a GPU, to those that announce one.

    When the block ends by an exception, the chunks that workers have begun, and a few more, are finished first, so that
    nothing writes after the block. Ctrl-C drops those that are not begun, and ends worker processes.
    """
    if scheduler == "synchronous":
        yield _LocalPool(lambda chunk, conditions: done(job, chunk, conditions), 1, n_ahead=0)
    elif scheduler == "threads":
        with _threads(job, min(CPU_COUNT, _GPU_THREADS) if work.on_gpu else CPU_COUNT) as pool:
            yield pool
    elif scheduler in ("processes", HERE_AT_FIRST):
        try:
            processes = WorkerProcesses(job, is_kept=work.keeps_workers)
        except ArgumentError:
            if scheduler == "processes" or not work.can_use_threads:
                raise
            with _threads(job, CPU_COUNT) as pool:
                yield pool
            return
        # workers ignore Ctrl-C, and a call that is under way may take long
        with _shut_down(processes.shutdown, kill_workers=True):
            if scheduler == "processes":
                yield _LocalPool(processes.submit, CPU_COUNT, (BrokenProcessPool,))
            else:
                yield HereAtFirst(job, processes, work.n_chunks, work.chunk_seconds)
    else:
        with open_cluster_pool(scheduler, job, name, work.on_gpu) as pool:
            yield pool


@contextlib.contextmanager
def _threads(job: Job, n_threads: int) -> Iterator[Pool]:
    threads = ThreadPoolExecutor(n_threads, thread_name_prefix="dasksim")
    with _shut_down(threads.shutdown, cancel_futures=True):
        yield _LocalPool(lambda chunk, conditions: threads.submit(job, chunk, conditions), n_threads)


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
