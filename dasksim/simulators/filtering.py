"""Put a predicate over a lowering, and keep all that it accepts."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from dask.base import compute
from dask.delayed import delayed

from dasksim._core.arrays import as_host
from dasksim._core.checks import check_count
from dasksim._core.plan import Plan
from dasksim._engine.evaluation import Values, run_steps
from dasksim._engine.filter import FilterStage
from dasksim._engine.pipeline import Pipeline, to_rows
from dasksim._engine.provenance import provenance
from dasksim._engine.stage import Place, within
from dasksim._engine.steps import Lowering
from dasksim._execution.graph import Program
from dasksim._execution.transport import Packed
from dasksim._streams.isolation import run_all
from dasksim.errors import ArgumentError, ArgumentTypeError

__all__ = ["compute_all_accepted", "filtered"]


def filtered(
    lowering: Lowering,
    predicate: Callable[..., Any],
    sample_size: int | None = None,
    max_proposals: int | None = None,
    path: str = "",
) -> Lowering:
    """Return a lowering whose samples are those that a predicate accepts; contexts are drawn before, and not filtered.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If the predicate is not callable, or a number is no integer >= 1.
    """
    if not callable(predicate):
        raise ArgumentTypeError(f"predicate must be callable; got {predicate!r}")
    sample_size = None if sample_size is None else check_count("sample_size", sample_size)
    max_proposals = None if max_proposals is None else check_count("max_proposals", max_proposals)
    contexts = [stage for stage in lowering.stages if stage.is_context]
    others = [stage for stage in lowering.stages if not stage.is_context]
    taken = {stage.name for stage in lowering.stages}
    # rejections within each other draw apart: the name is the key of their streams
    names = (within(path, f"rejection_{i}" if i > 1 else "rejection") for i in itertools.count(1))
    name = next(name for name in names if name not in taken)
    stage = FilterStage(name, predicate, len(others), sample_size, max_proposals)
    # of a hierarchy whole groups are accepted
    if lowering.levels:
        stage.depth = 0
    return replace(lowering, stages=(*contexts, stage, *others))


def compute_all_accepted(pipeline: Pipeline, plan: Plan) -> xr.Dataset:
    """Simulate at once, and keep all that is accepted, at least as many samples as the plan has.

    Raises
    ------
    ArgumentError
        If conditions have a batch axis: they fit no other number of samples.
    """
    for name, condition in pipeline.conditions.items():
        if not condition.is_scalar:
            raise ArgumentError(f"with overshoot=True, condition {name!r} must be a scalar; it has a batch axis")
    for step in pipeline.steps:
        if isinstance(step.stage, FilterStage):
            step.stage.keep_all = True
    run = delayed(_simulate, pure=False)
    n_sub_batches = -(-plan.n_samples // plan.sub_batch_size)
    program = Packed(Program(pipeline, plan))
    parts = compute(*(run(program, sub_batch) for sub_batch in range(n_sub_batches)))
    arrays = {
        v.name: pipeline.labelled(v, np.concatenate([part[v.name] for part in parts])) for v in pipeline.variables
    }
    return xr.Dataset(arrays, dict(pipeline.coords), {"dasksim": json.dumps(provenance(pipeline, plan))})


def _simulate(program: Packed[Program], sub_batch: int) -> dict[str, Any]:
    pipeline, plan = program.value.pipeline, program.value.plan
    place = Place.of(plan, sub_batch)
    given = {name: condition.rows(slice(0, 1)) for name, condition in pipeline.conditions.items()}
    n_rows = plan.n_rows_of(sub_batch)
    functions = [function for step in pipeline.steps for function in step.stage.functions]
    steps = range(len(pipeline.steps))
    values = run_all(functions, lambda watch: run_steps(pipeline, steps, place, n_rows, Values(given), watch))
    n_kept = next(
        len(values.made[index][v.name])
        for index, step in enumerate(pipeline.steps)
        if isinstance(step.stage, FilterStage) and step.is_run
        for v in step.outputs
        if not v.is_shared
    )
    arrays = {}
    for variable in pipeline.variables:
        rows = as_host(values.of(pipeline.host_source(variable.name))[variable.name])
        shape = (n_kept, *pipeline.array_shape(variable))
        if pipeline.sources[variable.name] is None:
            arrays[variable.name] = np.full(shape, rows.reshape(-1)[0], variable.dtype)
        else:
            arrays[variable.name] = to_rows(variable, [rows], shape, n_kept, pipeline.fill_value)
    return arrays
