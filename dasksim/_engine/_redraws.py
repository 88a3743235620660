"""Simulate one sub-batch in which samples may fail: mask them, or draw them again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from dasksim._core.arrays import as_host
from dasksim._core.conditions import pad_rows
from dasksim._core.failures import MOST_ATTEMPTS, Failure, Failures, Policy, masked_value, summed
from dasksim._core.plan import Plan
from dasksim._core.variables import Variable
from dasksim._engine._outputs import parts_alike
from dasksim._engine.pipeline import Made, Pipeline, explain, run_steps
from dasksim._engine.steps import Place, Step
from dasksim.errors import SimulatorError

__all__ = ["Part", "SubBatchRun", "TimedSteps"]

Array = npt.NDArray[Any]


class TimedSteps(Protocol):
    """A process that evaluates steps, and is killed when that takes too long."""

    @property
    def seconds(self) -> float:
        """How long one sub-batch may take."""

    def run(
        self, indices: Sequence[int], place: Place, n_rows: int, made: Made, failures: Failures
    ) -> tuple[Made, Failures] | None:
        """Return what the steps make and what has failed, or None if out of time."""


@dataclass(frozen=True)
class Part:
    """What was made of one sub-batch.

    Parameters
    ----------
    made
        The values by step, and under None the conditions'. Rows that are masked, or beyond the end of the dataset, may
        hold anything.
    masked
        Which rows are masked.
    failures
        What failed.
    """

    made: Mapping[int | None, Mapping[str, Any]]
    masked: Array
    failures: list[Failure]


class SubBatchRun:
    """Simulates one sub-batch, masks samples that fail or draws them again.

    Parameters
    ----------
    pipeline, plan
        What to simulate.
    policy
        What to do with samples that fail.
    sub_batch
        Number of the sub-batch.
    conditions
        The conditions' values on it.
    child
        The process in which to simulate it, where it may take too long.
    strict_at
        A sample that is never masked: its failure ends all.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        plan: Plan,
        policy: Policy,
        sub_batch: int,
        conditions: Mapping[str, Any],
        child: TimedSteps | None = None,
        strict_at: int | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.plan = plan
        self.policy = policy
        self.child = child
        self.strict_at = strict_at
        size = plan.sub_batch_size
        self.place = Place(plan.seed, sub_batch, sub_batch * size, size)
        # rows beyond the dataset's end too if any stage needs them: which of a whole sub-batch fail must not depend on
        # where the dataset ends
        is_full = any(step.is_full and step.is_run for step in pipeline.steps)
        self.n_rows = size if is_full else min(size, plan.n_samples - self.place.first_sample)
        self.given = {
            name: value if self._is_shared(name) else pad_rows(value, self.n_rows) for name, value in conditions.items()
        }

    def _is_shared(self, condition: str) -> bool:
        return self.pipeline.conditions[condition].variable.is_shared

    def run(self, watch: bool) -> Part:
        """Simulate it; ``watch`` says whether to find out if functions use the global generators."""
        missing = np.arange(self.n_rows)
        masked = np.zeros(self.n_rows, bool)
        found: list[Failure] = []
        made: Made | None = None
        for redraw in range(MOST_ATTEMPTS):
            again, failures = self._attempt(redraw, missing, self._contexts(made), watch)
            found += failures.found
            masked[missing[failures.masked]] = True
            if made is None:
                made = again
            elif again is not None:
                made = {index: self._joined(index, made[index], again, missing, ~failures.failed) for index in made}
            missing = missing[failures.redrawn]
            if not len(missing) or self.place.first_sample + missing[0] >= self.plan.n_samples:
                return Part(made or self._nothing(), masked, found)
        return self._give_up(int(missing[0]), found)

    def _contexts(self, made: Made | None) -> Made:
        kept = [index for index, step in enumerate(self.pipeline.steps) if _is_kept(step)]
        return {index: made[index] for index in kept} if made is not None else {}

    def _attempt(self, redraw: int, rows: Array, contexts: Made, watch: bool) -> tuple[Made | None, Failures]:
        """Return what is made of some rows, or None if it took too long."""
        place = replace(self.place, redraw=redraw)
        failures = Failures(self.policy, self.place.first_sample + rows, self.plan.n_samples, self.strict_at)
        given = {name: value if self._is_shared(name) else value[rows] for name, value in self.given.items()}
        steps = range(len(self.pipeline.steps))
        start: Made = {None: given}
        for index, values in contexts.items():
            start[index] = {v.name: _part(v, values[v.name], rows) for v in self._outputs(index)}
        try:
            if self.child is None:
                return run_steps(self.pipeline, steps, place, len(rows), start, watch, failures), failures
            made = self.child.run(steps, place, len(rows), start, failures)
            if made is None:
                out_of_time = TimeoutError(f"no result within {self.child.seconds:g} s")
                if not failures.raised(np.arange(len(rows)), "", out_of_time):
                    raise out_of_time
                return None, failures
            return made
        except Exception as error:
            explain(error, self.pipeline.how_to_reproduce(failures.raised_at, self.plan))
            raise

    def _nothing(self) -> Made:
        """Return what stands for the values of a sub-batch that took too long."""
        sizes = self.pipeline.sizes
        made: Made = {None: self.given}
        for index, step in enumerate(self.pipeline.steps):
            if step.is_run:
                made[index] = {
                    v.name: _blank(v, () if v.is_shared else (self.n_rows, *(sizes[plate] for plate in v.plates)))
                    for v in step.outputs
                }
        return made

    def _outputs(self, index: int | None) -> tuple[Variable, ...]:
        return () if index is None else self.pipeline.steps[index].outputs

    def _joined(
        self, index: int | None, old: Mapping[str, Any], again: Made, rows: Array, is_good: Array
    ) -> Mapping[str, Any]:
        """Return a step's values with those of samples that were drawn again in their places."""
        if index is None or _is_kept(self.pipeline.steps[index]):
            return old
        joined = {}
        for variable in self._outputs(index):
            before, after = as_host(old[variable.name]), as_host(again[index][variable.name])
            if variable.is_shared:
                joined[variable.name] = before + after  # a count
                continue
            if not is_good.any():
                joined[variable.name] = before
                continue
            before, after = parts_alike([before, after], variable) if len(rows) < self.n_rows else (before, after)
            if before.shape[1:] != after.shape[1:]:  # all have failed so far: sizes that follow contexts are not known
                before = np.zeros((len(before), *after.shape[1:]), before.dtype)
            before = np.array(before)
            before[rows[is_good]] = after[is_good]
            joined[variable.name] = before
        return joined

    def _give_up(self, row: int, found: list[Failure]) -> NoReturn:
        sample = self.place.first_sample + row
        error = SimulatorError(
            f"sample {sample} failed {MOST_ATTEMPTS} times in a row, most often so: {summed(found)[0]}; let the "
            "simulator fail more rarely, or use 'mask' in place of 'redraw'"
        )
        error.add_note(self.pipeline.how_to_reproduce(sample, self.plan))
        raise error


def _is_kept(step: Step) -> bool:
    """Whether what a step makes holds for the whole sub-batch, and stays when samples are drawn again."""
    visible = [v for v in step.outputs if not v.is_hidden]
    return step.is_run and (not step.stage.is_redrawn or (bool(visible) and all(v.is_shared for v in visible)))


def _blank(variable: Variable, axes: tuple[int, ...]) -> Array:
    return np.full((*axes, *variable.shape), masked_value(variable.dtype), variable.dtype)


def _part(variable: Variable, values: Any, rows: Array) -> Any:
    return values if variable.is_shared else values[rows]
