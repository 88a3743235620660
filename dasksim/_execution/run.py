"""Run the chunks of a plan that a store lacks, and write them."""

import contextlib
import logging
import queue
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any

from dasksim._core.chunk import Receipt
from dasksim._core.failures import Policy
from dasksim._core.memory import machine_memory
from dasksim._core.plan import Plan
from dasksim._core.telling import counted
from dasksim._engine.chunks import in_memory
from dasksim._engine.pipeline import Pipeline
from dasksim._execution._audit import Audit, audited_units, kept
from dasksim._execution._chunk_job import ChunkJob
from dasksim._execution._cluster_pool import memory_per_chunk
from dasksim._execution._raised import Raised
from dasksim._execution._telling import telling
from dasksim._execution._timeouts import TimeoutProcess
from dasksim._execution.announcement import announcement, check_room, gigabytes
from dasksim._execution.executors import Pool, Work, n_local_workers, open_pool
from dasksim._execution.progress import Progress, is_shown
from dasksim._execution.starting import interruptible
from dasksim.errors import ArgumentError, StoreError
from dasksim.store import ChunkWriter

__all__ = ["check_memory", "run_chunks"]

_log = logging.getLogger("dasksim")

# Copies of a chunk that a worker holds at once: the variables, their encoded shards, and a stage's temporaries.
_COPIES = 4

# Exceptions of loky and distributed that tell of the end of a worker.
# By name, since distributed is imported only where there is a cluster.
_DEATHS = ("TerminatedWorkerError", "KilledWorker")

# Stages that the name of a chunk's task tells.
_MOST_NAMES = 4


def run_chunks(
    pipeline: Pipeline,
    plan: Plan,
    writer: ChunkWriter,
    policy: Policy,
    chunks: range,
    *,
    timeout: float | None,
    scheduler: Any,
    retries: int,
    progress: bool | None,
    audit: bool | str = False,
) -> None:
    """Simulate and write the chunks that have no receipt, and see whether they can be simulated again."""
    complete = writer.complete_chunks()
    missing = [chunk for chunk in chunks if chunk not in complete]
    n_samples = sum(map(plan.n_rows, chunks))
    n_done = n_samples - sum(map(plan.n_rows, missing))
    if not missing:
        return
    check_room(plan, writer.layout, writer.location.folder, missing)
    if is_shown(progress):
        # on a line of its own, above the bar
        print(announcement(pipeline, plan, writer.layout, missing, scheduler), file=sys.stderr)  # noqa: T201
    process = TimeoutProcess(pipeline, timeout) if timeout else None
    work = Work.of(pipeline, plan, len(missing), keeps_workers=process is None)
    lost = _Lost(retries, plan.chunk_size)
    units = audited_units(pipeline, plan, missing) if audit else None
    job = ChunkJob(pipeline, plan, writer, policy, process, audited=units)
    watcher = Audit(job, missing, scheduler, warns=audit == "warn") if audit else None
    try:
        with (
            # outermost: chunks that the pool still finishes need the processes
            _closed(process),
            Progress(n_samples, n_done, progress) as bar,
            # nothing is told that nobody sees
            telling(scheduler, bar.tell) if is_shown(progress) else _silence() as (tell, hear),
            kept(watcher, writer, missing[0]),
            open_pool(scheduler, replace(job, tell=tell), _task_name(pipeline), work) as pool,
            _closed(process, KeyboardInterrupt),  # the pool waits for calls, which may hang until the timeout
            interruptible() as check_interrupted,
            # innermost: what is complete is committed before the pool waits for the rest
            writer.settling() as settle,
        ):
            for receipt in _windowed(pool, pipeline, plan, missing, lost, (hear, check_interrupted)):
                settle(receipt)
                bar.advance(receipt.chunk, plan.n_rows(receipt.chunk), receipt.n_proposals, receipt.n_accepted)
                if watcher is not None:
                    watcher.look(receipt, pool.n_workers())
            if watcher is not None:
                watcher.finish(pool.n_workers())
    except (KeyboardInterrupt, StoreError, ConnectionError) as error:
        error.add_note(_how_to_resume(writer))
        raise
    except Exception as error:
        # not what a function raised: it would again, and its note tells how to run it alone
        if error is lost.error:
            error.add_note(_how_to_resume(writer))
        raise


@contextlib.contextmanager
def _silence() -> Iterator[tuple[None, Callable[[], None]]]:
    yield None, lambda: None


@contextlib.contextmanager
def _closed(process: TimeoutProcess | None, when: type[BaseException] = BaseException) -> Iterator[None]:
    """Kill timeout processes when the block ends, or only if it ends by an exception of one type."""
    is_wanted = when is BaseException
    try:
        yield
    except when:
        is_wanted = True
        raise
    finally:
        if process is not None and is_wanted:
            process.close()


class _Lost:
    """How often each chunk was lost with its worker.

    Parameters
    ----------
    retries
        How often a chunk may be lost and tried again.
    chunk_size
        Samples in a chunk, for the message.
    """

    def __init__(self, retries: int, chunk_size: int) -> None:
        self.retries = retries
        self.chunk_size = chunk_size
        self.n_tries: Counter[int] = Counter()
        self.error: Exception | None = None

    def count(self, error: Exception, chunk: int, n_failed: int, others: Iterable[int]) -> None:
        """Count a chunk as lost; raise the error if that was once too often."""
        self.n_tries[chunk] += n_failed
        if self.n_tries[chunk] <= self.retries:
            _log.warning(
                "chunk %d was lost with a worker; try %d of %d", chunk, self.n_tries[chunk] + 1, self.retries + 1
            )
            return
        suspects = [chunk]
        # one death breaks the pool for all chunks in flight, and nobody knows whose it was
        if isinstance(error, BrokenProcessPool):
            suspects += [other for other in others if self.n_tries[other] + 1 > self.retries]
        names = f"chunk{'s' * (len(suspects) > 1)} {', '.join(map(str, sorted(suspects)))}"
        times = f"{self.n_tries[chunk]} of {self.retries + 1} times"
        if type(error).__name__ in _DEATHS:
            note = (
                f"A worker process died with {names} in flight, {times}: most often because memory ran out. A "
                f"chunk_size below {self.chunk_size} needs less."
            )
        else:
            note = f"The workers have lost {names}, {times}."
        error.add_note(note)
        self.error = error
        raise error


def _windowed(
    pool: Pool, pipeline: Pipeline, plan: Plan, chunks: Sequence[int], lost: _Lost, looks: Sequence[Callable[[], None]]
) -> Iterator[Receipt]:
    """Keep a few chunks more than there are workers in flight, so that neither tasks nor results pile up.

    Now and then, it looks at what is given for that.
    """
    todo = deque(chunks)
    running: dict[Future[Receipt | Raised], int] = {}
    done: queue.SimpleQueue[Future[Receipt | Raised]] = queue.SimpleQueue()
    while todo or running:
        for _ in range(min(pool.window() - len(running), len(todo))):
            chunk = todo.popleft()
            # computed as chunks are submitted, so that those of a window at most are in memory
            conditions = in_memory(pipeline.condition_rows(chunk, plan))
            future = pool.submit(chunk, conditions, lost.n_tries[chunk])
            running[future] = chunk
            # called by whatever thread ends it; at once, if it has ended already, as on scheduler='synchronous'
            future.add_done_callback(done.put)
        for look in looks:
            look()
        try:
            # a future whose scheduler is lost stays pending: the pool's window looks at the connection each second
            future = done.get(timeout=1)  # then see whether workers have come or gone
        except queue.Empty:
            continue
        chunk = running.pop(future)
        try:
            made = future.result()
        except Exception as error:
            n_failed = pool.n_failed(error)
            if not n_failed:
                raise
            lost.count(error, chunk, n_failed, running.values())
            # next of all, so that a chunk that kills its workers ends the run early
            todo.appendleft(chunk)
            continue
        # a function's exception comes as a value, so that it is never taken for a fault of the workers
        if isinstance(made, Raised):
            raise made.error()
        yield made


def _task_name(pipeline: Pipeline) -> str:
    """Return what a chunk's task is called on a dashboard, which shows a key up to its first dash and digit."""
    # without characters at which Dask would cut a name, or by which it takes one for that of an object
    names = [step.stage.name.replace("-", "_").strip("<>_") for step in pipeline.steps if step.is_run]
    shown = names if len(names) <= _MOST_NAMES else [*names[: _MOST_NAMES - 1], f"{len(names) - _MOST_NAMES + 1} more"]
    return "+".join(shown) or "dasksim"


def check_memory(plan: Plan, pipeline: Pipeline, scheduler: Any) -> None:
    """Refuse before work what this machine, or a worker of a cluster, cannot hold."""
    n_workers = n_local_workers(scheduler)
    memory: int | None
    n_rows = min(plan.chunk_size, plan.n_samples)
    needed = n_rows * pipeline.sample_bytes * _COPIES * max(n_workers, 1)
    if n_workers:
        memory, who, has = machine_memory(), f"for {counted(n_workers, 'worker')}", "this machine has"
    else:
        memory = memory_per_chunk(scheduler)
        who, has = "in each thread of a worker", "the smallest worker of the cluster has"
    if memory and needed > memory:
        largest = int(n_rows * memory / needed) // plan.sub_batch_size * plan.sub_batch_size
        advice = f"give a chunk_size of at most {largest}" if largest else "give a smaller sub_batch_size too"
        raise ArgumentError(
            f"chunk_size={plan.chunk_size} needs about {gigabytes(needed)} {who}, but {has} {gigabytes(memory)}"
            f"{'' if n_workers else ' for each'}; {advice}"
        )


def _how_to_resume(writer: ChunkWriter) -> str:
    call = "generate" if writer.layout.derivation is None else "derive"
    again = f"run {call} again with the same arguments to go on."
    try:
        return f"kept {counted(len(writer.complete_chunks()), 'complete chunk')}; {again}"
    except Exception as error:  # noqa: BLE001  (what stopped the run says more)
        return f"kept all complete chunks, though the store cannot be read now ({error}); {again}"
