"""What is done for each chunk of a store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dasksim._core.chunk import Chunk, Receipt
from dasksim._core.failures import Policy
from dasksim._core.plan import Plan
from dasksim._engine.chunks import simulate_chunk
from dasksim._engine.pipeline import Pipeline
from dasksim._execution._telling import Tell, rarely
from dasksim._execution._timeouts import TimeoutProcess
from dasksim._execution.again import traced
from dasksim.store import ChunkWriter, StoredRows

__all__ = ["ChunkJob"]


@dataclass(frozen=True)
class ChunkJob:
    """Simulate a chunk and write it, in one task that returns only a receipt.

    Parameters
    ----------
    pipeline, plan, policy
        What to simulate.
    writer
        Where to.
    process
        The process in which to simulate, where that may take too long.
    tell
        What is told how many samples of the chunk are done, if anybody wants to know.
    audited
        Where there is an audit: what it may simulate again of each chunk.
    """

    pipeline: Pipeline
    plan: Plan
    writer: ChunkWriter
    policy: Policy
    process: TimeoutProcess | None
    tell: Tell | None = None
    audited: Mapping[int, Sequence[int]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # each chunk brings its own rows of the conditions: with the job all of them would go to every worker
        pipeline = self.pipeline.without_rows()
        return ChunkJob, (pipeline, self.plan, self.writer, self.policy, self.process, self.tell, self.audited)

    def __call__(self, chunk: int, conditions: Mapping[str, Any]) -> Receipt:
        made: Chunk | None = None

        def simulate() -> Chunk:
            nonlocal made
            # rows of a store are read here, by the worker, so that only their place travels
            values = {n: value.load() if isinstance(value, StoredRows) else value for n, value in conditions.items()}
            told = None if self.tell is None else rarely(self.tell, chunk)
            made = simulate_chunk(self.pipeline, self.plan, chunk, values, self.policy, self.process, told)
            return made

        receipt = self.writer.write(chunk, simulate)
        if self.audited is None or made is None:
            return receipt
        units, first = self.audited.get(chunk, ()), self.plan.samples(chunk).start
        parts = self.pipeline.parts(self.plan)
        return replace(receipt, trace=traced(made, self.pipeline, parts, first, self.writer.layout, units))

    def close(self) -> None:
        """End the processes that were started for calls that may hang."""
        if self.process is not None:
            self.process.close()
