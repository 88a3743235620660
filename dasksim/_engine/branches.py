"""Model comparison: a choice, one branch for each model, and a merge."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from dasksim._core.arrays import as_host
from dasksim._core.variables import Variable
from dasksim._engine.evaluation import Values, run_steps
from dasksim._engine.nested import NestedStage
from dasksim._engine.pipeline import Pipeline
from dasksim._engine.stage import Binding, Stage, SubBatch
from dasksim._engine.steps import Lowering
from dasksim._streams.cells import CellStreams
from dasksim._streams.isolation import Isolated
from dasksim.errors import ArgumentError, SimulatorError

__all__ = ["INDICES", "BranchStage", "ChoiceStage", "MergeStage"]

Array = npt.NDArray[Any]

#: The variable that says which model a sample comes from.
INDICES = "model_indices"


class ChoiceStage(Stage):
    """Draws a model for each sample, or one for a whole sub-batch, as a one-hot vector.

    Parameters
    ----------
    name
        Path of the stage.
    p
        Probabilities of the models.
    is_mixed
        Whether every sample has a draw of its own.
    """

    is_batched = True
    how_often: ClassVar[str] = "once for each sub-batch"

    def __init__(self, name: str, p: Sequence[float], is_mixed: bool) -> None:
        super().__init__(name)
        self.p = tuple(p)
        self.is_mixed = is_mixed
        self.is_redrawn = self.is_by_cell = is_mixed

    @property
    def needs_whole(self) -> bool:
        return not self.is_mixed

    @property
    def names(self) -> tuple[str, ...]:
        return ()

    @property
    def functions(self) -> tuple[Isolated, ...]:
        return ()

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "p": list(self.p), "use_mixed_batches": self.is_mixed}

    def bind(self, known: Iterable[str]) -> Binding:
        return Binding((), ())

    def probe(self, binding: Binding, batch: SubBatch) -> tuple[tuple[Variable, ...], dict[str, Array]]:
        variables = (Variable(INDICES, (len(self.p),), np.dtype("int32")),)
        return variables, self.simulate(binding, batch, variables)

    def simulate(self, binding: Binding, batch: SubBatch, outputs: Sequence[Variable]) -> dict[str, Array]:
        if self.is_mixed:
            # what a generator makes of the first word of each cell's stream
            words = CellStreams(batch.address, batch.cells).words()[:, 0]
            uniform = ((words >> np.uint64(11)) * 2.0**-53).reshape(batch.axes)
        else:
            uniform = np.full(batch.axes, batch.address.generator().random())
        # without the last sum, which rounding may leave below 1; from the right, or a 0 would draw a first model of
        # probability 0
        index = np.searchsorted(np.cumsum(self.p)[:-1], uniform, side="right")
        return {INDICES: (index[..., None] == np.arange(len(self.p))).astype("int32")}


class BranchStage(NestedStage):
    """One model, run for the samples that come from it; the other rows are empty.

    Parameters
    ----------
    name
        Path of the stage; its variables are named ``{name}/{variable}``.
    model
        Number of the model.
    lowering
        What the model lowers to.
    """

    how_often: ClassVar[str] = "once for each sub-batch, for the samples of the model"
    hidden_inputs = (INDICES,)

    def __init__(self, name: str, model: int, lowering: Lowering) -> None:
        super().__init__(name)
        self.model = model
        self.lowering = lowering

    def lowering_of(self, covered: Sequence[Stage]) -> Lowering:
        return self.lowering

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "model": self.model}

    def resolved(self, pipeline: Pipeline) -> Self:
        made = {v.name for step in pipeline.steps for v in step.outputs}
        given = {name for name, source in pipeline.sources.items() if source is None and name in made}
        stage = super().resolved(pipeline)
        # what a condition replaces inside is handed on nevertheless
        stage.taken = tuple(name for name in pipeline.conditions if name in given or name in stage.taken)
        return stage

    @property
    def needs_whole(self) -> bool:
        # what holds others inside has to know how many rows a whole sub-batch has
        return self.holds_whole or any(isinstance(step.stage, NestedStage) for step in self.pipeline.steps)

    def made_before(self, stage: str) -> frozenset[str]:
        # the merge hands them on under the same names
        return self.pipeline.made_before(stage)

    def outputs(self) -> tuple[Variable, ...]:
        made = {v.name: v for step in self.pipeline.steps for v in step.outputs}
        made = {name: v for name, v in made.items() if name in self.pipeline.sources or v.is_count}
        rows = [
            replace(self.pipeline.variable(name, self.pipeline.sources[name]), is_shared=False, is_python=False)
            if name in self.pipeline.sources
            else variable
            for name, variable in made.items()
        ]
        return tuple(replace(v, name=f"{self.name}/{v.name}", is_hidden=True) for v in rows)

    def simulate(self, binding: Binding, batch: SubBatch, outputs: Sequence[Variable]) -> dict[str, Array]:
        rows = np.flatnonzero(batch.rows[INDICES][..., self.model].reshape(batch.n_cells))
        chosen = {n: v[rows] if n in batch.rows else v for n, v in self.given(batch).items()}
        values: Values | None = None
        # a model's functions are called for its own samples only
        if len(rows):
            steps = range(len(self.pipeline.steps))
            place = self.place(batch)
            place = replace(place, full_rows=len(rows), unit="model row", cells=place.cells.select(rows))
            # rows are cells here, and a sample fails with any of its own
            failures = batch.failures.within(rows // batch.cells_per_row) if batch.failures is not None else None
            values = run_steps(self.pipeline, steps, place, len(rows), Values(chosen), batch.watch, failures)
        sources = {v.name: i for i, step in enumerate(self.pipeline.steps) for v in step.outputs}
        arrays = {}
        for variable in outputs:
            name = variable.name.removeprefix(f"{self.name}/")
            if variable.is_count:
                arrays[variable.name] = np.asarray(values.made[sources[name]][name] if values else 0)
                continue
            source = self.pipeline.sources[name]
            cells = np.zeros((0, *self._inner_shape(variable)), variable.dtype)
            if values is not None:
                cells = as_host(values.of(source)[name])
                if self.pipeline.variable(name, source).is_shared:
                    cells = np.broadcast_to(cells, (len(rows), *np.shape(cells)))
            # the merge takes nothing from the other rows
            array = np.zeros((batch.n_cells, *cells.shape[1:]), variable.dtype)
            array[rows] = cells
            arrays[variable.name] = array.reshape(*batch.axes, *array.shape[1:])
        return arrays

    def _inner_shape(self, variable: Variable) -> tuple[int, ...]:
        """Return the shape of a variable within a cell, plates of the model included."""
        sizes = self.pipeline.sizes
        own = {plate.name for step in self.pipeline.steps for plate in step.plates}
        return (*(sizes[plate] for plate in variable.plates if plate in own), *variable.shape)


class MergeStage(Stage):
    """Takes each sample's variables from the branch of its model.

    Parameters
    ----------
    name
        Path of the stage.
    branches
        Names of the branches, one for each model.
    models
        Names of the models, for messages.
    key_conflicts
        What becomes of variables that not all models have: ``"drop"``, ``"fill"`` or ``"error"``.
    fill_value
        What stands for them with ``"fill"``.
    """

    is_batched = True
    is_by_cell = True
    passes_failed = True
    needs_whole = False
    how_often: ClassVar[str] = "once for each sub-batch"

    def __init__(
        self, name: str, branches: Sequence[str], models: Sequence[str], key_conflicts: str, fill_value: Any
    ) -> None:
        super().__init__(name)
        self.branches = tuple(branches)
        self.models = tuple(models)
        self.key_conflicts = key_conflicts
        self.fill_value = fill_value
        self.gathers = frozenset(branches)

    @property
    def names(self) -> tuple[str, ...]:
        return (INDICES,)

    @property
    def functions(self) -> tuple[Isolated, ...]:
        return ()

    def settings(self) -> dict[str, Any]:
        fill_value = repr(np.asarray(self.fill_value).item())  # NaN would differ from itself
        models = {"models": list(self.models), "key_conflicts": self.key_conflicts, "fill_value": fill_value}
        return {**super().settings(), **models}

    def bind(self, known: Iterable[str]) -> Binding:
        own = {f"{branch}/" for branch in self.branches}
        taken = [n for n in known if any(n.startswith(b) and "/" not in n[len(b) :] for b in own)]
        return Binding((), (INDICES, *taken))

    def probe(self, binding: Binding, batch: SubBatch) -> tuple[tuple[Variable, ...], dict[str, Array]]:
        variables = tuple(
            Variable(name, array.shape[len(batch.axes) :], self._dtype(name, batch))
            for name, array in self._merged(batch.rows).items()
        )
        return variables, self.simulate(binding, batch, variables)

    def finish(self, outputs: tuple[Variable, ...], inputs: Mapping[str, Variable]) -> tuple[Variable, ...]:
        """Return the outputs with what their branches' variables have: plates, ragged axes, expansion."""
        return tuple(self._finish(variable, inputs) for variable in outputs)

    def _finish(self, variable: Variable, inputs: Mapping[str, Variable]) -> Variable:
        found = {
            model: inputs[f"{branch}/{variable.name}"]
            for branch, model in zip(self.branches, self.models, strict=True)
            if f"{branch}/{variable.name}" in inputs
        }
        first = next(iter(found))
        for model, other in found.items():
            if (other.shape, other.plates) != (found[first].shape, found[first].plates):
                raise SimulatorError(
                    f"variable {variable.name!r} has shape {found[first].shape} in model {first!r} and {other.shape} "
                    f"in model {model!r}; give the models the same shape, other names for it, or, where sizes follow a "
                    "context, one name of the dim and its largest size (dims, max_sizes)"
                )
        units = {m: v.labels.attrs.get("units") if v.labels else None for m, v in found.items()}
        if len(set(units.values())) > 1:
            raise SimulatorError(
                f"variable {variable.name!r} has different units in the models: {units}; let all models return the same"
            )
        is_expanded = any(v.is_expanded for v in found.values())
        return replace(found[first], name=variable.name, dtype=variable.dtype, is_expanded=is_expanded, is_hidden=False)

    def simulate(self, binding: Binding, batch: SubBatch, outputs: Sequence[Variable]) -> dict[str, Array]:
        one_hot = batch.rows[INDICES]
        index = one_hot.argmax(axis=-1)
        # a condition may stand for them, with whatever values
        if not np.array_equal(one_hot, index[..., None] == np.arange(len(self.models))):
            raise ArgumentError(
                f"{INDICES} must be one-hot along {list(self.models)}: a single 1 in each row, and otherwise 0"
            )
        return {v.name: self._pick(v, batch, index) for v in outputs}

    def _pick(self, variable: Variable, batch: SubBatch, index: Array) -> Array:
        n_axes = len(batch.axes)
        parts = {
            model: batch.rows[f"{branch}/{variable.name}"]
            for model, branch in enumerate(self.branches)
            if f"{branch}/{variable.name}" in batch.rows
        }
        # branches without rows here have not run, so that sizes that follow their contexts are not known
        used = [part for model, part in parts.items() if (index == model).any()] or list(parts.values())
        shapes = {part.shape[n_axes:] for part in used}
        shape = tuple(max(sizes) for sizes in zip(*shapes))
        if variable.ragged:  # else it would depend on which models there are in the sub-batch
            shape = (*shape[: len(shape) - len(variable.shape)], *variable.shape)
        is_filled = len(parts) < len(self.models) or shapes != {shape}
        merged = np.full((*batch.axes, *shape), self.fill_value if is_filled else 0, variable.dtype)
        for model, part in parts.items():
            chosen = index == model
            if chosen.any():
                sizes = tuple(map(slice, part.shape[n_axes:]))
                merged[(chosen, *sizes)] = part[chosen]
        return merged

    def _dtype(self, name: str, batch: SubBatch) -> np.dtype[Any]:
        found = [batch.rows[f"{b}/{name}"].dtype for b in self.branches if f"{b}/{name}" in batch.rows]
        more = [self.fill_value] if len(found) < len(self.models) else []
        try:
            dtype = np.dtype(np.result_type(*found, *more))
            # raises where the value does not fit: of a Python number, result_type sees the kind alone
            np.full((), self.fill_value if more else 0, dtype)
        except (OverflowError, TypeError) as error:
            raise SimulatorError(
                f"fill_value={self.fill_value!r} does not fit variable {name!r} of dtype {found[0]}; give another"
            ) from error
        return dtype

    def _merged(self, rows: Mapping[str, Array]) -> dict[str, Array]:
        """Return one array for each variable that the dataset has, decided from all models."""
        by_model: list[dict[str, Array]] = []
        for branch in self.branches:
            own = {n.removeprefix(f"{branch}/"): v for n, v in rows.items() if n.startswith(f"{branch}/")}
            by_model.append(own)
        names = list(dict.fromkeys(name for own in by_model for name in own))
        partial = [name for name in names if not all(name in own for own in by_model)]
        if partial and self.key_conflicts == "error":
            having = [m for m, own in zip(self.models, by_model, strict=True) if partial[0] in own]
            raise SimulatorError(
                f"only the models {having} make {partial[0]!r}; let all models make the same variables, or choose "
                "key_conflicts='drop' or 'fill'"
            )
        if self.key_conflicts == "drop":
            names = [name for name in names if name not in partial]
        if not names:
            raise SimulatorError("the models have no variable in common; choose key_conflicts='fill'")
        return {name: next(own[name] for own in by_model if name in own) for name in names}
