"""Try a simulator before a long run: whether it makes the same bits everywhere, its speed, and what it draws from."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from dask.system import CPU_COUNT

from dasksim._core.checks import check_count, check_seed
from dasksim._core.chunk import Chunk
from dasksim._core.failures import Failure, Policy
from dasksim._core.plan import Plan
from dasksim._core.telling import counted
from dasksim._core.tracebacks import shortened
from dasksim._core.variables import Variable
from dasksim._engine.chunks import in_memory, simulate_chunk
from dasksim._engine.evaluation import Strict, Values
from dasksim._engine.nested import steps_within
from dasksim._engine.pipeline import Pipeline
from dasksim._engine.steps import Step
from dasksim._execution.again import Again, Unit, traced
from dasksim._execution.differences import THREADS, Difference
from dasksim._execution.elsewhere import Run, in_process
from dasksim._execution.jobs import SentJob
from dasksim._operations._compatibility import layout_of
from dasksim.errors import ArgumentError, ArgumentTypeError
from dasksim.simulators import Simulator, SimulatorLike, as_simulator

__all__ = ["SimulatorCheck", "check"]

# By default as many samples as take a second, in these limits; five times each.
_SECONDS = 1.0
_FEWEST, _MOST = 4, 200

# Sub-batches where values depend on them.
_SUB_BATCHES = 3

# A sample that fails is told, and is no difference.
_POLICY = Policy(on_error="mask")


@dataclass(frozen=True)
class _StageCheck:
    name: str
    makes: tuple[str, ...]
    seconds: float
    draws_from: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class SimulatorCheck:
    """What was found of a simulator.

    Parameters
    ----------
    n_samples
        Samples that were simulated, in each of the ways.
    stages
        For each stage its name, what it makes, the seconds that a sample took, and what it draws from.
    sample_bytes
        Bytes of a sample.
    peak_bytes
        Bytes of memory at most while the least that can be simulated alone was: a sample, or a sub-batch.
    ways
        In which ways samples were simulated again.
    differences
        What came out otherwise, by the way in which it did.
    not_tried
        Why a way was left out, by the way.
    n_repeated
        Samples whose variables are all those of an earlier one.
    n_nonfinite
        Samples with NaN or infinite values.
    failures
        What stages raised.
    """

    n_samples: int
    stages: tuple[_StageCheck, ...]
    sample_bytes: int
    peak_bytes: int
    ways: tuple[str, ...]
    differences: Mapping[str, Difference]
    not_tried: Mapping[str, str]
    n_repeated: int
    n_nonfinite: int
    failures: tuple[Failure, ...]

    @property
    def is_good(self) -> bool:
        """Whether all samples had the same bits in each way."""
        return not self.differences

    @property
    def seconds(self) -> float:
        """Seconds that a sample takes."""
        return sum(stage.seconds for stage in self.stages)

    def __repr__(self) -> str:
        rows = [("stage", "makes", "takes", "draws from")]
        for stage in self.stages:
            draws = ", ".join(stage.draws_from) or "nothing"
            rows += [
                (stage.name if not i else "", made, _duration(stage.seconds) if not i else "", draws if not i else "")
                for i, made in enumerate(stage.makes or ("",))
            ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        rate = f", {1 / self.seconds:,.0f} samples/s on a core" if self.seconds else ""
        lines += [
            "",
            f"a sample    {_size(self.sample_bytes)}, {_duration(self.seconds)}{rate}; {_size(self.peak_bytes)} of "
            "memory while it is simulated",
            f"simulated   {counted(self.n_samples, 'sample')}, in {len(self.ways) + 1} ways",
        ]
        lines += [f"failed      {failure}" for failure in self.failures]
        if self.n_nonfinite:
            lines.append(f"NaN or inf  in {counted(self.n_nonfinite, 'sample')}")
        if self.n_repeated:
            lines.append(f"repeated    {counted(self.n_repeated, 'sample')}, each the same as an earlier one")
        for way in self.ways:
            lines.append(f"{'DIFFERS' if way in self.differences else 'the same bits':<15}{way}")
        lines += [f"{'not tried':<15}{way}: {reason}" for way, reason in self.not_tried.items()]
        # one explanation of each cause: several ways show the same
        told: dict[str, str] = {}
        for difference in self.differences.values():
            told.setdefault(difference.cause, difference.explained())
        for text in told.values():
            lines += ["", text]
        return "\n".join(lines)


@shortened()
def check(
    simulator: SimulatorLike,
    n_samples: int | None = None,
    *,
    seed: int | None = None,
    conditions: Mapping[str, Any] | None = None,
    sub_batch_size: int | None = None,
) -> SimulatorCheck:
    """Simulate a few samples in several ways, and see whether they have the same bits in each.

    In order; each alone, from the last to the first; in threads; and in two other processes with other hash seeds.
    Nothing is stored.

    Parameters
    ----------
    simulator
        What to try.
    n_samples
        Number of samples; by default as many as take about a second, from 4 to 200, or three sub-batches where values
        depend on these.
    seed
        Any integer >= 0; by default fresh entropy.
    conditions, sub_batch_size
        As in :meth:`~dasksim.Simulator.sample`.

    Returns
    -------
    SimulatorCheck
        What was found; ``print`` shows it.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument cannot be used.
    SimulatorError, OutputError
        If the simulator's stages or a function's outputs do not fit.
    Exception
        What a function raises at its probe.

    Examples
    --------
    >>> import dasksim
    >>> simulator = dasksim.make_simulator(lambda rng: {"x": rng.normal(size=3)})
    >>> dasksim.check(simulator).is_good
    True
    """
    simulator = as_simulator(simulator)
    if not isinstance(conditions, Mapping | None):
        raise ArgumentTypeError(f"conditions must be a mapping of variables to values; got {conditions!r}")
    pipeline, plan = _planned(simulator, n_samples, check_seed(seed), dict(conditions or {}), sub_batch_size)
    tried = _Trial(pipeline, plan)
    ways: dict[str, Callable[[], Difference | None]] = {
        "alone, from the last to the first": lambda: tried.alone(backwards=True),
        "beside others, in threads": tried.in_threads,
        "in another process, with another hash seed": lambda: tried.in_processes(0),
        "in a second one, from the last to the first": lambda: tried.in_processes(1),
    }
    differences: dict[str, Difference] = {}
    not_tried: dict[str, str] = {}
    for way, compared in ways.items():
        try:
            difference = compared()
        except ArgumentError as error:  # what cannot be sent
            not_tried[way] = str(error)
            continue
        if difference is not None:
            differences[way] = difference
    return SimulatorCheck(
        n_samples=plan.n_samples,
        stages=tuple(_stages(pipeline, plan)),
        sample_bytes=pipeline.sample_bytes,
        peak_bytes=tried.peak_bytes(),
        ways=tuple(way for way in ways if way not in not_tried),
        differences=differences,
        not_tried=not_tried,
        n_repeated=tried.n_repeated,
        n_nonfinite=tried.n_nonfinite,
        failures=tried.made.failures,
    )


def _planned(
    simulator: Simulator, n_samples: int | None, seed: int, conditions: dict[str, Any], sub_batch_size: int | None
) -> tuple[Pipeline, Plan]:
    """Return what is simulated, as one chunk."""

    def planned(n: int) -> tuple[Pipeline, Plan]:
        return simulator.plan(
            (n,),
            seed=seed,
            sub_batch_size=sub_batch_size,
            chunk_size=None,
            conditions=conditions,
            most_probes=_POLICY.most_probes,
        )

    n = check_count("n_samples", _MOST if n_samples is None else n_samples)
    pipeline, plan = planned(n)
    if n_samples is None and all(condition.is_scalar for condition in pipeline.conditions.values()):
        seconds = sum(step.seconds for step in pipeline.steps)
        n = max(_FEWEST, min(_MOST, int(_SECONDS / seconds) if seconds else _MOST))
        if not pipeline.is_by_cell:
            n = max(n, _SUB_BATCHES * planned(1 << 20)[1].sub_batch_size if pipeline.is_batched else n)
        pipeline, plan = planned(n)
    return pipeline, replace(plan, chunk_size=-(-plan.n_samples // plan.sub_batch_size) * plan.sub_batch_size)


class _Trial:
    """Samples of a simulator, and what they are when they are simulated again.

    Parameters
    ----------
    pipeline, plan
        What is simulated; the plan has one chunk.
    """

    def __init__(self, pipeline: Pipeline, plan: Plan) -> None:
        self._pipeline, self._plan = pipeline, plan
        self._least = pipeline.least(plan)
        self._layout = layout_of(pipeline, plan, None, _POLICY)
        self.again = Again(pipeline, self._least, _POLICY, self._layout)
        self.made: Chunk = simulate_chunk(pipeline, plan, 0, in_memory(pipeline.condition_rows(0, plan)), _POLICY)
        self._before = traced(self.made, pipeline, self._least, 0, self._layout, range(self._least.n_chunks))

    @property
    def n_repeated(self) -> int:
        """Samples whose variables are all those of an earlier one, of what was simulated."""
        own = [name for name, source in self._pipeline.sources.items() if source is not None]
        digests = self._layout.row_digests(self.made.variables, slice(None), self._plan.n_samples)
        rows = Counter(zip(*(digests[name] for name in own), strict=True))
        return sum(count - 1 for count in rows.values())

    @property
    def n_nonfinite(self) -> int:
        """Samples with NaN or infinite values, of those that have not failed."""
        valid = self.made.variables["valid"]
        bad = np.zeros(len(valid), bool)
        for variable in self._pipeline.variables:
            values = self.made.variables[variable.name]
            # sizes that follow contexts are filled up with NaN
            if variable.dtype.kind in "fc" and not (variable.plates or variable.ragged):
                bad |= ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        return int((bad & valid).sum())

    def peak_bytes(self) -> int:
        """Return the memory that one part takes at most."""
        tracemalloc.start()
        try:
            self._simulated(self.again, 0)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def in_processes(self, number: int) -> Difference | None:
        """Return how the first part differs that is simulated in another process.

        Raises
        ------
        ArgumentError
            If the simulator cannot be sent there.
        """
        with in_process(SentJob.of(self.again), number) as run:
            return self.alone(run, backwards=bool(number))

    def in_threads(self) -> Difference | None:
        """Return how the first part differs that is simulated beside others."""
        units = range(self._least.n_chunks)
        with ThreadPoolExecutor(max(CPU_COUNT, 2)) as threads:
            beside = list(threads.map(lambda unit: self._simulated(self.again, unit), units))
        for unit, made in zip(units, beside, strict=True):
            if isinstance(made, Exception):
                return Difference.raised(self._least.samples(unit).start, made, "beside others, in threads", THREADS)
            if made.digests != self._before.units[unit]:
                now = self._simulated(self.again, unit)
                if isinstance(now, Unit) and now.digests == made.digests:  # it was another at first
                    return self._difference(self.again, unit, now, self._before.units[unit], self._then)
                return self._difference(self.again, unit, now, made.digests, _rows_of(made), in_threads=True)
        return None

    def alone(self, run: Run | None = None, *, backwards: bool) -> Difference | None:
        """Return how the first part differs that is simulated alone, by default in this process."""
        run = run or self.again
        units: Sequence[int] = range(self._least.n_chunks)
        for unit in reversed(units) if backwards else units:
            now = self._simulated(run, unit)
            if not (isinstance(now, Unit) and now.digests == self._before.units[unit]):
                return self._difference(run, unit, now, self._before.units[unit], self._then)
        return None

    def _difference(
        self,
        run: Run,
        unit: int,
        now: Unit | Exception,
        before: Mapping[str, Sequence[int]],
        then: Callable[[int], Mapping[str, Any]],
        *,
        in_threads: bool = False,
    ) -> Difference:
        again = self._simulated(run, unit)
        if self._least.n_chunks > 1:
            self._simulated(run, unit - 1 if unit else 1)
        runs = (now, again, self._simulated(run, unit))
        made_by = self._before.made_by
        return Difference.of(self._pipeline, self._least, unit, before, runs, made_by, then, in_threads=in_threads)

    def _then(self, sample: int) -> dict[str, Any]:
        return {name: values[sample] for name, values in self.made.variables.items()}

    def _simulated(self, run: Run, unit: int) -> Unit | Exception:
        try:
            made: Unit = run(unit, in_memory(self._pipeline.condition_rows(unit, self._least)))
        except Exception as error:  # noqa: BLE001
            return error
        return made


def _rows_of(made: Unit) -> Callable[[int], Mapping[str, Any]]:
    """Return what gives a sample of a part."""
    return lambda sample: {name: values[sample % len(values)] for name, values in made.values.items()}


def _stages(pipeline: Pipeline, plan: Plan) -> Iterator[_StageCheck]:
    """Say of each stage what it makes, how long a sample takes, and what it draws from."""
    seconds = _timed(pipeline, plan)
    for index, step in enumerate(pipeline.steps):
        if step.is_run and not step.stage.is_transfer:
            made = tuple(_described(v, pipeline) for v in step.outputs if not (v.is_count or v.is_hidden))
            draws = dict.fromkeys(source for inner in steps_within([step]) for source in _sources(inner))
            yield _StageCheck(step.stage.name, made, seconds.get(index, step.seconds), tuple(draws))


def _timed(pipeline: Pipeline, plan: Plan) -> dict[int, float]:
    """Return the seconds that a sample takes in each stage, of the first sub-batch; of none that fails there."""
    n_rows, found = plan.n_rows_of(0), {}
    rows = pipeline.condition_rows(0, replace(plan, chunk_size=plan.sub_batch_size))
    values, strict = Values(in_memory(rows)), Strict(pipeline, plan, 0)
    with contextlib.suppress(Exception):
        for index, step in enumerate(pipeline.steps):
            if step.is_run:
                start = time.perf_counter()
                values = values.with_made(index, strict.evaluated(index, values.inputs(step), False))
                found[index] = (time.perf_counter() - start) / n_rows
    return found


def _described(variable: Variable, pipeline: Pipeline) -> str:
    shape = pipeline.array_shape(variable) if variable.name in pipeline.dims else variable.shape
    return f"{variable.name} {variable.dtype} {'x'.join(map(str, shape))}".rstrip()


def _sources(step: Step) -> Iterator[str]:
    """Say what a stage draws from."""
    asked = step.binding.names
    yield from (name for name in ("rng", "seed", "seed32", "random_state") if name in asked)
    for function in step.stage.functions:
        yield from function.sources


def _duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def _size(n_bytes: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes} bytes"
