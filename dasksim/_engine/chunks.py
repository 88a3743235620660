"""Simulate one chunk of a dataset as it stands in a store, and deal with samples that fail."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.arrays import as_host, is_lazy
from dasksim._core.chunk import Chunk
from dasksim._core.failures import VALID, Policy, masked_value, summed
from dasksim._core.plan import Plan
from dasksim._core.variables import Variable
from dasksim._engine._redraws import OutOfTimeError, SubBatchResult, SubBatchRun, TimedSteps
from dasksim._engine.evaluation import Strict, Values
from dasksim._engine.nested import steps_within
from dasksim._engine.pipeline import Pipeline, to_rows
from dasksim.errors import ArgumentError

__all__ = ["check_policy", "given_lazily", "in_memory", "replay_sample", "simulate_chunk"]

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
    process: TimedSteps | None = None,
    tell: Callable[[int], None] | None = None,
) -> Chunk:
    """Evaluate all steps on one chunk; ``tell`` is called with how many of its samples are done."""
    cuts = {name: pipeline.cut(name, rows, plan, chunk) for name, rows in conditions.items()}

    def simulated(watch: bool) -> list[SubBatchResult]:
        # all steps of a sub-batch before the next one, so that values stay in the cache between stages
        results: list[SubBatchResult] = []
        n_done = 0
        for j, sub_batch in enumerate(plan.sub_batches(chunk)):
            given = {name: cut[j] for name, cut in cuts.items()}
            results += _simulated(pipeline, plan, policy, sub_batch, given, process, watch)
            n_done += plan.n_rows_of(sub_batch)
            if tell is not None:
                tell(n_done)
        return results

    # the process finds out by itself what its functions use; elsewhere that takes 0.1 ms, once for all sub-batches
    results = simulated(False) if process is not None else pipeline.guarded(simulated)
    return _assembled(pipeline, plan, chunk, conditions, policy, results)


def _simulated(
    pipeline: Pipeline,
    plan: Plan,
    policy: Policy,
    sub_batch: int,
    given: Mapping[str, Any],
    process: TimedSteps | None,
    watch: bool,
) -> list[SubBatchResult]:
    """Return what is made of a sub-batch: at once or, if that takes too long, sample by sample where that can be."""
    if policy == Policy() and process is None:
        return [SubBatchResult(Strict(pipeline, plan, sub_batch).run(given, watch))]
    with contextlib.suppress(OutOfTimeError):
        return [SubBatchRun(pipeline, plan, policy, sub_batch, given, process).run(watch)]
    alone = replace(plan, sub_batch_size=1, chunk_size=plan.sub_batch_size)
    cuts = {name: pipeline.cut(name, values, alone, sub_batch) for name, values in given.items()}
    return [
        SubBatchRun(pipeline, alone, policy, sample, {name: cut[j] for name, cut in cuts.items()}, process).run(watch)
        for j, sample in enumerate(alone.sub_batches(sub_batch))
    ]


def replay_sample(pipeline: Pipeline, plan: Plan, sample: int, policy: Policy) -> tuple[Values, Chunk, int]:
    """Simulate a sample, with its sub-batch if values depend on that.

    Return all that steps made, their part of the dataset, and which row of it is the sample.

    An exception at the sample is raised, unless the sample would be drawn again; those at others are not. In a
    rejection, where proposals are no one's, an exception is raised where the policy says so.
    """
    alone = pipeline.least(plan)
    sub_batch, row = divmod(sample, alone.sub_batch_size)
    conditions = in_memory(pipeline.condition_rows(sub_batch, alone))
    result = pipeline.guarded(SubBatchRun(pipeline, alone, policy, sub_batch, conditions, strict_at=sample).run)
    return result.values, _assembled(pipeline, alone, sub_batch, conditions, policy, [result]), row


def given_lazily(pipeline: Pipeline, plan: Plan, chunk: int) -> dict[str, Array]:
    """Return the variables of a chunk that are lazy conditions, computed, as they stand in the dataset."""
    rows = {name: values for name, values in pipeline.condition_rows(chunk, plan).items() if is_lazy(values)}
    given = [v for v in pipeline.variables if v.name in rows and pipeline.sources[v.name] is None]
    values = in_memory({v.name: rows[v.name] for v in given})
    return {v.name: _given_rows(v, values[v.name], pipeline, plan, chunk) for v in given}


def in_memory(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Return conditions with those that are lazy computed, at once: what they have in common is read once."""
    lazy = {name: value for name, value in conditions.items() if is_lazy(value)}
    if not lazy:
        return dict(conditions)
    from dask.base import compute  # which importing takes a worker's time, and few have lazy conditions

    return {**conditions, **compute(lazy)[0]}


def _assembled(
    pipeline: Pipeline,
    plan: Plan,
    chunk: int,
    conditions: Mapping[str, Any],
    policy: Policy,
    results: Sequence[SubBatchResult],
) -> Chunk:
    """Return the variables as they stand in the dataset, and what was counted."""
    arrays = {}
    for variable in pipeline.variables:
        source = pipeline.host_source(variable.name)
        if source is None:
            arrays[variable.name] = _given_rows(variable, conditions[variable.name], pipeline, plan, chunk)
            continue
        parts = [as_host(result.values.made[source][variable.name]) for result in results]
        shape = (plan.n_rows(chunk), *pipeline.array_shape(variable))
        arrays[variable.name] = to_rows(variable, parts, shape, plan.sub_batch_size, pipeline.fill_value)
    masks = [result.masked for result in results if result.masked is not None]
    if masks:
        masked = np.concatenate(masks)[: plan.n_rows(chunk)]
        by_stage = _masked_rows(results, len(masked))
        arrays = {v.name: _masked(v, arrays[v.name], by_stage, pipeline) for v in pipeline.variables}
        arrays |= {VALID: ~masked} if policy.masks else {}
    failures = summed(failure for result in results for failure in result.failures)
    n_proposals, n_accepted = (
        _total(kind, pipeline, results, plan.n_rows(chunk)) for kind in ("proposals", "accepted")
    )
    return Chunk(arrays, n_proposals, n_accepted, failures)


def _total(kind: str, pipeline: Pipeline, results: Sequence[SubBatchResult], n_rows: int) -> int:
    """Return the sum of what stages that filter count; without any, samples are proposed and accepted once."""
    counts = [
        int(result.values.made[index][v.name])
        for index, step in enumerate(pipeline.steps)
        if step.is_run
        for v in step.outputs
        if v.counts == kind
        for result in results
    ]
    return sum(counts) if counts else n_rows


def _masked_rows(results: Sequence[SubBatchResult], n_rows: int) -> dict[str, list[int]]:
    """Return the masked rows of a chunk, by the stage in which they have failed."""
    found: dict[str, list[int]] = {}
    first = 0
    for result in results:
        for row, stage in result.stages.items():
            if first + row < n_rows:
                found.setdefault(stage, []).append(first + row)
        first += 0 if result.masked is None else len(result.masked)
    return found


def _masked(variable: Variable, values: Array, by_stage: Mapping[str, Sequence[int]], pipeline: Pipeline) -> Array:
    """Return values without those that masked samples lack; contexts and conditions stay."""
    if variable.is_shared or pipeline.sources[variable.name] is None:
        return values
    lacking = [rows for stage, rows in by_stage.items() if variable.name not in pipeline.made_before(stage)]
    if not lacking:
        return values
    # where a chunk is one sub-batch, these are the very values that a function returned, constants among them
    values = values.copy()
    values[np.concatenate(lacking)] = masked_value(variable.dtype)
    return values


def _given_rows(variable: Variable, values: Any, pipeline: Pipeline, plan: Plan, chunk: int) -> Array:
    """Return a condition as it stands in the dataset."""
    shape = (plan.n_rows(chunk), *pipeline.array_shape(variable))
    array = np.asarray(values)
    if pipeline.conditions[variable.name].is_scalar:
        array = np.ascontiguousarray(np.broadcast_to(array.reshape(-1)[0], shape))
    return array.reshape(shape).astype(variable.dtype, copy=False)
