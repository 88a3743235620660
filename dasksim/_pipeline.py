"""A simulator's stages, bound to each other and to the caller's conditions, with the schema of all variables.

This is what is mapped over chunks: :meth:`Pipeline.simulate` evaluates one stage on one chunk, in memory.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._conditions import Condition, pad_rows
from dasksim._labels import batch_dims
from dasksim._plan import Plan
from dasksim._schema import Variable
from dasksim._stage import Binding, Stage, SubBatch
from dasksim._streams import Address

__all__ = ["Lowering", "Pipeline", "Step", "explain", "to_rows"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Lowering:
    """What a simulator lowers to.

    Parameters
    ----------
    stages
        Stages in the order in which they run.
    expand_outputs
        Whether scalars get a trailing axis of size 1 in the dataset.
    replace_inputs
        Whether a condition replaces the variable of its name for all later stages.
    dims
        Names of feature dims, by variable.
    coords
        Coordinates, by feature dim.
    """

    stages: tuple[Stage, ...]
    expand_outputs: bool = False
    replace_inputs: bool = True
    dims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    coords: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """A stage and where its inputs come from.

    Parameters
    ----------
    stage
        The stage.
    binding
        Where its arguments take their values from.
    sources
        For each input, the number of the step that makes it, or None for a condition.
    outputs
        The variables that the stage makes.
    is_run
        Whether it runs at all: not if all its outputs are given.
    is_full
        Whether it computes a last, short sub-batch whole: it is batched, or a batched stage needs its rows.
    probe_digest
        Digest of what it returned at the probe, where that is reproducible: it tells a change of what the function
        captures, which its source does not.
    """

    stage: Stage
    binding: Binding
    sources: Mapping[str, int | None]
    outputs: tuple[Variable, ...]
    is_run: bool = True
    is_full: bool = False
    probe_digest: str | None = None

    @property
    def upstream(self) -> list[int]:
        """The steps that this one takes inputs from, in order."""
        return sorted({source for source in self.sources.values() if source is not None})


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
    further
        Sizes of further batch axes.
    """

    steps: tuple[Step, ...]
    conditions: Mapping[str, Condition]
    variables: tuple[Variable, ...]
    sources: Mapping[str, int | None]
    dims: Mapping[str, tuple[str, ...]]
    coords: Mapping[str, Array]
    further: tuple[int, ...]

    @property
    def is_batched(self) -> bool:
        """Whether all stages that run are batched."""
        return all(step.stage.is_batched for step in self.steps if step.is_run)

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample of the dataset."""
        return sum(v.sample_bytes * (1 if v.is_shared else math.prod(self.further)) for v in self.variables)

    @property
    def n_bytes(self) -> int:
        """Bytes of the arrays that the functions capture."""
        return sum(step.stage.function.n_bytes for step in self.steps)

    def array_dims(self, variable: Variable) -> tuple[str, ...]:
        """Return the dims of a variable in the dataset."""
        n_axes = 1 if variable.is_shared else 1 + len(self.further)
        return (*batch_dims(n_axes), *self.dims[variable.name])

    def array_shape(self, variable: Variable) -> tuple[int, ...]:
        """Return the shape of a variable in the dataset, without its first axis."""
        return (*(() if variable.is_shared else self.further), *variable.sample_shape)

    def condition_rows(self, chunk: int, plan: Plan) -> dict[str, Any]:
        """Return the conditions' values for a chunk; Dask arrays stay lazy."""
        samples = plan.samples(chunk)
        return {name: condition.rows(samples, self.further) for name, condition in self.conditions.items()}

    def simulate(self, index: int, plan: Plan, chunk: int, inputs: Mapping[str, Any]) -> dict[str, Array]:
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
            The values of its inputs on this chunk.

        Returns
        -------
        dict
            Arrays with one row a sample; contexts have one row a sub-batch.
        """
        function = self.steps[index].stage.function
        return function.run(lambda watch: self._simulate(index, plan, chunk, inputs, watch))

    def _simulate(self, index: int, plan: Plan, chunk: int, inputs: Mapping[str, Any], watch: bool) -> dict[str, Array]:
        step = self.steps[index]
        parts = []
        for j, sub_batch in enumerate(plan.sub_batches(chunk)):
            batch = self._sub_batch(step, plan, j, sub_batch, inputs, watch)
            try:
                parts.append(step.stage.simulate(step.binding, batch, step.outputs))
            except Exception as error:
                explain(error, _how_to_reproduce(step.stage.name, batch, plan, self.conditions))
                raise
        if step.stage.is_context:
            return {v.name: np.stack([part[v.name] for part in parts]) for v in step.outputs}
        if len(parts) == 1:
            return parts[0]
        return {v.name: np.concatenate([part[v.name] for part in parts]) for v in step.outputs}

    def _sub_batch(
        self, step: Step, plan: Plan, j: int, sub_batch: int, inputs: Mapping[str, Any], watch: bool
    ) -> SubBatch:
        size, first = plan.sub_batch_size, sub_batch * plan.sub_batch_size
        n_rows = size if step.is_full else min(size, plan.n_samples - first)
        rows: dict[str, Array] = {}
        shared: dict[str, Any] = {}
        python = set()
        for name, source in step.sources.items():
            variable = self._variable(name, source)
            if not variable.is_shared:
                rows[name] = pad_rows(inputs[name][j * size :], n_rows)
                rows[name].flags.writeable = False
                if variable.is_python:
                    python.add(name)
            elif source is None:
                shared[name] = inputs[name]
            else:
                shared[name] = inputs[name][j].item() if variable.is_python else _read_only(inputs[name][j])
        address = Address(plan.seed, step.stage.key, sub_batch)
        return SubBatch(address, (n_rows, *self.further), rows, shared, frozenset(python), first, watch)

    def _variable(self, name: str, source: int | None) -> Variable:
        if source is None:
            return self.conditions[name].variable
        return next(v for v in self.steps[source].outputs if v.name == name)

    def simulate_all(self, plan: Plan, chunk: int, conditions: Mapping[str, Any]) -> dict[str, Array]:
        """Evaluate all steps on one chunk and return the variables as they stand in the dataset.

        Parameters
        ----------
        plan
            How the dataset is cut up.
        chunk
            Number of the chunk.
        conditions
            The conditions' values on this chunk.
        """
        made: dict[int | None, Mapping[str, Any]] = {None: conditions}
        for index, step in enumerate(self.steps):
            if step.is_run:
                inputs = {name: made[source][name] for name, source in step.sources.items()}
                made[index] = self.simulate(index, plan, chunk, inputs)
        return {
            v.name: to_rows(
                v,
                made[self.sources[v.name]][v.name],
                (plan.n_rows(chunk), *self.array_shape(v)),
                plan.sub_batch_size,
            )
            for v in self.variables
        }

    def without_rows(self) -> "Pipeline":
        """Return the pipeline without the conditions' rows, to send it elsewhere."""
        return replace(self, conditions={name: c.without_rows() for name, c in self.conditions.items()})


def to_rows(variable: Variable, values: Any, shape: tuple[int, ...], sub_batch_size: int) -> Array:
    """Return a variable's values on a chunk as they stand in the dataset.

    Parameters
    ----------
    variable
        The variable.
    values
        One row a sample, or, if the variable is shared, one row a sub-batch, or a scalar for all.
    shape
        Shape of the result; rows of a last sub-batch that was computed whole are cut away.
    sub_batch_size
        Samples in a sub-batch.
    """
    array = np.asarray(values)
    if variable.is_shared:
        array = array.reshape(-1, *variable.shape)
        array = array if len(array) == 1 else np.repeat(array, sub_batch_size, axis=0)[: shape[0]]
        return np.ascontiguousarray(np.broadcast_to(array, shape)).astype(variable.dtype, copy=False)
    return array[: shape[0]].reshape(shape).astype(variable.dtype, copy=False)


def _read_only(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
    return value


def explain(error: Exception, where: str) -> None:
    """Add to an exception where it happened, and what a message of NumPy's does not say."""
    if isinstance(error, ValueError) and "read-only" in str(error):
        error.add_note("what a function is given is read-only, since others see it too; change a copy of it")
    error.add_note(where)


def _how_to_reproduce(stage: str, batch: SubBatch, plan: Plan, conditions: Mapping[str, Condition]) -> str:
    first, size = batch.first_sample, plan.sub_batch_size
    stop = first + size
    n_samples = stop if all(condition.is_scalar for condition in conditions.values()) else plan.n_samples
    shape: Any = (n_samples, *plan.further) if plan.further else n_samples
    last = min(stop, plan.n_samples) - 1
    more = ", **conditions" if conditions else ""
    return (
        f"in stage {stage!r}, sub-batch {batch.address.sub_batch} (samples {first} to {last}); run it alone with\n"
        f"    simulator.sample({shape}, seed={plan.seed}, sub_batch_size={size}, chunk_size={size}{more})"
        f".isel(batch=slice({first}, {stop})).compute()"
    )
