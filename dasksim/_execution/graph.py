"""From a pipeline and a plan to a Dask graph, and to an xarray Dataset.

One task for each stage and chunk, which returns all of the stage's variables; an edge wherever a stage takes another's
output; one cheap task for each variable and chunk on top. The layer of a stage is an own one, not a Blockwise: Dask
would fuse a Blockwise source into everything that uses it, and so run the stage several times.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.blockwise import blockwise
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer

from dasksim._core import accessor  # noqa: F401  # which datasets have from then on
from dasksim._core.arrays import device_named, is_lazy
from dasksim._core.dask_private import DataNode, Task, TaskRef, check_graphs
from dasksim._core.plan import Plan
from dasksim._core.tracebacks import shortened
from dasksim._core.variables import Variable
from dasksim._engine.evaluation import evaluate_chunk
from dasksim._engine.pipeline import Pipeline, to_rows
from dasksim._engine.provenance import provenance
from dasksim._engine.steps import Step
from dasksim._execution.transport import Packed

__all__ = ["Program", "compile_dataset"]

Array = npt.NDArray[Any]
Key = tuple[str, int]

# A program with more captured data than this travels once to a worker, under a key of its own.
_INLINE_BYTES = 100_000


@dataclass(frozen=True)
class Program:
    """What the tasks of a graph run.

    Parameters
    ----------
    pipeline
        What to run on a chunk.
    plan
        How the dataset is cut up.
    """

    pipeline: Pipeline
    plan: Plan

    def __reduce__(self) -> tuple[Any, ...]:
        return Program, (self.pipeline.without_rows(), self.plan)


@dataclass(frozen=True)
class StageChunk:
    """What a stage made on one chunk: its variables' values by sub-batch, and how many rows the dataset has of them."""

    values: Mapping[str, list[Array]]
    n_rows: int


@shortened(most=100)  # of a deeper traceback a cluster's client would learn nothing, and wait for ever
def _run_stage(program: Packed[Program], index: int, chunk: int, *made: Any) -> StageChunk:
    """Evaluate a step on a chunk; ``made`` holds what its upstream steps, then its conditions, have for the chunk."""
    pipeline, plan = program.value.pipeline, program.value.plan
    step = pipeline.steps[index]
    upstream = dict(zip(step.upstream, made, strict=False))
    rows = dict(zip(_row_conditions(pipeline, step), made[len(upstream) :], strict=True))

    def parts(name: str, source: int | None) -> list[Any]:
        if source is not None:
            made: StageChunk = upstream[source]
            return made.values[name]
        given = rows[name] if name in rows else pipeline.conditions[name].rows(plan.samples(chunk))
        return pipeline.cut(name, given, plan, chunk)

    inputs = {name: parts(name, source) for name, source in step.sources.items()}
    return StageChunk(evaluate_chunk(pipeline, index, plan, chunk, inputs), plan.n_rows(chunk))


def _row_conditions(pipeline: Pipeline, step: Step) -> list[str]:
    """Return the conditions of a step that have one row a sample."""
    return [name for name, source in step.sources.items() if source is None and not pipeline.conditions[name].is_scalar]


def _take(chunk: StageChunk, variable: Variable, shape: tuple[int, ...], sub_batch_size: int, fill_value: Any) -> Array:
    return to_rows(variable, chunk.values[variable.name], (chunk.n_rows, *shape), sub_batch_size, fill_value)


class StageLayer(Layer):
    """The tasks of one stage, one a chunk, made when they are asked for.

    Parameters
    ----------
    name
        First part of the keys.
    program
        The pipeline and the plan.
    index
        Number of the step.
    upstream
        First parts of the keys that each task depends on: those of other stages, then of conditions.
    chunks
        The chunks that the layer covers.
    data
        The key that holds the program, if it is large.
    """

    def __init__(
        self,
        name: str,
        program: Packed[Program],
        index: int,
        upstream: Sequence[tuple[str, int]],
        chunks: Sequence[int],
        data: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.program = program
        self.index = index
        self.upstream = tuple(upstream)
        self.chunks = chunks
        self.data = data

    def __repr__(self) -> str:
        return f"StageLayer({self.name!r}, {len(self)} chunks)"

    def is_materialized(self) -> bool:
        return False

    def get_output_keys(self) -> Set[Key]:
        return {(self.name, chunk) for chunk in self.chunks}

    def __contains__(self, key: object) -> bool:
        # asked for keys of other layers too, which may be anything
        return isinstance(key, tuple) and len(key) == 2 and key[0] == self.name and key[1] in self.chunks

    def __iter__(self) -> Iterator[Key]:
        return ((self.name, chunk) for chunk in self.chunks)

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, key: Any) -> Task:
        if key not in self:
            raise KeyError(key)
        chunk = key[1]
        program = TaskRef(self.data) if self.data else self.program
        return Task(key, _run_stage, program, self.index, chunk, *map(TaskRef, self._upstream_keys(chunk)))

    def _upstream_keys(self, chunk: int) -> list[tuple[Any, ...]]:
        # conditions are cut along the batch axis alone, so that their other block numbers are 0
        return [(name, chunk, *(0,) * n_axes) for name, n_axes in self.upstream]

    def cull(self, keys: set[Any], all_hlg_keys: Collection[Any]) -> tuple[Layer, Mapping[Any, set[Any]]]:
        """Keep the chunks that are needed; ``keys`` may hold other layers' keys too."""
        chunks = sorted(key[1] for key in keys if key in self)
        # where all are needed, they stay a range, in which a key is found at once
        culled = self
        if len(chunks) < len(self):
            culled = StageLayer(self.name, self.program, self.index, self.upstream, chunks, self.data)
        # for own keys only: were dependencies of others' keys told here, the tasks of their layers would vanish
        own = {self.data} if self.data else set()
        return culled, {(self.name, chunk): own | set(self._upstream_keys(chunk)) for chunk in chunks}


def compile_dataset(pipeline: Pipeline, plan: Plan) -> xr.Dataset:
    """Return the lazy Dataset of a pipeline.

    Raises
    ------
    ArgumentError
        If Dask's array query planning is on, which is experimental: xarray can neither reduce nor write its arrays.
    """
    check_graphs("write the samples with dasksim.generate, which needs no such arrays")
    graph = _Graph(pipeline, plan)
    variables = {v.name: pipeline.labelled(v, graph.array(v)) for v in pipeline.variables}
    return xr.Dataset(variables, dict(pipeline.coords), {"dasksim": json.dumps(provenance(pipeline, plan))})


class _Graph:
    """The layers of one compiled pipeline."""

    def __init__(self, pipeline: Pipeline, plan: Plan) -> None:
        self.pipeline = pipeline
        self.plan = plan
        self.program = Packed(Program(pipeline, plan))
        self.layers: dict[str, Layer] = {}
        self.needs: dict[str, set[str]] = {}
        # first: the tasks of stages name the keys of conditions
        self.conditions = {name: self._condition(name) for name, c in pipeline.conditions.items() if not c.is_scalar}
        data = self._add_data() if pipeline.n_bytes > _INLINE_BYTES else None
        self.names = {index: self._add_stage(index, data) for index, step in enumerate(pipeline.steps) if step.is_run}

    def array(self, variable: Variable) -> da.Array:
        """Return the Dask array of a variable."""
        source = self.pipeline.sources[variable.name]
        shape = self.pipeline.array_shape(variable)
        if source is not None:
            device = device_named(self.pipeline.steps[source].device)
            return self._made(variable, self.names[source], shape, device.xp)
        array: da.Array
        if variable.name in self.conditions:
            array = self.conditions[variable.name].reshape(self.plan.n_samples, *shape)
        else:
            value = np.asarray(self.pipeline.conditions[variable.name].values).reshape(-1)[0]
            chunks = (self.plan.chunk_sizes, *((size,) for size in shape))
            array = da.full((self.plan.n_samples, *shape), value, dtype=variable.dtype, chunks=chunks)
        return array

    def _made(self, variable: Variable, stage: str, shape: tuple[int, ...], xp: Any) -> da.Array:
        name = f"{variable.name}-{self.program.token}"
        axes = tuple(range(1 + len(shape)))
        # Dask may fuse this into its consumers, and so run it several times: it is cheap, and the stage stays one task
        layer = blockwise(
            _take,
            name,
            axes,
            stage,
            axes[:1],
            numblocks={stage: (self.plan.n_chunks,)},
            new_axes=dict(zip(axes[1:], shape, strict=True)),
            variable=variable,
            shape=shape,
            sub_batch_size=self.plan.sub_batch_size,
            fill_value=self.pipeline.fill_value,
        )
        # all layers, the same objects for each variable: joined they are one graph, and what nobody needs is culled
        graph = HighLevelGraph({**self.layers, name: layer}, {**self.needs, name: {stage}})
        chunks = (self.plan.chunk_sizes, *((size,) for size in shape))
        return da.Array(graph, name, chunks, meta=xp.empty((0,) * len(axes), dtype=variable.dtype))

    def _add_stage(self, index: int, data: str | None) -> str:
        step = self.pipeline.steps[index]
        name = f"{step.stage.name}-{index}-{self.program.token}"
        stages = [(f"{self.pipeline.steps[i].stage.name}-{i}-{self.program.token}", 0) for i in step.upstream]
        rows = [self.conditions[condition] for condition in _row_conditions(self.pipeline, step)]
        upstream = stages + [(array.name, array.ndim - 1) for array in rows]
        self.layers[name] = StageLayer(name, self.program, index, upstream, range(self.plan.n_chunks), data)
        self.needs[name] = {first for first, _ in upstream} | ({data} if data else set())
        return name

    def _add_data(self) -> str:
        key = f"program-{self.program.token}"
        self.layers[key] = MaterializedLayer({key: DataNode(key, self.program)})
        self.needs[key] = set()
        return key

    def _condition(self, name: str) -> da.Array:
        """Return a condition cut into the plan's chunks, and add its layers to the graph."""
        values = self.pipeline.conditions[name].values
        chunks = (self.plan.chunk_sizes, *((size,) for size in values.shape[1:]))
        array: da.Array
        if is_lazy(values):
            array = values.rechunk(chunks)
        else:
            # named, since Dask would hash all values for a name
            array = da.from_array(values, chunks=chunks, name=f"{name}-condition-{self.program.token}")
        self.layers.update(array.dask.layers)
        self.needs.update(array.dask.dependencies)
        return array
