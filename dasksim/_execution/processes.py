"""Worker processes: loky's, which start from nothing rather than run the user's script again.

To start them takes a second, so that they are kept for the next run, and start only where there is work for them.
"""

import contextlib
import os
import sys
import sysconfig
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import wait as finish
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dask import config
from dask.system import CPU_COUNT
from loky import ProcessPoolExecutor

from dasksim._core.memory import FREED_BYTES
from dasksim._execution._worker import run_in_worker, start_watch, start_worker
from dasksim._execution.jobs import Job, SentJob
from dasksim._execution.starting import starting

__all__ = ["HereAtFirst", "WorkerProcesses", "done"]

# Seconds after which worker processes that nobody uses end by themselves.
_IDLE_SECONDS = 300

# Bytes of a job that are sent along with each chunk; larger ones go once to processes of their own.
_MOST_SENT = 1 << 20

# Seconds that worker processes take to start, and those that are kept to take up work.
_START_SECONDS = 1.5
_TAKE_UP_SECONDS = 0.1

# Where Python and packages are installed: not all below its prefix, which may be /usr and hold a user's folder too.
_INSTALLED = tuple(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))

# What changes with each test of pytest, and means nothing to a simulator.
_IGNORED = {"PYTEST_CURRENT_TEST"}


@dataclass(frozen=True)
class _Surroundings:
    """What a process has from the one that started it, and what it has read since."""

    pid: int
    n_workers: int
    folder: str
    path: tuple[str, ...]
    environment: Mapping[str, str]
    files: Mapping[str, int]

    @classmethod
    def now(cls) -> "_Surroundings":
        """Return those of this process, with when each file was changed from which it has a module of the user's."""
        files = {}
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and not file.startswith(_INSTALLED):
                with contextlib.suppress(OSError):
                    files[file] = Path(file).stat().st_mtime_ns
        environment = {name: value for name, value in os.environ.items() if name not in _IGNORED}
        folder = ""
        with contextlib.suppress(FileNotFoundError):  # it was removed, which says nothing about where a store is
            folder = str(Path.cwd())
        return cls(os.getpid(), CPU_COUNT, folder, tuple(sys.path), environment, files)

    def goes_with(self, now: "_Surroundings") -> bool:
        """Whether a process that was started in these is as one would be that is started now."""
        is_alike = all(
            getattr(self, name) == getattr(now, name) for name in ("pid", "n_workers", "folder", "path", "environment")
        )
        return is_alike and all(now.files.get(file, changed) == changed for file, changed in self.files.items())


class _Kept:
    """At most one pool of worker processes that is not in use, and what it was started in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: tuple[_Surroundings, Any] | None = None

    def is_there(self) -> bool:
        """Whether a pool could be taken."""
        pool = self._pool
        return pool is not None and pool[0].goes_with(_Surroundings.now())

    def take(self) -> tuple[_Surroundings, Any]:
        """Return the pool, or a new one where there is none that would do; nobody else has it then."""
        now = _Surroundings.now()
        with self._lock:
            found, self._pool = self._pool, None
        if found is not None and found[0].goes_with(now):
            return found
        if found is not None and found[0].pid == now.pid:  # a fork has no part in its parent's
            found[1].shutdown(wait=True)
        executor = ProcessPoolExecutor(
            CPU_COUNT, timeout=_IDLE_SECONDS, initializer=start_watch, initargs=(os.getpid(),), env=_own_environment()
        )
        return now, executor

    def give_back(self, surroundings: _Surroundings, executor: Any) -> None:
        """Keep a pool for the next run."""
        with self._lock:
            other, self._pool = self._pool, (surroundings, executor)
        if other is not None and other[0].pid == surroundings.pid:
            other[1].shutdown(wait=False)


_kept = _Kept()


class WorkerProcesses:
    """Worker processes that a job was sent to; started anew where one has died: loky then ends the others too.

    Parameters
    ----------
    job
        The job.
    is_kept
        Whether they serve the next run too.
    """

    def __init__(self, job: Job, *, is_kept: bool = True) -> None:
        self._sent = SentJob.of(job)
        self._is_kept = is_kept and self._sent.n_bytes <= _MOST_SENT
        self._taken: tuple[_Surroundings, Any] | None = None
        self._running: set[Future[Any]] = set()

    def is_there(self) -> bool:
        """Whether they run already."""
        return self._taken is not None or (self._is_kept and _kept.is_there())

    def submit(self, chunk: int, conditions: Any) -> "Future[Any]":
        """Start the job on a chunk."""
        try:
            future = self._submit(chunk, conditions)
        except BrokenProcessPool:
            # it stays broken; none of its workers writes any more when their chunks are tried again
            self._executor().shutdown(wait=True)
            self._taken = None
            future = self._submit(chunk, conditions)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future

    def _submit(self, chunk: int, conditions: Any) -> "Future[Any]":
        sent = (self._sent,) if self._is_kept else ()
        with starting():
            future: Future[Any] = self._executor().submit(run_in_worker, chunk, conditions, *sent)
        return future

    def _executor(self) -> Any:
        if self._taken is None:
            self._taken = _kept.take() if self._is_kept else (_Surroundings.now(), self._own())
        return self._taken[1]

    def _own(self) -> Any:
        return ProcessPoolExecutor(
            CPU_COUNT, initializer=start_worker, initargs=(os.getpid(), self._sent), env=_own_environment()
        )

    def shutdown(self, *, wait: bool = True, kill_workers: bool = False) -> None:
        """End their part in the run: finish the chunks that are begun, or with ``kill_workers`` nothing."""
        if self._taken is None:
            return
        (surroundings, executor), self._taken = self._taken, None
        if kill_workers or not self._is_kept:
            executor.shutdown(wait=wait, kill_workers=kill_workers)
            return
        try:
            finish([future for future in list(self._running) if not future.cancel()])
        except BaseException:  # Ctrl-C while others are waited for
            executor.shutdown(wait=True, kill_workers=True)
            raise
        _kept.give_back(surroundings, executor)


class HereAtFirst:
    """Simulates in this process at first, and in worker processes from when what is left is worth their start.

    Parameters
    ----------
    job
        The job.
    processes
        The worker processes.
    n_chunks
        How many chunks there are.
    seconds
        How long one takes, as far as is known before one was made.
    """

    def __init__(self, job: Job, processes: WorkerProcesses, n_chunks: int, seconds: float | None) -> None:
        self._job = job
        self._processes = processes
        self._n_left = n_chunks
        self._seconds = seconds
        self._takes = _TAKE_UP_SECONDS if processes.is_there() else _START_SECONDS
        self._is_here = True

    def submit(self, chunk: int, conditions: Any, n_tries: int) -> "Future[Any]":
        """Start the job on a chunk, or do it."""
        # a chunk that was lost with a worker is not one for this process
        if n_tries or not self.is_here():
            self._is_here = False
            return self._processes.submit(chunk, conditions)
        start = time.perf_counter()
        future = done(self._job, chunk, conditions)
        self._seconds = time.perf_counter() - start
        self._n_left -= 1
        return future

    def is_here(self) -> bool:
        """Whether the next chunk is simulated here."""
        if self._is_here and self._seconds is not None:
            # chunks are not shared, so that one is not made sooner by two
            rounds = -(-self._n_left // CPU_COUNT)
            self._is_here = (self._n_left - rounds) * self._seconds <= self._takes
        return self._is_here

    def window(self) -> int:
        """Return how many chunks may be in flight now."""
        return 1 if self.is_here() else 2 * CPU_COUNT

    def n_workers(self) -> int:
        """Return how many chunks are simulated at once."""
        return 1 if self._is_here else CPU_COUNT

    def n_failed(self, error: BaseException) -> int:
        """Return how many tries of a chunk failed by a fault of the workers when an error is seen."""
        return int(isinstance(error, BrokenProcessPool))


def _own_environment() -> dict[str, str]:
    """Return what worker processes have in place of this process's.

    A cluster that was started in this process leaves in its environment what its workers want of their memory: to give
    it back at once. Ours would be a third as fast. They get what glibc settles on by itself.
    """
    trim = "MALLOC_TRIM_THRESHOLD_"
    of_clusters = config.get(f"distributed.nanny.pre-spawn-environ.{trim}", None)
    if of_clusters is None or os.environ.get(trim) != str(of_clusters):
        return {}
    return {trim: str(2 * FREED_BYTES), "MALLOC_MMAP_THRESHOLD_": str(FREED_BYTES)}


def done(job: Job, chunk: int, conditions: Any) -> "Future[Any]":
    """Return the future of what was done in this thread."""
    future: Future[Any] = Future()
    try:
        future.set_result(job(chunk, conditions))
    except Exception as error:  # noqa: BLE001
        # not Ctrl-C, which is raised in this very thread, and ends the run at once
        future.set_exception(error)
    return future
