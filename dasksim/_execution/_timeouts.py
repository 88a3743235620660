"""A process for calls that may hang: it is killed when one takes too long."""

import copy
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import numpy as np
from loky import ProcessPoolExecutor

from dasksim._core.arrays import as_host, device_named
from dasksim._engine.evaluation import Values, run_steps
from dasksim._engine.failed_rows import FailedRows
from dasksim._engine.pipeline import Pipeline
from dasksim._engine.stage import Place
from dasksim._execution._raised import Raised
from dasksim._execution._worker import die_with
from dasksim._execution.starting import ignore_interrupts, starting
from dasksim._execution.transport import Packed

__all__ = ["TimeoutProcess"]

# Linux: send a signal when the thread that started this process ends.
_PR_SET_PDEATHSIG = 1

# Seconds after which a process that is not used ends by itself.
_IDLE_SECONDS = 300


class TimeoutProcess:
    """Runs all steps of a pipeline in a process of its own, one for each thread that calls.

    Parameters
    ----------
    pipeline
        The pipeline.
    seconds
        How long one sub-batch may take.
    """

    def __init__(self, pipeline: Pipeline, seconds: float) -> None:
        self.seconds = seconds
        advice = "leave timeout= out, for which another process is needed"
        self._pipeline = Packed(pipeline.without_rows(), advice).pack()
        self._local = threading.local()
        self._executors: set[Any] = set()
        self._is_closed = False

    def __getstate__(self) -> dict[str, Any]:
        # processes do not travel: each worker starts its own
        return {"seconds": self.seconds, "_pipeline": self._pipeline}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _local=threading.local(), _executors=set(), _is_closed=False)

    def start(self) -> None:
        """Start the process of this thread, if it does not run."""
        self._executor()

    def run(
        self, steps: Sequence[int], place: Place, n_rows: int, values: Values, failures: FailedRows, seconds: float
    ) -> tuple[Values, FailedRows] | None:
        """Evaluate some steps as :func:`run_steps` does; return what there is then and what has failed.

        None if out of time. What a function raises is raised here too.
        """
        executor = self._executor()
        try:
            future = executor.submit(_run_in_child, steps, place, n_rows, values, failures)
            made, raised, failures_there = future.result(seconds)
        except FutureTimeoutError:
            # nothing else ends a function that holds the interpreter's lock
            self._kill(executor)
            return None
        except BaseException:  # the process has died, or Ctrl-C
            self._kill(executor)
            raise
        if raised is not None:
            # the child has a copy, and messages here tell the sample from this one
            failures.end_at(failures_there.raised_at, is_optional=failures_there.is_optional)
            raise raised.error()
        return Values(values.given, made), failures_there

    def close(self) -> None:
        """Kill the processes of all threads; a call that is under way, or comes later, raises an exception."""
        # first: a thread that adds a process meanwhile then sees that it may not
        self._is_closed = True
        for executor in list(self._executors):
            self._kill(executor)

    def _kill(self, executor: Any) -> None:
        # what another thread keeps cannot be let go here: its next call fails, as after close it shall
        if getattr(self._local, "executor", None) is executor:
            self._local.executor = None
        self._executors.discard(executor)
        executor.shutdown(kill_workers=True)

    def _executor(self) -> Any:
        executor = getattr(self._local, "executor", None)
        if executor is None:
            # a Dask worker is a daemon, which may have no children; this one ends with its parent by itself
            multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
            executor = ProcessPoolExecutor(
                1, timeout=_IDLE_SECONDS, initializer=_start_child, initargs=(self._pipeline, os.getpid())
            )
            self._local.executor = executor
            self._executors.add(executor)
            # after it is added, so that close finds it, and before the first call, which starts the process
            if self._is_closed:
                raise RuntimeError("the run has ended")
            with starting():
                unpacked = executor.submit(_unpack_in_child)
            raised = unpacked.result()  # its start does not count as time of the sub-batch
            if raised is not None:
                raise raised.error()
        return executor


_arrived: Packed[Pipeline] | None = None


def _start_child(pipeline: Packed[Pipeline], parent: int) -> None:
    global _arrived
    if sys.platform == "linux":  # the thread below cannot run while a function holds the interpreter's lock
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # for other systems, and for a parent that was gone before the call above
    threading.Thread(target=die_with, args=(parent,), name="dasksim-parent-watch", daemon=True).start()
    ignore_interrupts()
    _arrived = pipeline


def _pipeline_here() -> Pipeline:
    if _arrived is None:
        raise RuntimeError("the process was not started by dasksim")
    return _arrived.value


def _unpack_in_child() -> Raised | None:
    try:
        device_named(_pipeline_here().device).put(np.zeros(1))  # starting a GPU takes seconds
    except BaseException as error:  # noqa: BLE001
        return Raised.of(error)
    return None


def _run_in_child(
    steps: Sequence[int], place: Place, n_rows: int, values: Values, failures: FailedRows
) -> tuple[dict[int, dict[str, Any]], Raised | None, FailedRows]:
    pipeline, latest = _pipeline_here(), failures

    def work(watch: bool) -> Values:
        nonlocal latest
        # work may run again, under the lock of the generators, and then begins as it did at first
        latest = copy.deepcopy(failures)
        return run_steps(pipeline, steps, place, n_rows, values, watch, latest)

    try:
        made = pipeline.guarded(work).made
        return {i: {n: as_host(v) for n, v in found.items()} for i, found in made.items()}, None, latest
    except BaseException as error:  # noqa: BLE001
        return {}, Raised.of(error), latest
