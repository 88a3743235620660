"""A simulator's stages, bound to each other and to the caller's conditions, with the schema of all variables.

This is what is mapped over chunks: :meth:`Pipeline.simulate` evaluates one stage on one chunk, in memory. Between
stages a variable's values on a chunk are a list with one array for each sub-batch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dasksim._core.arrays import cast, concat, namespace_of
from dasksim._core.conditions import Condition
from dasksim._core.failures import Failures, Policy
from dasksim._core.memory import keep_freed_memory
from dasksim._core.plan import Plan
from dasksim._core.variables import Variable
from dasksim._engine._evaluation import evaluate
from dasksim._engine.stage import SubBatch
from dasksim._engine.steps import Place, Step, sub_batch_of
from dasksim._streams.isolation import run_all
from dasksim.errors import SimulatorError

__all__ = ["Made", "Pipeline", "explain", "run_steps", "to_rows", "without_exit"]

Array = npt.NDArray[Any]
T = TypeVar("T")

#: Values by step, and under None those of the conditions.
Made = dict[int | None, Mapping[str, Any]]


@dataclass(frozen=True)
class Pipeline:
    """Stages bound to each other, with the schema of the dataset.

    Parameters
    ----------
    steps
        The stages in order.
    conditions
        What the caller gave, in the shapes of the variables that it stands for.
    variables
        The variables of the dataset.
    sources
        For each variable, the number of the step that makes it, or None for a condition.
    dims
        The feature dims of each variable.
    coords
        Coordinates of feature dims.
    sizes
        Sizes of plates in the dataset.
    fill_value
        What stands beyond the size of a sub-batch along dims that follow a context.
    max_sizes
        Declared sizes of such dims.
    call
        See :class:`Lowering`.
    store
        Where the samples are written, if they are; an error says so how to replay one.
    device
        The kind of device that stages run on if they can.
    """

    steps: tuple[Step, ...]
    conditions: Mapping[str, Condition]
    variables: tuple[Variable, ...]
    sources: Mapping[str, int | None]
    dims: Mapping[str, tuple[str, ...]]
    coords: Mapping[str, Array]
    sizes: Mapping[str, int]
    fill_value: Any = math.nan
    max_sizes: Mapping[str, int] = field(default_factory=dict)
    call: str = "sample({shape}"
    store: str | None = None
    device: str = "cpu"

    @property
    def is_batched(self) -> bool:
        """Whether all stages that run are batched."""
        return all(step.stage.is_batched for step in self.steps if step.is_run)

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample of the dataset."""
        return sum(v.sample_bytes * math.prod(self.sizes[plate] for plate in v.plates) for v in self.variables)

    @property
    def n_bytes(self) -> int:
        """Bytes of the arrays that the functions capture."""
        return sum(function.n_bytes for step in self.steps for function in step.stage.functions)

    def array_dims(self, variable: Variable) -> tuple[str, ...]:
        """Return the dims of a variable in the dataset."""
        return ("batch", *variable.plates, *self.dims[variable.name])

    def array_shape(self, variable: Variable) -> tuple[int, ...]:
        """Return the shape of a variable in the dataset, without its first axis."""
        return (*(self.sizes[plate] for plate in variable.plates), *variable.sample_shape)

    def condition_rows(self, chunk: int, plan: Plan) -> dict[str, Any]:
        """Return the conditions' values for a chunk; Dask arrays stay lazy."""
        return {name: condition.rows(plan.samples(chunk)) for name, condition in self.conditions.items()}

    def host_source(self, name: str) -> int | None:
        """Return the step that has a variable on the host: one that copies it there, or else the one that makes it."""
        source = self.sources[name]
        copies = (i for i, step in enumerate(self.steps) if step.stage.is_transfer and step.device == "cpu")
        return next((i for i in copies if self.steps[i].sources.get(name, -1) == source), source)

    def variable(self, name: str, source: int | None) -> Variable:
        """Return the variable that an input is, made by a step or given."""
        if source is None:
            return self.conditions[name].variable
        return next(v for v in self.steps[source].outputs if v.name == name)

    def simulate(self, index: int, plan: Plan, chunk: int, inputs: Mapping[str, Any]) -> dict[str, list[Array]]:
        """Evaluate one step on one chunk.

        Parameters
        ----------
        index
            Number of the step.
        plan
            How the dataset is cut up.
        chunk
            Number of the chunk.
        inputs
            The values of its inputs on this chunk: one array for each sub-batch, or what a condition has for the chunk.

        Returns
        -------
        dict
            One array for each sub-batch, with one row a sample; contexts have no rows.
        """
        keep_freed_memory()
        return self.steps[index].stage.guarded(lambda watch: self._simulate(index, plan, chunk, inputs, watch))

    def _simulate(
        self, index: int, plan: Plan, chunk: int, inputs: Mapping[str, Any], watch: bool
    ) -> dict[str, list[Array]]:
        step, size = self.steps[index], plan.sub_batch_size
        parts: dict[str, list[Array]] = {v.name: [] for v in step.outputs}
        for j, sub_batch in enumerate(plan.sub_batches(chunk)):
            place = Place(plan.seed, sub_batch, sub_batch * size, size)
            n_rows = size if step.is_full else min(size, plan.n_samples - place.first_sample)
            given = {name: self._part(step, name, inputs[name], j, size) for name in step.sources}
            failures = Failures(Policy(), range(place.first_sample, place.first_sample + n_rows), plan.n_samples)
            batch = sub_batch_of(step, place, n_rows, self.inputs(step, given), watch, failures)
            self.check_plates(step, batch)
            try:
                made = without_exit(step.stage.simulate, step.binding, batch, step.outputs)
            except Exception as error:
                explain(error, self.how_to_reproduce(failures.raised_at, plan, step.stage.name))
                raise
            for name, values in made.items():
                parts[name].append(values)
        return parts

    def _part(self, step: Step, name: str, values: Any, j: int, size: int) -> Any:
        """Return an input's values on the ``j``-th sub-batch of a chunk."""
        if step.sources[name] is not None:
            return values[j]
        return values if self.conditions[name].variable.is_shared else values[j * size : (j + 1) * size]

    def inputs(self, step: Step, values: Mapping[str, Any]) -> dict[str, tuple[Variable, Any]]:
        """Return what a step's inputs are, and their values."""
        return {name: (self.variable(name, source), values[name]) for name, source in step.sources.items()}

    def guarded(self, work: Callable[[bool], T]) -> T:
        """Return ``work(watch)``, which runs the steps; see :func:`run_all`."""
        return run_all((function for step in self.steps if step.is_run for function in step.stage.functions), work)

    def check_plates(self, step: Step, batch: SubBatch) -> None:
        """Refuse a plate whose size differs from that in the dataset, unless the largest size is declared.

        Raises
        ------
        SimulatorError
            If one does.
        """
        for plate, size in zip(step.plates, batch.axes[1:], strict=True):
            largest = self.sizes[plate.name]
            if size != largest and (plate.name not in self.max_sizes or size > largest):
                raise SimulatorError(
                    f"stage {step.stage.name!r} has size {size} along {plate.name!r} in sub-batch "
                    f"{batch.address.sub_batch}, but the dataset has {largest}, since it follows a context; declare "
                    f"the largest size with max_sizes={{{plate.name!r}: ...}}"
                )

    def how_to_reproduce(self, sample: int, plan: Plan, stage: str = "") -> str:
        """Return where a sample is, and a call that runs its sub-batch alone."""
        size = plan.sub_batch_size
        sub_batch = sample // size
        first, stop = sub_batch * size, (sub_batch + 1) * size
        where = f"in stage {stage!r}, " if stage else "in "
        where += f"sub-batch {sub_batch} (samples {first} to {min(stop, plan.n_samples) - 1}"
        beyond = f", and more beyond the end, {sample} among them, since batched stages need them"
        where += f"{beyond if sample >= plan.n_samples else ''}); run it alone with\n    "
        more = ", **conditions" if self.conditions else ""
        if self.store is not None and self.call == "derive":
            rows = f"dasksim.open_dataset({self.store!r}).isel(batch=slice({first}, {min(stop, plan.n_samples)}))"
            return f"{where.partition('; run it')[0]}; its inputs are\n    {rows}"
        if self.store is not None:
            more = ", conditions=conditions" if self.conditions else ""
            return f"{where}dasksim.replay({self.store!r}, simulator, sample={sample}{more})"
        n_samples = stop if all(condition.is_scalar for condition in self.conditions.values()) else plan.n_samples
        shape: Any = (n_samples, *plan.further) if plan.further else n_samples
        call = self.call.format(shape=shape)
        return (
            f"{where}simulator.{call}, seed={plan.seed}, sub_batch_size={size}, chunk_size={size}{more})"
            f".isel(batch=slice({first}, {stop})).compute()"
        )

    def without_rows(self) -> "Pipeline":
        """Return the pipeline without the conditions' rows, to send it elsewhere."""
        return replace(self, conditions={name: c.without_rows() for name, c in self.conditions.items()})


def run_steps(
    pipeline: Pipeline,
    indices: Sequence[int],
    place: Place,
    n_rows: int,
    made: Mapping[int | None, Mapping[str, Any]],
    watch: bool,
    failures: Failures | None = None,
) -> dict[int | None, Mapping[str, Any]]:
    """Evaluate some steps of a pipeline on one sub-batch, or attempt at it, in memory.

    Parameters
    ----------
    pipeline
        The pipeline.
    indices
        The steps to run, in order.
    place
        Which sub-batch, and on which attempt.
    n_rows
        How many rows.
    made
        What there is already: values of the conditions, with ``n_rows`` rows, under None, and of steps that are not to
        be run.
    watch
        Whether to find out if functions use the global generators.
    failures
        Which rows have failed, to be added to; None where any exception ends all.

    Returns
    -------
    dict
        The values by step, and under None what was given.
    """
    keep_freed_memory()
    values = dict(made)
    for index in indices:
        step = pipeline.steps[index]
        if not step.is_run or index in values:
            continue
        inputs = {name: values[source][name] for name, source in step.sources.items()}
        batch = sub_batch_of(step, place, n_rows, pipeline.inputs(step, inputs), watch, failures)
        pipeline.check_plates(step, batch)
        try:
            values[index] = without_exit(evaluate, step, batch)
        except Exception as error:
            error.add_note(f"raised in stage {step.stage.name!r}")
            raise
        if getattr(step.stage, "keep_all", False):
            n_rows = next(len(values[index][v.name]) for v in step.outputs if not v.is_shared)
    return values


def to_rows(
    variable: Variable, parts: Sequence[Any], shape: tuple[int, ...], sub_batch_size: int, fill_value: Any = math.nan
) -> Array:
    """Return a variable's values on a chunk as they stand in the dataset, on the device on which they are.

    Parameters
    ----------
    variable
        The variable.
    parts
        One array for each sub-batch: one row a sample or, if the variable is shared, one value.
    shape
        Shape of the result; rows of a last sub-batch that was computed whole are cut away.
    sub_batch_size
        Samples in a sub-batch.
    fill_value
        What stands beyond the size of a sub-batch along axes that are ragged.
    """
    if variable.is_shared:
        values = [_padded(_as_sample(part, variable, 0), shape[1:], variable.dtype, fill_value) for part in parts]
        array = np.repeat(np.stack(values), sub_batch_size, axis=0)
    else:
        whole = [_as_sample(part, variable, 1) for part in parts]
        if any(part.shape[1:] != shape[1:] for part in whole):
            whole = [_padded(part, (len(part), *shape[1:]), variable.dtype, fill_value) for part in whole]
        array = whole[0] if len(whole) == 1 else concat(whole, namespace_of(whole[0]))
    xp = namespace_of(array)
    rows: Array = cast(xp.reshape(xp.ascontiguousarray(array[: shape[0]]), shape), variable.dtype)
    return rows


def _as_sample(part: Any, variable: Variable, n_axes: int) -> Any:
    """Return values with the trailing axis of a scalar that is expanded."""
    array = part if hasattr(part, "ndim") else np.asarray(part)
    expand = variable.is_expanded and array.ndim == n_axes + len(variable.plates)
    return array[..., None] if expand else array


def _padded(part: Any, shape: tuple[int, ...], dtype: np.dtype[Any], fill_value: Any) -> Any:
    if part.shape == shape:
        return part
    array = namespace_of(part).full(shape, fill_value, dtype=dtype)
    array[tuple(map(slice, part.shape))] = part
    return array


def without_exit(call: Callable[..., T], *arguments: Any) -> T:
    """Return what a call returns; where a function ends the process, which would say nothing, raise an exception."""
    try:
        return call(*arguments)
    except SystemExit as error:
        raised = RuntimeError(f"a function raised {error!r}, which would have ended this process")
        raise raised.with_traceback(error.__traceback__) from None


def explain(error: Exception, where: str) -> None:
    """Add to an exception where it happened, and what a message of NumPy's does not say."""
    if isinstance(error, ValueError) and "read-only" in str(error):
        error.add_note("what a function is given is read-only, since others see it too; change a copy of it")
    error.add_note(where)
