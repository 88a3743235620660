"""Run the chunks of a plan that a store lacks, and write them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from dasksim._child import Child
from dasksim._chunk import in_memory, simulate_chunk
from dasksim._compile import Program
from dasksim._executors import Pool, n_local_workers, open_pool
from dasksim._failures import Policy
from dasksim._pipeline import Pipeline
from dasksim._plan import Plan
from dasksim._progress import Progress
from dasksim.errors import ArgumentError, StoreError
from dasksim.store import ChunkWriter, Receipt, open_receipts

__all__ = ["check_memory", "run_chunks"]

# Copies of a chunk that a worker holds at once: the variables, their encoded shards, and a stage's temporaries.
_COPIES = 4


@dataclass(frozen=True)
class _ChunkJob:
    """Simulate a chunk and write it, in one task that returns only a receipt."""

    program: Program
    writer: ChunkWriter
    policy: Policy
    child: Child | None

    def __call__(self, chunk: int, conditions: Mapping[str, Any]) -> Receipt:
        pipeline, plan = self.program.pipeline, self.program.plan
        return self.writer.write(
            chunk, lambda: simulate_chunk(pipeline, plan, chunk, conditions, self.policy, self.child)
        )


def run_chunks(
    pipeline: Pipeline,
    plan: Plan,
    writer: ChunkWriter,
    policy: Policy,
    timeout: float | None,
    chunks: range,
    scheduler: Any,
    progress: bool | None,
) -> None:
    """Simulate and write the chunks that have no receipt.

    Parameters
    ----------
    pipeline, plan
        What to simulate.
    writer
        What writes it.
    policy
        What to do with samples that fail.
    timeout
        Seconds that a sub-batch may take.
    chunks
        The chunks among which to look.
    scheduler
        Where the chunks run: a name or a client.
    progress
        Whether to show a progress bar.
    """
    complete = _complete_chunks(writer)
    missing = [chunk for chunk in chunks if chunk not in complete]
    n_samples = sum(map(plan.n_rows, chunks))
    n_done = n_samples - sum(map(plan.n_rows, missing))
    if not missing:
        return
    job = _ChunkJob(Program(pipeline, plan), writer, policy, Child(pipeline, timeout) if timeout else None)
    try:
        with (
            Progress(n_samples, n_done, progress) as bar,
            open_pool(scheduler, job) as pool,
            writer.settling() as settle,
        ):
            for receipt in _windowed(pool, pipeline, plan, missing):
                settle(receipt)
                bar.advance(plan.n_rows(receipt.chunk), receipt.n_proposals, receipt.n_accepted)
    except KeyboardInterrupt as error:
        error.add_note(_how_to_resume(writer))
        raise
    except BrokenProcessPool as error:
        error.add_note(
            "A worker process died, often because memory ran out: a smaller chunk_size needs less. "
            + _how_to_resume(writer)
        )
        raise
    except StoreError as error:
        error.add_note(_how_to_resume(writer))
        raise


def _windowed(pool: Pool, pipeline: Pipeline, plan: Plan, chunks: Sequence[int]) -> Iterator[Receipt]:
    """Keep a few chunks more than there are workers under way, so that neither tasks nor results pile up."""
    todo = iter(chunks)
    running: set[Future[Receipt]] = set()
    while True:
        for chunk in todo:
            running.add(pool.submit(chunk, in_memory(pipeline.condition_rows(chunk, plan))))
            if len(running) >= 2 * pool.n_workers:
                break
        if not running:
            return
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()


def check_memory(plan: Plan, pipeline: Pipeline, scheduler: Any) -> None:
    """Refuse before work what this machine cannot hold."""
    n_workers = n_local_workers(scheduler)
    needed = plan.chunk_size * pipeline.sample_bytes * _COPIES * n_workers
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        largest = int(plan.chunk_size * memory / needed) // plan.sub_batch_size * plan.sub_batch_size
        advice = f"give a chunk_size of at most {largest}" if largest else "give a smaller sub_batch_size too"
        raise ArgumentError(
            f"chunk_size={plan.chunk_size} needs about {needed / 1e9:.1f} GB for {n_workers} workers, but this "
            f"machine has {memory / 1e9:.1f} GB; {advice}"
        )


def _complete_chunks(writer: ChunkWriter) -> set[int]:
    receipts = open_receipts(writer.location)
    return receipts.complete_chunks() if receipts else set()


def _how_to_resume(writer: ChunkWriter) -> str:
    n_complete = len(_complete_chunks(writer))
    return f"{n_complete} chunks are complete and kept; run generate again with the same arguments to go on."
