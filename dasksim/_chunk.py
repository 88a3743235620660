"""Simulate one chunk of a dataset as it stands in a store, and deal with samples that fail."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._conditions import pad_rows
from dasksim._failures import VALID, Failure, Failures, Policy, summed
from dasksim._isolation import run_all
from dasksim._pipeline import Pipeline, explain, run_steps, to_rows
from dasksim._plan import Plan
from dasksim._schema import Variable
from dasksim._steps import Place, Step
from dasksim.errors import ArgumentError, SimulatorError

__all__ = ["Chunk", "check_policy", "simulate_chunk"]

Array = npt.NDArray[Any]
Made = dict[int | None, Mapping[str, Any]]

# Attempts at a sample, the first one included.
_MOST_ATTEMPTS = 100


@dataclass(frozen=True)
class Chunk:
    """One chunk of a dataset.

    Parameters
    ----------
    variables
        The values.
    n_proposals, n_accepted
        Proposals made and accepted.
    failures
        What failed.
    """

    variables: Mapping[str, Array]
    n_proposals: int
    n_accepted: int
    failures: tuple[Failure, ...] = ()


def check_policy(pipeline: Pipeline, policy: Policy) -> None:
    """Refuse a policy that does not go with a simulator.

    Raises
    ------
    ArgumentError
        If there is a variable of the name of the mask, or contexts would be drawn again with samples.
    """
    if policy.masks and VALID in pipeline.sources:
        raise ArgumentError(
            f"the simulator has a variable {VALID!r}, the name of the mask that on_error='mask' and "
            "on_nonfinite='mask' add; rename it"
        )
    for step in pipeline.steps:
        shared = [v.is_shared for v in step.outputs if not v.is_hidden]
        if policy.redraws and step.is_run and any(shared) and not all(shared):
            raise ArgumentError(
                f"stage {step.stage.name!r} makes contexts and samples at once, which cannot be drawn again apart; "
                "make its contexts with meta_fn, or use 'mask' in place of 'redraw'"
            )


def simulate_chunk(pipeline: Pipeline, plan: Plan, chunk: int, conditions: Mapping[str, Any], policy: Policy) -> Chunk:
    """Evaluate all steps on one chunk.

    Parameters
    ----------
    pipeline, plan
        What to simulate.
    chunk
        Number of the chunk.
    conditions
        The conditions' values on this chunk.
    policy
        What to do with samples that fail.
    """
    if policy == Policy():
        return _assembled(pipeline, plan, chunk, _by_step(pipeline, plan, chunk, conditions))
    parts = [
        _SubBatchRun(pipeline, plan, policy, sub_batch, _rows_of(pipeline, plan, conditions, j)).run()
        for j, sub_batch in enumerate(plan.sub_batches(chunk))
    ]
    made: Made = {None: conditions}
    for index, step in enumerate(pipeline.steps):
        if step.is_run:
            made[index] = {v.name: [part.made[index][v.name] for part in parts] for v in step.outputs}
    found = _assembled(pipeline, plan, chunk, made)
    failures = summed(failure for part in parts for failure in part.failures)
    valid = ~np.concatenate([part.masked for part in parts])[: plan.n_rows(chunk)]
    variables = {**found.variables, VALID: valid} if policy.masks else found.variables
    return replace(found, variables=variables, failures=failures)


def _by_step(pipeline: Pipeline, plan: Plan, chunk: int, conditions: Mapping[str, Any]) -> Made:
    made: Made = {None: conditions}
    for index, step in enumerate(pipeline.steps):
        if step.is_run:
            inputs = {name: made[source][name] for name, source in step.sources.items()}
            made[index] = pipeline.simulate(index, plan, chunk, inputs)
    return made


def _assembled(pipeline: Pipeline, plan: Plan, chunk: int, made: Made) -> Chunk:
    """Return the variables as they stand in the dataset, and the counts of the stages that filter."""
    counts = {name: np.sum(parts) for index in made if index is not None for name, parts in _counts(made[index])}
    n_rows = plan.n_rows(chunk)

    def total(kind: str) -> int:
        found = [int(count) for name, count in counts.items() if name.endswith(f"//{kind}")]
        return sum(found) if found else n_rows

    arrays = {v.name: _array(v, made, pipeline, plan, chunk) for v in pipeline.variables}
    return Chunk(arrays, total("proposals"), total("accepted"))


def _counts(made: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, parts) for name, parts in made.items() if "//" in name]


def _array(variable: Variable, made: Made, pipeline: Pipeline, plan: Plan, chunk: int) -> Array:
    source = pipeline.sources[variable.name]
    shape = (plan.n_rows(chunk), *pipeline.array_shape(variable))
    values = made[source][variable.name]
    if source is not None:
        return to_rows(variable, values, shape, plan.sub_batch_size, pipeline.fill_value)
    array = np.asarray(values)
    if pipeline.conditions[variable.name].is_scalar:
        array = np.ascontiguousarray(np.broadcast_to(array.reshape(-1)[0], shape))
    return array.reshape(shape).astype(variable.dtype, copy=False)


def _rows_of(pipeline: Pipeline, plan: Plan, conditions: Mapping[str, Any], j: int) -> dict[str, Any]:
    """Return the conditions' values on the ``j``-th sub-batch of a chunk."""
    size = plan.sub_batch_size
    return {
        name: value if pipeline.conditions[name].variable.is_shared else value[j * size : (j + 1) * size]
        for name, value in conditions.items()
    }


@dataclass(frozen=True)
class _Part:
    made: Mapping[int | None, Mapping[str, Any]]
    masked: Array
    failures: list[Failure]


class _SubBatchRun:
    """Simulates one sub-batch, masks samples that fail or draws them again."""

    def __init__(
        self, pipeline: Pipeline, plan: Plan, policy: Policy, sub_batch: int, conditions: Mapping[str, Any]
    ) -> None:
        self.pipeline = pipeline
        self.plan = plan
        self.policy = policy
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

    def run(self) -> _Part:
        """Simulate it."""
        functions = [f for step in self.pipeline.steps if step.is_run for f in step.stage.functions]
        return run_all(functions, self._run)

    def _run(self, watch: bool) -> _Part:
        rows = np.arange(self.n_rows)
        made, failures = self._attempt(0, rows, {}, watch)
        found, masked, missing = failures.found, failures.masked, rows[failures.redrawn]
        contexts: Made = {index: made[index] for index, step in enumerate(self.pipeline.steps) if _is_kept(step)}
        attempt = 0
        while len(missing):
            attempt += 1
            if attempt >= _MOST_ATTEMPTS:
                self._give_up(int(missing[0]), found)
            again, failures = self._attempt(attempt, missing, contexts, watch)
            found += failures.found
            is_done = ~failures.redrawn
            masked[missing[failures.masked]] = True
            made = {index: self._joined(index, made[index], again, missing, is_done) for index in made}
            missing = missing[~is_done]
        return _Part(self._masked(made, masked), masked, found)

    def _attempt(self, attempt: int, rows: Array, contexts: Made, watch: bool) -> tuple[Made, Failures]:
        place = replace(self.place, attempt=attempt)
        failures = Failures(self.policy, self.place.first_sample + rows, self.plan.n_samples)
        given = {name: value if self._is_shared(name) else value[rows] for name, value in self.given.items()}
        steps = range(len(self.pipeline.steps))
        start: Made = {None: given}
        for index, values in contexts.items():
            start[index] = {v.name: _part(v, values[v.name], rows) for v in self._outputs(index)}
        try:
            return run_steps(self.pipeline, steps, place, len(rows), start, watch, failures), failures
        except Exception as error:
            explain(error, self.pipeline.how_to_reproduce(failures.raised_at, self.plan))
            raise

    def _outputs(self, index: int | None) -> tuple[Variable, ...]:
        return () if index is None else self.pipeline.steps[index].outputs

    def _joined(
        self, index: int | None, old: Mapping[str, Any], again: Made, rows: Array, is_done: Array
    ) -> Mapping[str, Any]:
        """Return a step's values with those of samples that were drawn again in their places."""
        if index is None or _is_kept(self.pipeline.steps[index]):
            return old
        joined = {}
        for variable in self._outputs(index):
            before, after = np.asarray(old[variable.name]), np.asarray(again[index][variable.name])
            if variable.is_shared:
                joined[variable.name] = before + after  # a count
                continue
            if before.shape[1:] != after.shape[1:]:  # all have failed so far: sizes that follow contexts are not known
                before = np.zeros((len(before), *after.shape[1:]), before.dtype)
            before = np.array(before)
            before[rows[is_done]] = after[is_done]
            joined[variable.name] = before
        return joined

    def _masked(self, made: Made, masked: Array) -> Made:
        if not masked.any():
            return made
        filled: Made = {
            index: {v.name: _filled(v, values[v.name], masked) for v in self._outputs(index)}
            for index, values in made.items()
        }
        return {**filled, None: made[None]}

    def _give_up(self, row: int, found: list[Failure]) -> None:
        sample = self.place.first_sample + row
        error = SimulatorError(
            f"sample {sample} failed {_MOST_ATTEMPTS} times in a row, most often so: {summed(found)[0]}; let the "
            "simulator fail more rarely, or use 'mask' in place of 'redraw'"
        )
        error.add_note(self.pipeline.how_to_reproduce(sample, self.plan))
        raise error


def _is_kept(step: Step) -> bool:
    """Whether what a step makes holds for the whole sub-batch, and stays when samples are drawn again."""
    visible = [v for v in step.outputs if not v.is_hidden]
    return step.is_run and (not step.stage.is_redrawn or (bool(visible) and all(v.is_shared for v in visible)))


def _part(variable: Variable, values: Any, rows: Array) -> Any:
    return values if variable.is_shared else values[rows]


def _filled(variable: Variable, values: Any, masked: Array) -> Any:
    if variable.is_shared:
        return values
    array = np.array(values)
    array[masked] = np.nan if variable.dtype.kind in "fc" else 0
    return array
