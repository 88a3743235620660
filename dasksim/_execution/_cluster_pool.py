"""The workers of a ``dask.distributed`` cluster, which come and go."""

import contextlib
import itertools
import logging
import os
import pickle
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from typing import Any

from dasksim._execution.jobs import Job, SentJob, end_job
from dasksim._execution.starting import leave_interrupts
from dasksim.errors import ArgumentError

__all__ = ["ClusterPool", "announces_gpus", "memory_per_chunk", "open_cluster_pool"]

_log = logging.getLogger("dasksim")

# Chunks in flight on a small cluster: an adaptive one asks for as many workers as there are tasks.
_FEWEST = 8

# A task that names a function of ours, or takes an object of a class of ours, cannot be read by a worker without
# dasksim: it dies of the one, and waits for the other for ever. So tasks name builtins only, and fail when they run.
_RUN = "__import__('dasksim._execution.jobs', fromlist=['run_payload']).run_payload(token, payload, chunk, conditions)"


class ClusterPool:
    """Workers of a cluster that a job was sent to.

    Parameters
    ----------
    client
        A client of the cluster.
    job
        What is done for each chunk.
    name
        What the tasks are called on the dashboard.
    on_gpu
        Whether they need a GPU.
    workers
        Addresses of the workers that run them; by default any.
    """

    def __init__(
        self, client: Any, job: Job, name: str, on_gpu: bool = False, workers: Sequence[str] | None = None
    ) -> None:
        self._client = client
        resources = {"GPU": 1} if on_gpu and announces_gpus(client) else None
        where = {"workers": list(workers)} if workers else {}
        self._executor = client.get_executor(pure=False, resources=resources, **where)
        self._token = uuid.uuid4().hex
        self._payload = pickle.dumps(SentJob.of(job))
        self._leaves_processes = getattr(job, "process", None) is not None
        # unique, since Dask takes tasks of equal keys for one: a further run would be given the receipts of this one
        self._name = f"{name}-{uuid.uuid4().hex}"
        self._sent: Any = None
        self._running: dict[tuple[Any, ...], Future[Any]] = {}
        self._n_workers = 0
        # before all times, so that the first look counts, and tells of a cluster that begins without a worker
        self._counted = float("-inf")

    def submit(self, chunk: int, conditions: Any, n_tries: int) -> "Future[Any]":
        """Start the job on a chunk that was tried some times."""
        if self._sent is None or self._sent.cancelled():
            # a task like any other, so that the scheduler makes it again where a worker that held it has died
            key = f"dasksim-job-{uuid.uuid4().hex}"
            self._sent = self._client.submit(bytes, self._payload, pure=False, key=key)
        # another key at each try: while the task that failed is known, its key stands for that
        key_of_task = (self._name, chunk, n_tries)
        # the globals of the expression; Dask puts the payload itself in place of its future
        arguments = {"token": self._token, "payload": self._sent, "chunk": chunk, "conditions": conditions}
        future: Future[Any] = self._executor.submit(eval, _RUN, arguments, key=key_of_task)
        # entered first: the callback is called at once if the future is done
        self._running[key_of_task] = future
        future.add_done_callback(lambda _: self._running.pop(key_of_task, None))
        return future

    def window(self) -> int:
        """Return how many chunks may be in flight; workers are counted again every second.

        Raises
        ------
        ConnectionError
            If the connection to the scheduler is lost.
        """
        self._check_connection()
        # not at every call: the scheduler is asked, and the loop over chunks waits for its answer
        if time.monotonic() - self._counted > 1:
            try:
                n_workers = sum(self._client.nthreads().values())
            except OSError as error:
                raise self._connection_error() from error
            if n_workers == 0 and (self._n_workers or self._counted < 0):
                _log.warning("the cluster has no worker; waiting for one")
            elif n_workers and self._counted > 0 and self._n_workers == 0:
                _log.warning("the cluster has workers; going on")
            self._n_workers, self._counted = n_workers, time.monotonic()
        # twice as many as threads, so that a next chunk is there before a receipt has come back
        return max(2 * self._n_workers, _FEWEST)

    def n_workers(self) -> int:
        """Return how many chunks are simulated at once."""
        return max(self._n_workers, 1)

    def n_failed(self, error: BaseException) -> int:
        """Return how many tries of a chunk failed by a fault of the cluster when an error is seen; else none.

        Raises
        ------
        ConnectionError
            If the connection to the scheduler is lost.
        ArgumentError
            If a worker cannot import dasksim.
        """
        from distributed import KilledWorker

        if isinstance(error, CancelledError):  # with the connection, or by someone else
            self._check_connection()
            return 1
        # raised by _RUN: what a function fails to import comes back as data
        if isinstance(error, ModuleNotFoundError) and error.name == "dasksim":
            raise ArgumentError(
                "a worker of the cluster cannot import dasksim; give its workers the environment of the process that "
                "calls generate"
            ) from error
        # the scheduler has by itself tried the task on so many workers, and these tries count
        return error.allowed_failures + 1 if isinstance(error, KilledWorker) else 0

    def is_with_worker(self) -> bool:
        """Whether a worker has a chunk in flight, or is about to."""
        assigned = set(itertools.chain.from_iterable(self._client.processing().values()))
        return not assigned.isdisjoint(self._running)

    def cancel(self) -> None:
        """Drop all chunks in flight. A worker finishes the one that it has begun."""
        self._executor.shutdown(wait=False)

    def settle(self) -> None:
        """Drop the chunks in flight that no worker has, and wait for the others, so that nothing writes afterwards."""
        # futures whose scheduler is lost stay pending for ever
        while self._running and self._client.status == "running":
            assigned = set(itertools.chain.from_iterable(self._client.processing().values()))
            # a copy, since callbacks take out what is done meanwhile
            running = dict(self._running)
            for key, future in running.items():
                if key not in assigned:
                    future.cancel()
            # for a second, then look again: a worker may have died, and nobody has its chunks
            wait([future for key, future in running.items() if not future.cancelled()], timeout=1)

    def forget_job(self) -> None:
        """Let the cluster drop the job, though a traceback may keep this pool, and end processes that it started."""
        self._sent = None
        if self._leaves_processes and self._client.status == "running":
            with contextlib.suppress(Exception):  # a worker that has gone has taken them along
                self._client.run(end_job, self._token, on_error="ignore")

    def _check_connection(self) -> None:
        if self._client.status != "running":
            raise self._connection_error()

    def _connection_error(self) -> ConnectionError:
        return ConnectionError("the connection to the cluster's scheduler is lost")


@contextlib.contextmanager
def open_cluster_pool(client: Any, job: Job, name: str, on_gpu: bool) -> Iterator[ClusterPool]:
    """Send a job to a cluster, and leave no task on it."""
    _leave_interrupts_here(client)
    pool = ClusterPool(client, job, name, on_gpu)
    # once for the process: to add it again does nothing
    logging.getLogger("tornado.application").addFilter(_says_more)
    try:
        yield pool
    except KeyboardInterrupt:
        # who presses Ctrl-C does not wait for chunks that are under way
        pool.cancel()
        raise
    except BaseException:
        with contextlib.suppress(OSError):  # the scheduler may be lost by now
            pool.settle()
        raise
    finally:
        pool.forget_job()


def _leave_interrupts_here(client: Any) -> None:
    """Let workers that this process has started ignore Ctrl-C, which goes to all processes of a terminal or notebook.

    They would end with tracebacks of theirs, and not all would be started again.
    """
    if "://127." in str(getattr(client.cluster, "scheduler_address", "")):
        client.run(leave_interrupts, os.getpid(), os.getpgrp(), on_error="ignore")


def _says_more(record: logging.LogRecord) -> bool:
    """Whether a record says more than that a future was cancelled while its result was on the way, as here they are."""
    return not (record.exc_info and isinstance(record.exc_info[1], CancelledError))


def announces_gpus(client: Any) -> bool:
    """Whether a worker has said that it has GPUs; a resource that none has would be waited for for ever."""
    # all of them, where versions of distributed before 2026 tell of five by default
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return any(worker["resources"].get("GPU") for worker in workers)


def memory_per_chunk(client: Any) -> int | None:
    """Return the bytes that the smallest worker has for each of its threads; None if there is no limit or no worker."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return min((w["memory_limit"] // w["nthreads"] for w in workers if w["memory_limit"]), default=None)
