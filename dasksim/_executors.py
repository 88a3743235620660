"""Where chunks run: in this thread, in threads, in worker processes, or on a cluster.

All are driven through the interface of :mod:`concurrent.futures`, so that one loop serves them. Worker processes are
loky's: they start from nothing rather than run the user's script again, and receive functions by value.
"""

import contextlib
import os
import pickle
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import cloudpickle
from dask.system import CPU_COUNT
from loky import ProcessPoolExecutor

from dasksim.errors import ArgumentError, ArgumentTypeError

__all__ = ["Job", "Pool", "check_scheduler", "connect", "n_local_workers", "open_pool"]

_LOCAL = ("synchronous", "threads", "processes")


class Job(Protocol):
    """What is done for each chunk."""

    def __call__(self, chunk: int, conditions: Any) -> Any:
        """Do it for one chunk."""


@dataclass(frozen=True)
class Pool:
    """Workers that a job was sent to.

    Parameters
    ----------
    submit
        Start the job on a chunk.
    n_workers
        How many chunks run at once.
    """

    submit: Callable[[int, Any], "Future[Any]"]
    n_workers: int


def check_scheduler(scheduler: Any, is_batched: bool) -> Any:
    """Return the scheduler in force: a client, or one of the names.

    Parameters
    ----------
    scheduler
        ``None``, one of the names, a ``distributed.Client`` or the address of its scheduler.
    is_batched
        Whether all stages are batched, so that threads can run at the same time.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If it is none of these.
    """
    if scheduler is None:
        return _active_client() or ("threads" if is_batched else "processes")
    if isinstance(scheduler, str):
        if scheduler not in _LOCAL and "://" not in scheduler:
            raise ArgumentError(
                f"scheduler must be one of {', '.join(map(repr, _LOCAL))}, a Client or an address such as "
                f"'tcp://host:8786'; got {scheduler!r}"
            )
        return scheduler
    if not hasattr(scheduler, "get_executor"):
        raise ArgumentTypeError(
            f"scheduler must be None, a name, a distributed.Client or its address; got {scheduler!r}"
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
        client = Client(scheduler, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ArgumentError(f"cannot reach a scheduler at scheduler={scheduler!r}: {error}") from error
    with client:
        yield client


@contextlib.contextmanager
def open_pool(scheduler: Any, job: Job) -> Iterator[Pool]:
    """Send a job to the workers of a scheduler.

    When the block ends by an exception, the chunks that were submitted, at most twice as many as there are workers, are
    finished first, so that nothing writes after the block. Ctrl-C drops those that threads have not begun, and ends
    worker processes.
    """
    if scheduler == "synchronous":
        yield Pool(lambda chunk, conditions: _done(job, chunk, conditions), 1)
    elif scheduler == "threads":
        threads = ThreadPoolExecutor(CPU_COUNT, thread_name_prefix="dasksim")
        with _shut_down(threads, cancel_futures=True):
            yield Pool(lambda chunk, conditions: threads.submit(job, chunk, conditions), CPU_COUNT)
    elif scheduler == "processes":
        processes = ProcessPoolExecutor(
            CPU_COUNT, initializer=_start_worker, initargs=(cloudpickle.dumps(job), os.getpid())
        )
        with _shut_down(processes, kill_workers=True):
            yield Pool(lambda chunk, conditions: processes.submit(_run_in_worker, chunk, conditions), CPU_COUNT)
    else:
        executor = scheduler.get_executor(pure=False)
        with _shut_down(executor, wait=True):
            yield _cluster_pool(scheduler, executor, job)


def _done(job: Job, chunk: int, conditions: Any) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_result(job(chunk, conditions))
    return future


@contextlib.contextmanager
def _shut_down(executor: Executor, **when_interrupted: bool) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        executor.shutdown(**{"wait": True, **when_interrupted})
        raise
    except BaseException:
        executor.shutdown(wait=True)
        raise
    executor.shutdown(wait=True)


_worker_job: Job | None = None


def _start_worker(payload: bytes, parent: int) -> None:
    global _worker_job
    threading.Thread(target=_die_with, args=(parent,), name="dasksim-parent-watch", daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    _worker_job = pickle.loads(payload)


def _die_with(parent: int) -> None:
    """End this process once its parent has been killed; it would wait for work for ever."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _run_in_worker(chunk: int, conditions: Any) -> Any:
    if _worker_job is None:
        raise RuntimeError("the worker process was not started by dasksim")
    return _run_picklably(_worker_job, chunk, conditions)


def _run_picklably(job: Job, chunk: int, conditions: Any) -> Any:
    """Run a job; an exception that could not travel is replaced by one that says the same."""
    try:
        return job(chunk, conditions)
    except Exception as error:  # noqa: BLE001
        travels = _travelling(error)
    raise travels  # not in the block above, where it would take the original along as its context


def _travelling(error: BaseException) -> BaseException:
    """Return an exception that can be pickled, and whose causes can: distributed sends them too."""
    if error.__context__ is not None:
        error.__context__ = _travelling(error.__context__)
    if error.__cause__ is not None:
        error.__cause__ = _travelling(error.__cause__)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001
        stand_in = RuntimeError(f"{type(error).__name__}: {error}").with_traceback(error.__traceback__)
        for note in getattr(error, "__notes__", ()):
            stand_in.add_note(note)
        return stand_in
    return error


def _cluster_pool(client: Any, executor: Executor, job: Job) -> Pool:
    n_workers = max(sum(client.nthreads().values()), 1)
    # a task like any other, so that the scheduler makes it again where a worker that held it has died
    sent = client.submit(pickle.loads, cloudpickle.dumps(job), pure=False, key=f"dasksim-job-{uuid.uuid4().hex}")
    return Pool(lambda chunk, conditions: executor.submit(_run_picklably, sent, chunk, conditions), n_workers)
