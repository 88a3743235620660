"""The one evaluation: of a step on a sub-batch, or on an attempt at it.

The lazy graph asks for one step on all sub-batches of a chunk, a run for all steps on one sub-batch; redraws, replay,
filters and branches for some steps on some rows.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dasksim._core.arrays import as_host, namespace_of, read_only, select_rows
from dasksim._core.failures import Policy
from dasksim._core.memory import keep_freed_memory
from dasksim._core.plan import Plan
from dasksim._core.variables import Variable
from dasksim._engine._outputs import PaddedRows, with_sizes
from dasksim._engine.failed_rows import FailedRows
from dasksim._engine.functions import FunctionStage, without_exit, zeros
from dasksim._engine.pipeline import Pipeline
from dasksim._engine.row_functions import RowStage
from dasksim._engine.stage import Place, SubBatch
from dasksim._engine.steps import Step, sub_batch_of
from dasksim.errors import OutputError

__all__ = ["Strict", "Values", "evaluate_chunk", "evaluate_step", "explain", "run_steps", "without"]

Array = npt.NDArray[Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Values:
    """What there is on a sub-batch, or on an attempt at it.

    Parameters
    ----------
    given
        The conditions' values.
    made
        What steps have made, by their numbers: one row a sample; contexts have no rows.
    """

    given: Mapping[str, Any]
    made: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, source: int | None) -> Mapping[str, Any]:
        """Return what a step has made, or what was given."""
        return self.given if source is None else self.made[source]

    def inputs(self, step: Step) -> dict[str, Any]:
        """Return the values of a step's inputs."""
        return {name: self.of(source)[name] for name, source in step.sources.items()}

    def with_made(self, index: int, made: Mapping[str, Any]) -> "Values":
        """Return them with what a step has made."""
        return Values(self.given, {**self.made, index: made})


def evaluate_step(
    pipeline: Pipeline,
    index: int,
    place: Place,
    n_rows: int,
    inputs: Mapping[str, Any],
    watch: bool,
    failures: FailedRows | None = None,
    explained: Callable[[Exception, Step], None] | None = None,
) -> dict[str, Array]:
    """Return what a step makes of a sub-batch, or of an attempt at it.

    Rows that have failed hold values without meaning. A function that is called once a row is not called for them; one
    that is given whole arrays finds there the values of a row that has not failed. If all have failed, nothing is
    called. Without ``failures`` any exception ends all; ``explained`` adds to one where it was raised, by default in
    which stage.
    """
    # here, which every way of running steps passes
    keep_freed_memory()
    step = pipeline.steps[index]
    batch = sub_batch_of(step, place, n_rows, pipeline.inputs(step, inputs), watch, failures)
    pipeline.check_plates(step, batch)
    try:
        return without_exit(_evaluated, step, batch)
    except Exception as error:
        (explained or _name_stage)(error, step)
        raise


def _name_stage(error: Exception, step: Step) -> None:
    error.add_note(f"raised in stage {step.stage.name!r}")


def _evaluated(step: Step, batch: SubBatch) -> dict[str, Array]:
    failures = batch.failures
    if failures is None or step.stage.is_transfer or step.stage.passes_failed:
        return _simulated(step, batch)
    # a function that is called row by row passes over those that have failed by itself
    if failures.is_lenient and not isinstance(step.stage, RowStage) and not step.stage.makes_contexts:
        failed = failures.failed
        if failed.all():
            return zeros(step.outputs, batch)
        if failed.any():
            batch = replace(batch, rows={name: without(failed, values) for name, values in batch.rows.items()})
    made = _simulated(step, batch)
    # the stages inside another have been looked at there
    if failures.policy.on_nonfinite != "keep" and isinstance(step.stage, FunctionStage):
        for variable in step.outputs:
            if variable.dtype.kind in "fc" and not variable.is_shared:
                _check_finite(made[variable.name], variable, step, batch, failures)
    return made


def _simulated(step: Step, batch: SubBatch) -> dict[str, Array]:
    """Return what a stage makes, with the sizes of what differs in size; stages inside others have added them."""
    if not isinstance(step.stage, FunctionStage) or not any(v.sizes_of for v in step.outputs):
        return step.stage.simulate(step.binding, batch, step.outputs)
    made = step.stage.simulate(step.binding, batch, tuple(v for v in step.outputs if not v.sizes_of))
    return with_sizes(made, step.outputs, batch.device)


def run_steps(
    pipeline: Pipeline,
    indices: Iterable[int],
    place: Place,
    n_rows: int,
    values: Values,
    watch: bool,
    failures: FailedRows | None = None,
) -> Values:
    """Evaluate some steps, in order, on as many rows each; those whose values there are already are not run."""
    for index in indices:
        step = pipeline.steps[index]
        if not step.is_run or index in values.made:
            continue
        made = evaluate_step(pipeline, index, place, n_rows, values.inputs(step), watch, failures)
        values = values.with_made(index, made)
        if getattr(step.stage, "keep_all", False):
            # as many as were accepted: the steps after it run for all of these
            n_rows = next(len(made[v.name]) for v in step.outputs if not v.is_shared)
    return values


@dataclass(frozen=True)
class Strict:
    """A sub-batch of a dataset in which any exception ends all, and says how to run the sub-batch alone.

    Parameters
    ----------
    pipeline, plan
        What is simulated.
    sub_batch
        Number of the sub-batch.
    """

    pipeline: Pipeline
    plan: Plan
    sub_batch: int

    def evaluated(self, index: int, inputs: Mapping[str, Any], watch: bool) -> dict[str, Array]:
        """Return what a step makes, of as many rows as anybody needs."""
        place = Place.of(self.plan, self.sub_batch)
        is_full = self.pipeline.steps[index].is_full
        n_rows = place.full_rows if is_full else self.plan.n_rows_of(self.sub_batch)
        # a range: arrays are made where something fails, and would take a tenth of the lightest model's time
        failures = FailedRows(Policy(), range(place.first_sample, place.first_sample + n_rows), self.plan.n_samples)

        def explained(error: Exception, step: Step) -> None:
            where = self.pipeline.how_to_reproduce(
                failures.raised_at, self.plan, step.stage.name, is_optional=failures.is_optional
            )
            explain(error, where)

        return evaluate_step(self.pipeline, index, place, n_rows, inputs, watch, failures, explained)

    def run(self, given: Mapping[str, Any], watch: bool) -> Values:
        """Return what all steps make."""
        values = Values(given)
        for index, step in enumerate(self.pipeline.steps):
            if step.is_run:
                values = values.with_made(index, self.evaluated(index, values.inputs(step), watch))
        return values


def evaluate_chunk(
    pipeline: Pipeline, index: int, plan: Plan, chunk: int, inputs: Mapping[str, Sequence[Any]]
) -> dict[str, list[Array]]:
    """Evaluate one step on all sub-batches of a chunk, its inputs by sub-batch; return its outputs by sub-batch too."""
    step = pipeline.steps[index]

    def evaluated(watch: bool) -> dict[str, list[Array]]:
        parts = [
            Strict(pipeline, plan, sub_batch).evaluated(index, {name: inputs[name][j] for name in step.sources}, watch)
            for j, sub_batch in enumerate(plan.sub_batches(chunk))
        ]
        return {v.name: [part[v.name] for part in parts] for v in step.outputs}

    return step.stage.guarded(evaluated)


def without(failed: Array, values: Any) -> Any:
    """Return rows with those that have failed replaced by the first that has not."""
    return read_only(select_rows(values, np.where(failed, np.argmin(failed), np.arange(len(failed)))))


def _check_finite(values: Any, variable: Variable, step: Step, batch: SubBatch, failures: FailedRows) -> None:
    xp = namespace_of(values)
    if isinstance(values, PaddedRows):  # what they are filled up with may be NaN
        cells = values.finite
    else:
        cells = as_host(xp.all(xp.reshape(xp.isfinite(values), (batch.n_cells, -1)), axis=1))
    is_finite = cells.reshape(batch.axes[0], -1).all(axis=1) | failures.failed
    if is_finite.all():
        return
    rows = np.flatnonzero(~is_finite)
    if failures.nonfinite(rows, step.stage.name, variable.name):
        return
    row = int(rows[failures.samples[rows] == failures.raised_at][0])
    cell = int(np.argmin(cells.reshape(batch.axes[0], -1)[row])) + row * batch.cells_per_row
    inputs = batch.inputs_of(cell)
    raise OutputError(
        f"stage {step.stage.name!r} returned {variable.name!r} with NaN or infinite values at sample "
        f"{failures.raised_at}"
        + (f", whose inputs are {inputs}" if inputs else "")
        + "; on_nonfinite='mask' or 'redraw' goes on without such samples, 'keep' keeps them"
    )


def explain(error: Exception, where: str) -> None:
    """Add to an exception where it happened, and what a message of NumPy's does not say."""
    if isinstance(error, ValueError) and "read-only" in str(error):
        error.add_note("what a function is given is read-only, since others see it too; change a copy of it")
    error.add_note(where)
