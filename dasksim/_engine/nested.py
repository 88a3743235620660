"""Stages that hold a pipeline of their own: what is inside sees the cells of a sub-batch as its rows."""

import copy
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy.typing as npt

from dasksim._core.variables import Variable
from dasksim._engine.pipeline import Pipeline
from dasksim._engine.stage import Binding, Place, Plate, Stage, SubBatch
from dasksim._engine.steps import Lowering, Step, aligned
from dasksim._streams.isolation import Isolated

__all__ = ["NestedStage", "inner_input", "names_within", "steps_within"]

Array = npt.NDArray[Any]


class NestedStage(Stage):
    """A stage that holds others.

    Attributes
    ----------
    span
        How many of the stages that follow it in the lowering it holds.
    hidden_inputs
        What it takes for itself, and does not pass to the stages inside.
    taken
        What the stages inside take from outside.
    runs
        Names of the stages inside.
    holds_whole
        Whether one of them needs whole sub-batches.
    is_by_cell
        Whether all of them make each cell by itself.
    """

    span: int = 0
    hidden_inputs: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    runs: frozenset[str] = frozenset()
    is_batched = False
    holds_whole = False
    pipeline: Pipeline

    @abstractmethod
    def lowering_of(self, covered: Sequence[Stage]) -> Lowering:
        """Return what is inside, given the stages that it spans."""

    @abstractmethod
    def outputs(self) -> tuple[Variable, ...]:
        """Return what it makes, without its own plates, once it is resolved."""

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.taken, *self.hidden_inputs)

    @property
    def functions(self) -> tuple[Isolated, ...]:
        return tuple(function for step in self.pipeline.steps for function in step.stage.functions)

    def bind(self, known: Iterable[str]) -> Binding:
        return Binding((), tuple(known))

    def probe(self, binding: Binding, batch: SubBatch) -> tuple[tuple[Variable, ...], dict[str, Array]]:
        made = self.simulate(binding, batch, self.outputs())  # by itself; the resolver probes the stages inside
        return self.outputs(), made

    def resolved(self, pipeline: Pipeline) -> Self:
        """Return the stage with the pipeline of the stages inside."""
        # a copy, since one lowering is resolved for several sub-batches
        stage = copy.copy(self)
        stage.pipeline = pipeline
        stage.hold(pipeline.steps)
        used = {
            name for step in pipeline.steps if step.is_run for name, source in step.sources.items() if source is None
        }
        stage.taken = tuple(name for name in pipeline.conditions if name in used)
        return stage

    def placed(self, pipeline: Pipeline) -> Self:
        """Return the stage with its pipeline as it is placed on devices."""
        stage = copy.copy(self)
        stage.pipeline = pipeline
        return stage

    def hold(self, steps: Sequence[Step]) -> None:
        """Set what follows from the stages inside."""
        self.runs = names_within(steps)
        self.is_batched = all(step.stage.is_batched for step in steps)
        self.holds_whole = any(step.stage.needs_whole for step in steps)
        self.is_by_cell = all(step.stage.is_by_cell or not step.is_run for step in steps)

    def made_before(self, stage: str) -> frozenset[str]:
        """Return the names of the variables that are handed on of a sample that has failed in a stage inside."""
        return frozenset()

    @property
    def checked_on(self) -> tuple[int, ...]:
        """Which steps inside :meth:`check` needs the values of."""
        return ()

    def check(self, values: Mapping[str, Any], batch: SubBatch) -> None:
        """Check what there is to check on the values of a probe."""

    def place(self, batch: SubBatch, attempt: int = 0) -> Place:
        """Return the place of the stages inside."""
        address, outer = batch.address, batch.place  # what is not redrawn has no such number in its address
        return Place(
            outer.seed,
            outer.sub_batch,
            outer.first_sample,
            outer.full_rows * batch.cells_per_row,
            batch.cells,
            # attempts outside go above those inside, so that no two share a stream
            address.attempt << 32 | attempt,
            redraw=address.redraw,
        )

    def given(self, batch: SubBatch) -> dict[str, Any]:
        """Return what the stages inside are given, with one row a cell."""
        rows = {
            name: _as_cells(value, batch).astype(self.pipeline.conditions[name].variable.dtype, copy=False)
            for name, value in batch.rows.items()
            if name not in self.hidden_inputs
        }
        return {**batch.shared, **rows}


def names_within(steps: Iterable[Step]) -> frozenset[str]:
    """Return the names of the stages of some steps, and of those inside them."""
    names: set[str] = set()
    for step in steps:
        names.add(step.stage.name)
        names |= getattr(step.stage, "runs", frozenset())
    return frozenset(names)


def steps_within(steps: Iterable[Step]) -> Iterator[Step]:
    """Give steps, and those inside their stages."""
    for step in steps:
        yield step
        if isinstance(step.stage, NestedStage):
            yield from steps_within(step.stage.pipeline.steps)


def _as_cells(values: Array, batch: SubBatch) -> Array:
    return values.reshape(batch.n_cells, *values.shape[len(batch.axes) :])


def inner_input(variable: Variable, value: Any, plates: Sequence[Plate], batch: SubBatch) -> tuple[Variable, Any]:
    """Return an input of a nested stage as the stages inside see it: the variable, and its values in a probe."""
    if variable.is_shared:
        return variable, value
    names = tuple(plate.name for plate in plates)
    rows = _as_cells(aligned(value, variable, names, batch.axes), batch)
    is_python = variable.is_python and rows.ndim == 1
    return replace(variable, plates=(), shape=rows.shape[1:], is_python=is_python, ragged=frozenset()), rows
