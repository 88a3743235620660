"""The audit of a run: some samples are simulated again, elsewhere, alone and in another order, and bits are compared.

Samples of the first chunk are, as soon as it is written, and of a few others at the end. The first samples of all
chunks are compared with each other, so that streams that repeat are found, whatever made them.
"""

import contextlib
import logging
import os
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from dasksim._core.audits import AuditOutcome
from dasksim._core.chunk import Receipt, Trace
from dasksim._core.plan import Plan
from dasksim._engine.chunks import in_memory
from dasksim._engine.nested import steps_within
from dasksim._engine.pipeline import Pipeline
from dasksim._execution._chunk_job import ChunkJob
from dasksim._execution.again import Again, Unit, whereabouts
from dasksim._execution.differences import Difference
from dasksim._execution.elsewhere import Run, in_cluster, in_process
from dasksim._execution.jobs import SentJob
from dasksim.errors import ArgumentError, IrreproducibleError
from dasksim.store import ChunkWriter, Store

__all__ = ["Audit", "audited_units", "kept"]

_log = logging.getLogger("dasksim")

# Share of a run's time that its audit may take, half of it at the first chunk.
_SHARE = 0.01

# Parts of the first chunk, and of each of some others, that are simulated again at most.
_MOST_FIRST = 12
_MOST_OTHERS = 4
_N_OTHERS = 3

# And so many seconds at the least: what a run costs by itself is more.
_LEAST_SECONDS = 2e-3

# Seconds of work of a run for which it is worth to start a process, which takes one, though no function looks as if
# it told processes apart.
_WORTH_A_PROCESS = 10.0

# What is raised for a fault of the machine, and not by a function.
_FAULTS = (BrokenProcessPool, ConnectionError, CancelledError, MemoryError)

# Chance by which openings may be alike that are none of the same stream.
_CHANCE = 1e-3


def audited_units(pipeline: Pipeline, plan: Plan, chunks: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Return which parts of which chunks may be simulated again: those of the first one, and of a few others."""
    parts = pipeline.parts(plan)
    others = {chunks[len(chunks) * i // _N_OTHERS - 1] for i in range(1, _N_OTHERS + 1)} - {chunks[0]}
    most = {chunks[0]: _MOST_FIRST} | dict.fromkeys(sorted(others), _MOST_OTHERS)
    ratio = plan.chunk_size // parts.chunk_size
    found = {}
    for chunk, n in most.items():
        n_units = -(-plan.n_rows(chunk) // parts.chunk_size)
        places = range(n_units) if n_units <= n else [i * (n_units - 1) // (n - 1) for i in range(n)]
        # from the last to the first: what a function keeps from call to call then differs
        found[chunk] = tuple(chunk * ratio + place for place in reversed(places))
    return found


class Audit:
    """The audit of a run.

    Parameters
    ----------
    job
        What the run does for each chunk; it knows which parts may be simulated again.
    chunks
        The chunks of the run.
    scheduler
        Where it runs.
    warns
        Whether a difference in the first chunk only warns.
    """

    def __init__(self, job: ChunkJob, chunks: Sequence[int], scheduler: Any, *, warns: bool) -> None:
        self._job = job
        self._first = chunks[0]
        self._units = job.audited or {}
        self._scheduler = scheduler
        self._warns = warns
        self._n_samples = sum(map(job.plan.n_rows, chunks))
        self._seconds = 0.0  # of work in the run, as far as the first chunk tells
        self._traces: dict[int, Trace] = {}
        self._openings: dict[int, tuple[int, ...]] = {}
        self._counted: Counter[int] = Counter()  # samples, by chunk
        self._places: set[bool] = set()  # whether they were simulated elsewhere
        self._differences: list[Difference] = []
        self._found: list[str] = []

    @property
    def outcome(self) -> AuditOutcome:
        """What was found so far."""
        found = [*map(str, self._differences), *self._found]
        return AuditOutcome(
            self._counted.total(), len(self._counted), bool(self._places) and all(self._places), tuple(found)
        )

    def look(self, receipt: Receipt, n_workers: int) -> None:
        """Take note of a chunk; if it is the first, simulate samples of it again.

        Raises
        ------
        IrreproducibleError
            If one differs.
        """
        if receipt.trace is None:
            return
        self._openings[receipt.chunk] = receipt.trace.opening
        # which samples take too long is up to the machine, and so is what is made in their place
        if receipt.chunk in self._units and not any(failure.kind == "TimeoutError" for failure in receipt.failures):
            self._traces[receipt.chunk] = receipt.trace
        if receipt.chunk == self._first:
            self._seconds = receipt.nanoseconds / 1e9 / receipt.n_rows * self._n_samples
            self._check([self._first] if self._first in self._traces else [], n_workers)
            if self._differences and not self._warns:
                raise IrreproducibleError(self._differences[0].explained())

    def finish(self, n_workers: int) -> None:
        """Simulate samples of other chunks again, compare all openings, and warn of what differs."""
        self._check([chunk for chunk in self._traces if chunk != self._first], n_workers)
        self._found += self._repeated()
        for text in [*(difference.explained() for difference in self._differences[:1]), *self._found]:
            warnings.warn(text, UserWarning, stacklevel=2)

    def _check(self, chunks: Sequence[int], n_workers: int) -> None:
        # the workers may have to wait for it: all of them together then lose the share
        stop = time.monotonic() + max(_SHARE / 2 * self._seconds / n_workers, _LEAST_SECONDS)
        try:
            for chunk in chunks:
                with self._elsewhere(self._traces[chunk].made_by) as run:
                    for unit in self._traces[chunk].units:
                        difference = self._compared(run, chunk, unit)
                        if difference is not None:
                            self._differences.append(difference)
                        if self._differences or time.monotonic() > stop:
                            return
        except Exception as error:  # noqa: BLE001  (what functions raise does not come here)
            _log.warning("the audit was cut short: %s: %s", type(error).__name__, error)

    def _compared(self, run: Run, chunk: int, unit: int) -> Difference | None:
        """Return how a part differs from what it was when its chunk was made."""
        trace, parts = self._traces[chunk], self._job.pipeline.parts(self._job.plan)
        before = trace.units[unit]
        now = self._simulated(run, unit)
        if isinstance(now, TimeoutError) and self._job.process is not None:
            return None
        self._counted[chunk] += parts.n_rows(unit)
        self._places.add(isinstance(now, Unit) and now.made_by != trace.made_by)
        if isinstance(now, Unit) and now.digests == before:
            return None
        neighbours = [other for other in (unit + 1, unit - 1) if 0 <= other < parts.n_chunks]
        again = self._simulated(run, unit)
        if neighbours:
            self._simulated(run, neighbours[0])
        after = self._simulated(run, unit)
        pipeline, threads = self._job.pipeline, self._scheduler == "threads"
        return Difference.of(
            pipeline, parts, unit, before, (now, again, after), trace.made_by, self._stored, in_threads=threads
        )

    def _stored(self, sample: int) -> dict[str, Any]:
        """Return a sample as it is stored; nothing where it cannot be read yet."""
        writer = self._job.writer
        with contextlib.suppress(Exception):
            return Store(writer.location).checker(writer.layout.record).sample(sample)
        return {}

    def _simulated(self, run: Run, unit: int) -> Unit | Exception:
        """Return a part, simulated again, or what a function has raised."""
        pipeline, parts = self._job.pipeline, self._job.pipeline.parts(self._job.plan)
        try:
            made: Unit = run(unit, in_memory(pipeline.condition_rows(unit, parts)))
        except Exception as error:
            if isinstance(error, _FAULTS) or type(error).__name__ == "KilledWorker":
                raise
            return error
        return made

    def _elsewhere(self, made_by: str) -> contextlib.AbstractContextManager[Run]:
        """Give what simulates parts again, in another process than made the chunk if that is worth its start."""
        job = self._job
        # in the processes of the run, where calls may take too long; it ends them
        again = Again(job.pipeline, job.pipeline.parts(job.plan), job.policy, job.writer.layout, job.process)
        return self._opened(again, made_by)

    def _opened(self, again: Again, made_by: str) -> contextlib.AbstractContextManager[Run]:
        functions = (f for step in steps_within(again.pipeline.steps) for f in step.stage.functions)
        is_of_process, on_gpu = any(f.is_of_process for f in functions), again.pipeline.device == "gpu"
        here = contextlib.nullcontext(again)
        if not isinstance(self._scheduler, str):
            # the workers of a cluster have one hash seed, by distributed's default
            return in_cluster(again, self._scheduler, on_gpu, made_by) if on_gpu or not is_of_process else here
        # worker processes have another hash seed than this one, unless the environment sets it for all
        is_elsewhere = made_by != whereabouts() and os.environ.get("PYTHONHASHSEED", "random") == "random"
        is_worth_it = is_of_process or self._seconds >= _WORTH_A_PROCESS
        if again.process is not None or on_gpu or is_elsewhere or not is_worth_it:
            return here
        try:
            return in_process(SentJob.of(again))
        except ArgumentError:  # what cannot be sent is simulated here
            return here

    def _repeated(self) -> list[str]:
        """Return a text if some chunks begin alike, as streams that repeat do, and chance does not."""
        if any(not condition.is_scalar for condition in self._job.pipeline.conditions.values()):
            return []  # which may repeat
        length = Counter(map(len, self._openings.values())).most_common(1)
        openings = {c: rows for c, rows in sorted(self._openings.items()) if length and len(rows) == length[0][0]}
        alike = _alike(openings)
        if not alike:
            return []
        chunks, size = [c for group in alike for c in group], self._job.plan.chunk_size
        names = ", ".join(" and ".join(f"{c * size:,}" for c in group[:2]) for group in alike[:3])
        return [
            f"{len(chunks):,} of {len(openings):,} chunks begin with the samples of another one, such as those from "
            f"samples {names} on: several processes draw the same numbers, from a generator that each has seeded alike "
            "when it started and dasksim does not seed. Take `rng` as an argument and draw from that, or tell of the "
            "library's generator with dasksim.random.register"
        ]


@contextlib.contextmanager
def kept(audit: Audit | None, writer: ChunkWriter, chunk: int) -> Iterator[None]:
    """Write into the store what an audit has found when the block ends, in whatever way."""
    try:
        yield
    except BaseException:
        if audit is not None and audit.outcome.n_samples:
            with contextlib.suppress(Exception):  # what ended the run must not be lost
                writer.keep_audit(chunk, audit.outcome)
        raise
    if audit is not None and audit.outcome.n_samples:
        writer.keep_audit(chunk, audit.outcome)


def _alike(openings: Mapping[int, tuple[int, ...]]) -> list[list[int]]:
    """Return groups of chunks whose openings are alike, unless chance may have made them.

    How often rows are alike by chance shows in those that do not stand at the same place of two openings.
    """
    groups = defaultdict(list)
    for chunk, rows in openings.items():
        groups[rows].append(chunk)
    alike = [chunks for rows, chunks in groups.items() if rows and len(chunks) > 1]
    if not alike:
        return []
    n, length = len(openings), len(next(iter(groups)))
    by_place = [Counter(rows[i] for rows in openings.values()) for i in range(length)]
    everywhere = sum(by_place, Counter())
    n_alike = _pairs(everywhere) - sum(map(_pairs, by_place))
    # one more, so that rows of which none are alike are taken for as alike as their number allows
    chance = (n_alike + 1) / (n * n * length * (length - 1) // 2 + 1)
    return alike if n * (n - 1) / 2 * chance**length < _CHANCE else []


def _pairs(counts: Counter[int]) -> int:
    return sum(count * (count - 1) // 2 for count in counts.values())
