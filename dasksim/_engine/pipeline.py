"""A simulator's stages, bound to each other and to the caller's conditions, with the schema of all variables.

This is what is mapped over chunks. Between stages a variable's values on a chunk are a list with one array for each
sub-batch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dasksim._core.arrays import cast, concat, namespace_of
from dasksim._core.attributes import Coordinate
from dasksim._core.conditions import Condition
from dasksim._core.plan import Cost, Plan
from dasksim._core.variables import Variable
from dasksim._engine.stage import SubBatch
from dasksim._engine.steps import Step
from dasksim._streams.isolation import run_all
from dasksim.errors import SimulatorError

__all__ = ["Pipeline", "to_rows"]

Array = npt.NDArray[Any]
T = TypeVar("T")

# Samples that are simulated again together at most, and the seconds that they may take: to simulate any takes as long.
_MOST_AGAIN = 64
_AGAIN_SECONDS = 5e-4


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
        Coordinates of feature dims, by name.
    attrs
        Attributes of variables.
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
    coords: Mapping[str, Coordinate]
    sizes: Mapping[str, int]
    attrs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
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
    def can_use_threads(self) -> bool:
        """Whether stages gain from threads: they are batched, and none draws from generators of the whole process."""
        functions = (function for step in self.steps if step.is_run for function in step.stage.functions)
        return self.is_batched and not any(function.uses_globals for function in functions)

    @property
    def is_by_cell(self) -> bool:
        """Whether what stages make of a sample depends on that sample alone, so that sub-batches change no value."""
        return all(step.stage.is_by_cell for step in self.steps if step.is_run)

    def cost(self, *, on_gpu: bool) -> Cost:
        """Return what one sample takes."""
        seconds = sum(step.seconds for step in self.steps if step.is_run)
        return Cost(self.sample_bytes, seconds, self.is_batched, self.is_by_cell, on_gpu)

    def least(self, plan: Plan) -> Plan:
        """Return a plan whose chunks are the least that can be simulated alone: samples, or else sub-batches."""
        size = 1 if self.is_by_cell else plan.sub_batch_size
        return replace(plan, sub_batch_size=size, chunk_size=size)

    def parts(self, plan: Plan) -> Plan:
        """Return a plan whose chunks are simulated again by an audit: the least ones, or some if that takes no time."""
        least = self.least(plan)
        if not self.is_by_cell:
            return least
        seconds = sum(step.seconds for step in self.steps if step.is_run)
        # a whole chunk would begin as it did at first, in a worker that has kept nothing from call to call
        at_most = min(_MOST_AGAIN, plan.sub_batch_size, plan.n_rows(0) // 2)
        most = min(at_most, int(_AGAIN_SECONDS / seconds) if seconds else 1)
        size = next(size for size in range(max(most, 1), 0, -1) if plan.chunk_size % size == 0)
        return replace(plan, sub_batch_size=size, chunk_size=size)

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

    def labelled(self, variable: Variable, array: Any) -> tuple[tuple[str, ...], Any, dict[str, Any]]:
        """Return an array of a variable with its dims and attributes, in the form that xarray takes."""
        return self.array_dims(variable), array, dict(self.attrs.get(variable.name, {}))

    def array_shape(self, variable: Variable) -> tuple[int, ...]:
        """Return the shape of a variable in the dataset, without its first axis."""
        return (*(self.sizes[plate] for plate in variable.plates), *variable.sample_shape)

    def condition_rows(self, chunk: int, plan: Plan) -> dict[str, Any]:
        """Return the conditions' values for a chunk; Dask arrays stay lazy."""
        return {name: condition.rows(plan.samples(chunk)) for name, condition in self.conditions.items()}

    def cut(self, name: str, rows: Any, plan: Plan, chunk: int) -> list[Any]:
        """Return a condition's values on a chunk as those on each of its sub-batches."""
        n, size = len(plan.sub_batches(chunk)), plan.sub_batch_size
        is_shared = self.conditions[name].variable.is_shared
        return [rows if is_shared else rows[j * size : (j + 1) * size] for j in range(n)]

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

    def inputs(self, step: Step, values: Mapping[str, Any]) -> dict[str, tuple[Variable, Any]]:
        """Return what a step's inputs are, and their values."""
        return {name: (self.variable(name, source), values[name]) for name, source in step.sources.items()}

    def made_before(self, stage: str) -> frozenset[str]:
        """Return the names of the variables that there are of a sample that has failed in a stage."""
        made: set[str] = set()
        for step in self.steps:
            if step.stage.name == stage:
                return frozenset(made)
            if stage in getattr(step.stage, "runs", ()):
                inside: frozenset[str] = step.stage.made_before(stage)  # type: ignore[attr-defined]
                return inside | made
            made |= {v.name for v in step.outputs}
        return frozenset()  # nobody knows in which, since it took too long

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

    def how_to_reproduce(self, sample: int, plan: Plan, stage: str = "", *, is_optional: bool = False) -> str:
        """Return where a sample is, a call that runs its sub-batch alone, and how to go on without it, if one may."""
        size = plan.sub_batch_size
        sub_batch = sample // size
        first, stop = sub_batch * size, (sub_batch + 1) * size
        last = min(stop, plan.n_samples) - 1
        beyond = f", and more beyond the end, {sample} among them, since batched stages need them"
        place = f"sub-batch {sub_batch} (samples {first} to {last}{beyond if sample > last else ''})"
        place = f"sample {sample}" if size == 1 else place
        where = f"in stage {stage!r}, {place}" if stage else f"{'at' if size == 1 else 'in'} {place}"
        if self.store is None:
            return f"{where}; run it alone with\n    {self._call(plan, first, stop)}"
        if self.call == "derive":
            rows = f"dasksim.open_dataset({self.store!r}).isel(batch=slice({first}, {last + 1}))"
            return f"{where}; its inputs are\n    {rows}"
        more = ", conditions=conditions" if self.conditions else ""
        without = "\nor go on without samples that fail, by generate with on_error='mask' or on_error='redraw'"
        return (
            f"{where}; run it alone with\n    dasksim.replay({self.store!r}, simulator, sample={sample}{more})"
            f"{without if is_optional else ''}"
        )

    def _call(self, plan: Plan, first: int, stop: int) -> str:
        """Return a call that simulates a run of samples as they are in the dataset."""
        if self.is_by_cell:  # the others make nothing beyond the end either, of which batched stages need a whole run
            stop = min(stop, plan.n_samples)
        # a smaller dataset begins a larger one, but conditions with rows have them for all samples
        n_samples = stop if all(condition.is_scalar for condition in self.conditions.values()) else plan.n_samples
        shape: Any = (n_samples, *plan.further) if plan.further else n_samples
        size, more = plan.sub_batch_size, ", **conditions" if self.conditions else ""
        return (
            f"simulator.{self.call.format(shape=shape)}, seed={plan.seed}, sub_batch_size={size}, chunk_size={size}"
            f"{more}).isel(batch=slice({first}, {stop})).compute()"
        )

    def without_rows(self) -> "Pipeline":
        """Return the pipeline without the conditions' rows, to send it elsewhere."""
        return replace(self, conditions={name: c.without_rows() for name, c in self.conditions.items()})


def to_rows(
    variable: Variable, parts: Sequence[Any], shape: tuple[int, ...], sub_batch_size: int, fill_value: Any = math.nan
) -> Array:
    """Return a variable's values on a chunk as they stand in the dataset, on the device on which they are.

    Of a shared variable a part is one value, of others one row a sample, of which the last ones may be too many.
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
