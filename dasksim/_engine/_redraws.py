"""Simulate one sub-batch in which samples may fail: mask them, or draw them again."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from dasksim._core.arrays import as_host
from dasksim._core.conditions import pad_rows
from dasksim._core.failures import MOST_ATTEMPTS, Failure, Policy, masked_value, summed
from dasksim._core.plan import Plan
from dasksim._core.variables import Variable
from dasksim._engine._outputs import parts_alike
from dasksim._engine.evaluation import Values, explain, run_steps
from dasksim._engine.failed_rows import FailedRows
from dasksim._engine.pipeline import Pipeline
from dasksim._engine.stage import Place
from dasksim._engine.steps import Step
from dasksim.errors import SimulatorError

__all__ = ["OutOfTimeError", "SubBatchResult", "SubBatchRun", "TimedSteps"]

Array = npt.NDArray[Any]


class TimedSteps(Protocol):
    """A process that evaluates steps, and is killed when that takes too long."""

    @property
    def seconds(self) -> float:
        """How long one sub-batch may take."""

    def start(self) -> None:
        """Start it, if it does not run."""

    def run(
        self, steps: Sequence[int], place: Place, n_rows: int, values: Values, failures: FailedRows, seconds: float
    ) -> tuple[Values, FailedRows] | None:
        """Return what there is once some steps have run, and what has failed, or None if out of time."""


@dataclass(frozen=True)
class SubBatchResult:
    """What was made of one sub-batch.

    Parameters
    ----------
    values
        What there is. Rows that are masked, or beyond the end of the dataset, may hold anything.
    masked
        Which rows are masked; None where no row can be.
    failures
        What failed.
    stages
        The stages in which masked rows have failed.
    """

    values: Values
    masked: Array | None = None
    failures: Sequence[Failure] = ()
    stages: Mapping[int, str] = field(default_factory=dict)


class OutOfTimeError(Exception):
    """A sub-batch took too long whose samples can be simulated one by one."""


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
    given
        The conditions' values on it.
    process
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
        given: Mapping[str, Any],
        process: TimedSteps | None = None,
        strict_at: int | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.plan = plan
        self.policy = policy
        self.process = process
        self.strict_at = strict_at
        self.place = Place.of(plan, sub_batch)
        # rows beyond the dataset's end too if any stage needs them: which of a whole sub-batch fail must not depend on
        # where the dataset ends
        is_full = any(step.is_full and step.is_run for step in pipeline.steps)
        self.n_rows = plan.sub_batch_size if is_full else plan.n_rows_of(sub_batch)
        self.given = {
            name: value if self._is_shared(name) else pad_rows(value, self.n_rows) for name, value in given.items()
        }

    def _is_shared(self, condition: str) -> bool:
        return self.pipeline.conditions[condition].variable.is_shared

    def run(self, watch: bool) -> SubBatchResult:
        """Simulate it; ``watch`` says whether to find out if functions use the global generators."""
        missing = np.arange(self.n_rows)
        masked = np.zeros(self.n_rows, bool)
        found: list[Failure] = []
        stages: dict[int, str] = {}
        values: Values | None = None
        for redraw in range(MOST_ATTEMPTS):
            again, failures = self._attempt(redraw, missing, values, watch)
            found += failures.found
            masked[missing[failures.masked]] = True
            stages |= {int(missing[row]): stage for row, stage in failures.stages.items()}
            # an attempt that took too long has made nothing
            if values is None:
                values = again
            elif again is not None:
                values = self._joined(values, again, missing, failures)
            missing = missing[failures.redrawn]
            # rows are in order: if the first that is left lies beyond the end, all do, and they are cut off anyway
            if not len(missing) or self.place.first_sample + missing[0] >= self.plan.n_samples:
                return SubBatchResult(values or self._nothing(), masked, found, stages)
        return self._give_up(int(missing[0]), found)

    def _attempt(
        self, redraw: int, rows: Array, before: Values | None, watch: bool
    ) -> tuple[Values | None, FailedRows]:
        """Return what is made of some rows, with the contexts that there are, or None if it took too long."""
        # the same rows on the streams of another redraw, with the contexts that the others were drawn with
        place = replace(self.place, redraw=redraw, cells=self.place.cells.select(rows))
        failures = FailedRows(self.policy, self.place.first_sample + rows, self.plan.n_samples, self.strict_at)
        given = {name: value if self._is_shared(name) else value[rows] for name, value in self.given.items()}
        values = Values(given, self._contexts(before, rows) if before is not None else {})
        try:
            steps = range(len(self.pipeline.steps))
            if self.process is None:
                return run_steps(self.pipeline, steps, place, len(rows), values, watch, failures), failures
            if self.pipeline.is_by_cell and self.n_rows == 1:
                return self._stage_by_stage(self.process, place, values, failures)
            found = self.process.run(steps, place, len(rows), values, failures, self.process.seconds)
            if found is not None:
                return found
            if self.pipeline.is_by_cell:
                raise OutOfTimeError
            # nobody knows at which row, so that all have failed
            self._fail_for_time(self.process, failures, "")
            return None, failures
        except OutOfTimeError:
            raise
        except Exception as error:
            how = self.pipeline.how_to_reproduce(failures.raised_at, self.plan, is_optional=failures.is_optional)
            explain(error, how)
            raise

    def _stage_by_stage(
        self, process: TimedSteps, place: Place, values: Values, failures: FailedRows
    ) -> tuple[Values, FailedRows]:
        """Return what is made of one sample before its time is over, and zeros for what is not."""
        process.start()  # which takes no time of the sample's
        stop = time.monotonic() + process.seconds
        for index, step in enumerate(self.pipeline.steps):
            if not step.is_run or index in values.made:
                continue
            found = process.run([index], place, 1, values, failures, max(stop - time.monotonic(), 0))
            if found is None:
                self._fail_for_time(process, failures, step.stage.name)
                nothing = self._nothing()
                return Values(values.given, {**nothing.made, **values.made}), failures
            values, failures = found
        return values, failures

    def _fail_for_time(self, process: TimedSteps, failures: FailedRows, stage: str) -> None:
        """Note that all rows have failed, or raise an exception where that ends all."""
        out_of_time = TimeoutError(f"no result within {process.seconds:g} s")
        if not failures.raised(np.arange(len(failures.samples)), stage, out_of_time):
            raise out_of_time

    def _contexts(self, before: Values, rows: Array) -> dict[int, dict[str, Any]]:
        """Return what holds for the whole sub-batch, and is not drawn again."""
        return {
            index: {v.name: _of_rows(v, before.made[index][v.name], rows) for v in step.outputs}
            for index, step in enumerate(self.pipeline.steps)
            if _is_kept(step)
        }

    def _nothing(self) -> Values:
        """Return what stands for the values of a sub-batch that took too long."""
        sizes = self.pipeline.sizes
        made = {
            index: {
                v.name: _blank(v, () if v.is_shared else (self.n_rows, *(sizes[plate] for plate in v.plates)))
                for v in step.outputs
            }
            for index, step in enumerate(self.pipeline.steps)
            if step.is_run
        }
        return Values(self.given, made)

    def _joined(self, before: Values, again: Values, rows: Array, failures: FailedRows) -> Values:
        """Return values with those of samples that were drawn again in their places."""
        made = {
            index: old
            if _is_kept(self.pipeline.steps[index])
            else {
                v.name: self._joined_variable(v, old[v.name], again.made[index][v.name], rows, failures)
                for v in self.pipeline.steps[index].outputs
            }
            for index, old in before.made.items()
        }
        return Values(before.given, made)

    def _joined_variable(self, variable: Variable, old: Any, new: Any, rows: Array, failures: FailedRows) -> Array:
        before, after = as_host(old), as_host(new)
        if variable.is_shared:
            total: Array = before + after  # a count
            return total
        # of those that are masked now, what stages made before they failed stays
        is_new = ~failures.redrawn
        if not is_new.any():
            return before
        # where all are drawn again, the sizes of what there was mean nothing
        before, after = parts_alike([before, after], variable) if len(rows) < self.n_rows else (before, after)
        if before.shape[1:] != after.shape[1:] and failures.failed.all():
            return before
        if before.shape[1:] != after.shape[1:]:  # all have failed so far: sizes that follow contexts are not known
            before = np.zeros((len(before), *after.shape[1:]), before.dtype)
        # a copy, since what a function returned may be its own input, which is read-only
        before = np.array(before)
        before[rows[is_new]] = after[is_new]
        return before

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


def _of_rows(variable: Variable, values: Any, rows: Array) -> Any:
    return values if variable.is_shared else values[rows]
