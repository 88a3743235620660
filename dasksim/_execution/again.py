"""Simulate parts of chunks again, each alone, as an audit does; and what chunks leave behind to be compared with."""

import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from dasksim._core.chunk import Chunk, Trace
from dasksim._core.failures import Policy
from dasksim._core.plan import Plan
from dasksim._engine.chunks import simulate_chunk
from dasksim._engine.compiled import plainly
from dasksim._engine.pipeline import Pipeline
from dasksim._execution._timeouts import TimeoutProcess
from dasksim.store import StoredRows, StoreLayout

__all__ = ["Again", "Unit", "traced", "whereabouts"]

# First samples of a chunk that are compared with those of all others.
_OPENING = 16

# Bytes of a part whose values are sent along, for a message.
_MOST_BYTES = 1 << 20


def whereabouts() -> str:
    """Return what tells this process from others: the address of a cluster's worker, or its machine and number."""
    distributed = sys.modules.get("distributed")
    if distributed is not None:
        try:
            return str(distributed.get_worker().address)
        except ValueError:  # no worker
            pass
    return f"{platform.node()}:{os.getpid()}"


def traced(
    made: Chunk, pipeline: Pipeline, parts: Plan, first: int, layout: StoreLayout, units: Iterable[int]
) -> Trace:
    """Return what is compared of a chunk, from its first sample; ``units`` are chunks of another plan within it."""
    opening = layout.row_digests(made.variables, slice(0, _OPENING))
    own = [rows for name, rows in opening.items() if pipeline.sources.get(name) is not None]
    rows = {unit: parts.samples(unit) for unit in units}
    digests = {
        unit: layout.row_digests(made.variables, slice(part.start - first, part.stop - first))
        for unit, part in rows.items()
    }
    # a row's digests are one number
    return Trace(whereabouts(), tuple(hash(row) for row in zip(*own, strict=True)), digests)


@dataclass(frozen=True)
class Unit:
    """A part of a chunk, simulated alone.

    Parameters
    ----------
    made_by
        The process that made it.
    digests
        CRC32C of each row, by variable.
    values
        The rows, unless they are large.
    """

    made_by: str
    digests: Mapping[str, tuple[int, ...]]
    values: Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Again:
    """Simulates a part of a chunk alone.

    Parameters
    ----------
    pipeline, plan, policy
        What to simulate; the plan's chunks are the parts.
    layout
        The dtypes in which values are compared: those in which they are stored.
    process
        The process in which to simulate, where that may take too long.
    """

    pipeline: Pipeline
    plan: Plan
    policy: Policy
    layout: StoreLayout
    process: TimeoutProcess | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Again, (self.pipeline.without_rows(), self.plan, self.policy, self.layout, self.process)

    def __call__(self, chunk: int, conditions: Any) -> Unit:
        values = {n: value.load() if isinstance(value, StoredRows) else value for n, value in conditions.items()}
        with plainly():  # what a function is compiled to has its values
            made = simulate_chunk(self.pipeline, self.plan, chunk, values, self.policy, self.process)
        n_bytes = sum(array.nbytes for array in made.variables.values())
        digests = self.layout.row_digests(made.variables, slice(None))
        return Unit(whereabouts(), digests, dict(made.variables) if n_bytes <= _MOST_BYTES else {})

    def close(self) -> None:
        """End the processes that were started for calls that may hang."""
        if self.process is not None:
            self.process.close()
