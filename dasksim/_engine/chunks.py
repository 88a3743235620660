"""Simulate one chunk of a dataset as it stands in a store, and deal with samples that fail."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.base import compute

from dasksim._core.arrays import as_host
from dasksim._core.chunk import Chunk
from dasksim._core.failures import VALID, Policy, masked_value, summed
from dasksim._core.plan import Plan
from dasksim._core.variables import Variable
from dasksim._engine._redraws import Part, SubBatchRun, TimedSteps
from dasksim._engine.nested import steps_within
from dasksim._engine.pipeline import Made, Pipeline, to_rows
from dasksim.errors import ArgumentError

__all__ = ["check_policy", "given_lazily", "in_memory", "replay_sub_batch", "simulate_chunk"]

Array = npt.NDArray[Any]


def check_policy(pipeline: Pipeline, policy: Policy) -> None:
    """Refuse a policy that does not go with a simulator.

    Raises
    ------
    ArgumentError
        If contexts would be drawn again with samples.
    """
    for step in steps_within(pipeline.steps):
        shared = [v.is_shared for v in step.outputs if not v.is_hidden]
        if policy.redraws and step.is_run and any(shared) and not all(shared):
            raise ArgumentError(
                f"stage {step.stage.name!r} makes contexts and samples at once, which cannot be drawn again apart; "
                "make its contexts with meta_fn, or use 'mask' in place of 'redraw'"
            )


def simulate_chunk(
    pipeline: Pipeline,
    plan: Plan,
    chunk: int,
    conditions: Mapping[str, Any],
    policy: Policy,
    child: TimedSteps | None = None,
) -> Chunk:
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
    child
        The process in which to simulate, where a sub-batch may take too long.
    """
    if policy == Policy() and child is None:
        return _assembled(pipeline, plan, chunk, _by_step(pipeline, plan, chunk, conditions))

    def simulate(watch: bool) -> list[Part]:
        return [
            SubBatchRun(pipeline, plan, policy, sub_batch, _rows_of(pipeline, plan, conditions, j), child).run(watch)
            for j, sub_batch in enumerate(plan.sub_batches(chunk))
        ]

    # a child finds out by itself what its functions use; elsewhere that takes 0.1 ms, once for all sub-batches
    parts = simulate(False) if child is not None else pipeline.guarded(simulate)
    return _joined(pipeline, plan, chunk, conditions, policy, parts)


def replay_sub_batch(pipeline: Pipeline, plan: Plan, sample: int, policy: Policy) -> tuple[Made, Chunk]:
    """Simulate the sub-batch of a sample; return all that its steps made, and its part of the dataset.

    An exception at the sample is raised, unless the sample would be drawn again; those at others are not. In a
    rejection, where proposals are no one's, an exception is raised where the policy says so.

    Parameters
    ----------
    pipeline, plan
        What to simulate.
    sample
        Number of the sample.
    policy
        What to do with samples that fail.
    """
    sub_batch = sample // plan.sub_batch_size
    alone = replace(plan, chunk_size=plan.sub_batch_size)
    conditions = in_memory(pipeline.condition_rows(sub_batch, alone))
    part = pipeline.guarded(SubBatchRun(pipeline, plan, policy, sub_batch, conditions, strict_at=sample).run)
    return dict(part.made), _joined(pipeline, alone, sub_batch, conditions, policy, [part])


def given_lazily(pipeline: Pipeline, plan: Plan, chunk: int) -> dict[str, Array]:
    """Return the variables of a chunk that are lazy conditions, computed, as they stand in the dataset."""
    rows = {
        name: values for name, values in pipeline.condition_rows(chunk, plan).items() if isinstance(values, da.Array)
    }
    given = [v for v in pipeline.variables if v.name in rows and pipeline.sources[v.name] is None]
    values = in_memory({v.name: rows[v.name] for v in given})
    return {v.name: _array(v, {None: values}, pipeline, plan, chunk) for v in given}


def in_memory(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Return conditions with those that are lazy computed, at once: what they have in common is read once."""
    lazy = [name for name, value in conditions.items() if isinstance(value, da.Array)]
    computed = dict(zip(lazy, compute(*(conditions[name] for name in lazy)), strict=True)) if lazy else {}
    return {name: computed.get(name, value) for name, value in conditions.items()}


def _joined(
    pipeline: Pipeline, plan: Plan, chunk: int, conditions: Mapping[str, Any], policy: Policy, parts: Sequence[Part]
) -> Chunk:
    made: Made = {None: conditions}
    for index, step in enumerate(pipeline.steps):
        if step.is_run:
            made[index] = {v.name: [part.made[index][v.name] for part in parts] for v in step.outputs}
    found = _assembled(pipeline, plan, chunk, made)
    failures = summed(failure for part in parts for failure in part.failures)
    masked = np.concatenate([part.masked for part in parts])[: plan.n_rows(chunk)]
    arrays = {v.name: _masked(v, found.variables[v.name], masked, pipeline) for v in pipeline.variables}
    return replace(found, variables={**arrays, VALID: ~masked} if policy.masks else arrays, failures=failures)


def _masked(variable: Variable, values: Array, masked: Array, pipeline: Pipeline) -> Array:
    """Return values without those of masked samples; contexts and conditions stay."""
    if variable.is_shared or pipeline.sources[variable.name] is None or not masked.any():
        return values
    values = values.copy()
    values[masked] = masked_value(variable.dtype)
    return values


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
    source = pipeline.host_source(variable.name)
    shape = (plan.n_rows(chunk), *pipeline.array_shape(variable))
    values = made[source][variable.name]
    if source is not None:
        values = [as_host(part) for part in values]
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
