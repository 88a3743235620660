"""Bind stages one after the other, probe each, and hand what it makes to the next; stages inside others too."""

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.arrays import is_lazy
from dasksim._core.conditions import Condition, pad_rows
from dasksim._core.failures import VALID
from dasksim._core.labels import check_described, check_dims, check_fill, feature_dims, own_coords, ragged_variable
from dasksim._core.variables import RESERVED, Variable, check_name
from dasksim._engine._outputs import with_sizes
from dasksim._engine.functions import FunctionStage
from dasksim._engine.nested import NestedStage, inner_input
from dasksim._engine.pipeline import Pipeline
from dasksim._engine.probes import Probing, digest_text
from dasksim._engine.stage import Place, Plate, Stage, SubBatch
from dasksim._engine.steps import Lowering, Step
from dasksim._streams.addresses import PROBE_SUB_BATCH
from dasksim._streams.cells import Cells
from dasksim.errors import ArgumentError, ArgumentTypeError, OutputError, SimulatorError, nearest

__all__ = ["Resolver"]

Array = npt.NDArray[Any]


def _left_over(stages: Sequence[Stage], done: Set[str]) -> list[Stage]:
    """Return the stages that are not done yet; those that hold others hold what is left of them."""
    left: list[Stage] = []
    for index, stage in enumerate(stages):
        if stage.name in done:
            continue
        if isinstance(stage, NestedStage) and stage.span:
            inner = stages[index + 1 : index + 1 + stage.span]
            stage = stage.replaced(span=sum(s.name not in done for s in inner))
        left.append(stage)
    return left


def _repeated(variable: Variable, plates: tuple[str, ...]) -> Variable:
    """Return a variable of a stage that is repeated along plates."""
    return replace(variable, plates=(*plates, *(plate for plate in variable.plates if plate not in plates)))


def _deeper(stage: Stage, n_plates: int) -> Stage:
    """Return a stage as it stands inside one that has some of the batch axes as its own."""
    return stage if stage.depth is None else stage.replaced(depth=max(stage.depth - n_plates, 0))


def _outer_value(value: Any, variable: Variable, axes: tuple[int, ...]) -> Array:
    """Return what a probe inside a nested stage made, with the stage's own axes in front."""
    if value is None:
        return np.zeros((), variable.dtype)
    array = np.asarray(value)
    if variable.is_shared:
        return array
    if array.ndim == 0 or array.shape[0] != math.prod(axes):
        return np.broadcast_to(array, (*axes, *array.shape))
    return array.reshape(*axes, *array.shape[1:])


@dataclass(frozen=True)
class _Outside:
    """Where the conditions of stages inside a stage come from.

    Parameters
    ----------
    resolver
        What resolves the stage that holds them.
    plates
        The plates of that stage.
    batch
        What it is given in a probe.
    """

    resolver: "Resolver"
    plates: tuple[Plate, ...]
    batch: SubBatch

    def stand_for(self, variable: Variable, maker: str) -> Any:
        """Have a condition outside stand for a variable that a stage inside makes; return its value inside."""
        outer = self.resolver
        if variable.name not in outer.conditions:
            raise outer._made_twice(variable.name, maker)
        own = tuple(plate.name for plate in self.plates)
        outer._stand_for(variable if variable.is_shared else _repeated(variable, own))
        return inner_input(*outer._probe_input(variable.name, None), self.plates, self.batch)[1]


@dataclass
class Resolver:
    """Binds the stages of one lowering, in order; nested ones have resolvers of their own."""

    lowering: Lowering
    conditions: dict[str, Condition]
    further: tuple[Plate, ...]
    probing: Probing
    values: dict[str, Any] = field(default_factory=dict)  # of the conditions, where they are an outer stage's inputs
    outside: "_Outside | None" = None

    def __post_init__(self) -> None:
        self.given = dict(self.conditions)
        self.steps: list[Step] = []
        self.made: dict[str, int] = {}
        self.makers: dict[str, str] = {}  # the stages themselves, where the step is one that holds them
        self.probed: dict[int, dict[str, Array]] = {}
        self.sizes = {plate.name: int(plate.size) for plate in self.further}
        self.inner_names: set[str] = set()

    def run(self) -> None:
        stages = list(self.lowering.stages)
        while stages:
            stage = stages.pop(0)
            if isinstance(stage, NestedStage):
                covered, stages = stages[: stage.span], stages[stage.span :]
                stages = self._add_nested(stage, covered) + stages
            else:
                self._add_stage(stage)

    def _add_stage(self, stage: Stage) -> None:
        binding = stage.bind(self._known(stage))
        sizes = tuple(plate.size for plate in stage.plates if isinstance(plate.size, str))
        for size in sizes:
            if size not in self.made and size not in self.conditions:
                raise SimulatorError(
                    f"stage {stage.name!r} is repeated {size!r} times, but no context provides {size!r}; "
                    f"{nearest(size, self._known(stage))}"
                )
        lengths = [n for n in map(self._size_of, binding.inputs) if n] if stage.takes_padded else []
        sources = {name: self._source(name) for name in (*binding.inputs, *sizes, *lengths)}
        plates = self._plates(stage)
        index = len(self.steps)
        # before it is probed, since the probe looks it up here
        self.steps.append(Step(stage, binding, sources, stage.declared or (), plates))
        # one that is declared runs only where a context says how often it is repeated
        if stage.declared is None or any(isinstance(plate.size, str) for plate in plates):
            outputs, self.probed[index] = self._probe(index)
            if stage.declared is not None:
                outputs = stage.declared
            outputs = stage.finish(outputs, {name: self._variable(name, source) for name, source in sources.items()})
        else:
            outputs = stage.declared
            self._size_plates(plates, [])
        own = tuple(plate.name for plate in plates)
        self._add(index, tuple(v if v.is_shared else _repeated(v, own) for v in outputs))

    def _size_of(self, name: str) -> str:
        """Return the variable of the sizes of an input, whose rows a function is then given at their own length."""
        size = f"{name}_size"
        is_made = name in self.made and size in self.made and self._source(name) is not None
        return size if is_made and self._variable(size, self.made[size]).sizes_of == name else ""

    def _plates(self, stage: Stage) -> tuple[Plate, ...]:
        plates = () if stage.is_context else (*self.further[: stage.depth], *stage.plates)
        names = ["batch", *(plate.name for plate in plates)]
        for name in names:
            if names.count(name) > 1:
                raise SimulatorError(
                    f"stage {stage.name!r} is repeated along two dims named {name!r}; rename one of them"
                )
        return plates

    def _known(self, stage: Stage) -> list[str]:
        seen = stage.sees
        made = [
            name
            for name, index in self.made.items()
            if name not in self.conditions
            and not (variable := self._variable(name, index)).is_count
            # a function that takes all it can get is not given what it did not ask for
            and (not variable.sizes_of or variable.is_hidden or isinstance(stage, NestedStage) or name in stage.names)
            and (not variable.is_hidden or self.steps[index].stage.name in stage.gathers)
            and (seen is None or self.steps[index].stage.makes_contexts or self.makers[name] in seen)
        ]
        return [*self.conditions, *made]

    def _add_nested(self, stage: NestedStage, covered: list[Stage]) -> list[Stage]:
        """Resolve the stages inside a stage; return those of the covered ones that it leaves to run after it."""
        plates = self._plates(stage)
        own = tuple(plate.name for plate in plates)
        axes = (self.probing.n_rows, *(int(plate.size) for plate in plates))
        place = Place(
            0, PROBE_SUB_BATCH, 0, self.probing.n_rows, Cells(range(self.probing.n_rows)), self.probing.attempt
        )
        batch = SubBatch(place, place.address(stage), axes, watch=True)
        child = self._inner_resolver(stage, covered, plates, batch)
        child.run()
        self.inner_names |= {name for s in child.lowering.stages for name in s.names}
        self.inner_names |= child.inner_names | set(child.made)
        resolved = stage.resolved(child.pipeline(is_inner=True))
        # all that there is of the probe inside, for a predicate to be tried on; what it needs of declared stages too
        for inner in resolved.checked_on:
            if resolved.pipeline.steps[inner].is_run and not child.probed.get(inner):
                child.probed[inner] = child._probe(inner)[1]
        values = {**child.values}
        for probed in child.probed.values():
            values |= probed
        resolved.check(values, batch)
        index = len(self.steps)
        taken = (*resolved.taken, *stage.hidden_inputs)
        # the stages inside have been probed: what changes one of theirs changes this
        digest = digest_text(repr([step.probe_digest for step in child.steps]))
        sources = {name: self._source(name) for name in taken}
        # a row here is as many inside as this stage has cells
        seconds = sum(step.seconds for step in child.steps) * (batch.n_cells // self.probing.n_rows)
        step = Step(resolved, resolved.bind(taken), sources, (), plates, probe_digest=digest, seconds=seconds)
        self.steps.append(step)
        self.sizes = {**child.sizes, **self.sizes}
        self.probed[index] = {
            v.name: _outer_value(values.get(v.name.removeprefix(f"{stage.name}/")), v, axes) for v in resolved.outputs()
        }
        self.makers.update(child.makers)
        outputs = [v if v.is_shared else _repeated(v, own) for v in resolved.outputs()]
        self._add(index, tuple(outputs))
        return _left_over(covered, resolved.runs)

    def _inner_resolver(
        self, stage: NestedStage, covered: Sequence[Stage], plates: tuple[Plate, ...], batch: SubBatch
    ) -> "Resolver":
        """Return what resolves the stages inside a stage: what they may take from here are its conditions.

        The rows of the stages inside are the cells of this one.
        """
        inner = stage.lowering_of(covered)
        inner = replace(
            inner,
            stages=tuple(_deeper(s, len(plates)) for s in inner.stages),
            dims={**self.lowering.dims, **inner.dims},
            max_sizes={**inner.max_sizes, **self.lowering.max_sizes},
            fill_value=self.lowering.fill_value if stage.span else inner.fill_value,
        )
        conditions: dict[str, Condition] = {}
        values: dict[str, Any] = {}
        for name in self._known(stage):
            if name not in stage.hidden_inputs:
                source = self._source(name)
                variable, values[name] = inner_input(*self._probe_input(name, source), plates, batch)
                is_scalar = variable.is_shared or (source is None and self.conditions[name].is_scalar)
                # without values of its own: there are those of the probe, and later those of the rows at hand
                conditions[name] = Condition(variable, None, is_scalar=is_scalar)
        has_levels = any(s.depth is not None for s in inner.stages)
        further = self.further[len(plates) :] if has_levels else ()
        probing = replace(self.probing, n_rows=batch.n_cells)
        return Resolver(inner, conditions, further, probing, values, _Outside(self, plates, batch))

    def _variable(self, name: str, source: int | None) -> Variable:
        if source is None:
            return self.conditions[name].variable
        return next(v for v in self.steps[source].outputs if v.name == name)

    def _is_hidden(self, name: str, source: int | None) -> bool:
        return self._variable(name, source).is_hidden

    def _source(self, name: str) -> int | None:
        # a condition that replaces nothing is seen by the stages before the one that makes its variable
        if name in self.conditions and (self.lowering.replace_inputs or name not in self.made):
            return None
        return self.made[name]

    def _add(self, index: int, outputs: tuple[Variable, ...]) -> None:
        step = self.steps[index]
        for variable in outputs:
            self.makers.setdefault(variable.name, step.stage.name)
            other = self.made.setdefault(variable.name, index)
            if other != index:
                raise self._made_twice(variable.name, step.stage.name)
        if step.stage.is_expanded:
            outputs = tuple(v if v.is_shared or v.sizes_of else v.expanded() for v in outputs)
        lowering = self.lowering
        outputs = tuple(ragged_variable(v, lowering.dims, lowering.max_sizes, lowering.fill_value) for v in outputs)
        for variable in outputs:
            if 0 in variable.shape:  # along an axis whose largest size is declared, a sample may have nothing
                raise OutputError(
                    f"stage {step.stage.name!r} returned {variable.name!r} with shape {variable.shape}; a variable "
                    "must have values, or declare the largest size of what a sample may have none of, "
                    "dims={...: ['event']}, max_sizes={'event': ...}"
                )
            if not variable.is_hidden:
                check_fill(variable, self.lowering.max_sizes, self.lowering.fill_value)
        for variable in outputs:
            # with the largest sizes that are declared, which a condition has to have too
            if variable.name in self.conditions and self.lowering.replace_inputs:
                self._stand_for(variable)
        is_run = not self.lowering.replace_inputs or not all(v.name in self.conditions for v in outputs)
        sizes = self._sizes(step.stage, outputs)
        self.made.update(dict.fromkeys((v.name for v in sizes), index))
        self.makers.update(dict.fromkeys((v.name for v in sizes), step.stage.name))
        self.steps[index] = replace(step, outputs=(*outputs, *sizes), is_run=is_run)
        if index in self.probed and sizes:
            self.probed[index] = with_sizes(self.probed[index], self.steps[index].outputs)

    def _sizes(self, stage: Stage, outputs: Sequence[Variable]) -> list[Variable]:
        """Return the variables of the sizes of outputs that differ in size, unless there are some of their names."""
        taken = {*(v.name for v in outputs), *self.made, *self.conditions}
        is_function = isinstance(stage, FunctionStage)
        ragged = [v for v in outputs if is_function and v.ragged and not v.is_hidden and v.name not in self.conditions]
        return [size for size in (v.sizes() for v in ragged) if size.name not in taken]

    def _made_twice(self, name: str, stage: str) -> SimulatorError:
        return SimulatorError(
            f"stages {self.makers[name]!r} and {stage!r} both make the variable {name!r}; rename one of them"
        )

    def _stand_for(self, variable: Variable) -> None:
        """Take a condition for the variable that it replaces; models may each make one of the name."""
        # as the caller gave it, since it may stand for another model's variable already
        name, given = variable.name, self.given[variable.name]
        if self.outside is not None:
            self.values[name] = self.outside.stand_for(variable, self.makers[name])
            self.conditions[name] = replace(given, variable=variable)
            return
        dims = feature_dims(variable, self.lowering.dims)
        self.conditions[name] = given.standing_for(variable, self.probing.n_samples, self.sizes, dims)

    def _probe(self, index: int) -> tuple[tuple[Variable, ...], dict[str, Array]]:
        """Run a stage on a few rows of a stream of its own; one that makes contexts on that of a sub-batch."""
        step = self.steps[index]
        inputs = {name: self._probe_input(name, source) for name, source in step.sources.items()}
        probe, sizes = self.probing.run(step, inputs)
        self._size_plates(step.plates, sizes)
        self.steps[index] = replace(step, probe_digest=probe.digest, seconds=probe.seconds)
        return probe.variables, dict(probe.values)

    def _size_plates(self, plates: Sequence[Plate], sizes: Sequence[int]) -> None:
        largest = self.lowering.max_sizes
        for plate, size in zip(plates, sizes or [int(plate.size) for plate in plates], strict=True):
            if plate.name in largest and size > largest[plate.name]:
                raise SimulatorError(
                    f"dim {plate.name!r} has size {size}, more than max_sizes[{plate.name!r}]={largest[plate.name]}"
                )
            self.sizes[plate.name] = largest.get(plate.name, size)

    def _probe_input(self, name: str, source: int | None) -> tuple[Variable, Any]:
        if source is None and name in self.values:
            return self.conditions[name].variable, self.values[name]
        if source is None and name in self.made and is_lazy(self.conditions[name].values):
            source = self.made[name]  # what its stage made of the probe stands in, so that nothing is computed
        if source is None:
            condition = self.conditions[name]
            value = condition.rows(self.probing.rows)
            value = value.compute() if is_lazy(value) else value
            if not condition.variable.is_shared:
                # a dataset of one sample has too few for a probe of two
                value = pad_rows(np.asarray(value), self.probing.n_rows)
                # a view's, so that the caller can still write to the array itself
                value.flags.writeable = False
            return condition.variable, value
        # a stage that is declared is probed no earlier than this, where another needs its values
        if source not in self.probed or not self.probed[source]:
            self.probed[source] = with_sizes(self._probe(source)[1], self.steps[source].outputs)
        variable = self._variable(name, source)
        value = self.probed[source][name].view()
        value.flags.writeable = False
        if variable.is_shared:
            value = value.item() if variable.is_python else value[()]
        return variable, value

    def check_names(self) -> None:
        """Refuse a condition that nothing takes or makes, or that has the name of the mask."""
        if VALID in self.conditions and self.lowering.call != "derive":
            check_name(VALID, "the call gives", ArgumentError)
        stages = [step.stage for step in self.steps]
        taken = ({name for stage in stages for name in stage.names} | self.inner_names) - RESERVED
        taken |= {name for step in self.steps for name, i in step.sources.items() if not self._is_hidden(name, i)}
        if any(stage.takes_all for stage in stages):
            return
        made = [name for name, index in self.made.items() if not self._is_hidden(name, index)]
        for name in self.conditions:
            if name not in made and name not in taken:
                known = [*made, *sorted(taken - set(made))]
                raise ArgumentTypeError(
                    f"the simulator has no variable or argument {name!r} to give a value; {nearest(name, known)}"
                )

    def check_use(self) -> None:
        """Refuse a condition that changes nothing: with ``replace_inputs=False``, stages before its own see it."""
        used = {name for step in self.steps for name, source in step.sources.items() if source is None}
        for name in self.conditions:
            if name in self.made and name not in used and not self.lowering.replace_inputs:
                raise ArgumentError(
                    f"condition {name!r} changes nothing: with replace_inputs=False only the stages before "
                    f"{self.steps[self.made[name]].stage.name!r}, which makes it, see it, and none takes it"
                )

    def pipeline(self, *, is_inner: bool = False) -> Pipeline:
        """Return the stages as they are bound; labels are those of the whole, not of a stage inside another."""
        names = [*(name for name, index in self.made.items() if not self._is_hidden(name, index)), *self.conditions]
        sources = {name: self._source(name) for name in names}
        made = {v.name: v for step in self.steps for v in step.outputs}
        variables = tuple(made[name] if name in made else self.conditions[name].variable for name in sources)
        dims, coords, attrs = self.lowering.dims, self.lowering.coords, self.lowering.attrs
        used: dict[str, tuple[str, ...]] = {}
        if not is_inner:
            coords = {**own_coords(variables, dims, coords), **coords}
            used = check_dims(variables, dims, coords, self.sizes, self.lowering.max_sizes)
            check_described(attrs, names, coords)
            for name, condition in self.conditions.items():
                condition.check_labels(used.get(name, ()), coords)
        own_attrs = {v.name: v.labels.attrs for v in variables if v.labels is not None}
        described = {name: {**own_attrs.get(name, {}), **attrs.get(name, {})} for name in names}
        return Pipeline(
            steps=self._with_full_steps(),
            conditions=self.conditions,
            variables=variables,
            sources=sources,
            dims=used,
            coords={name: c._replace(attrs={**c.attrs, **attrs.get(name, {})}) for name, c in coords.items()},
            attrs={name: of_one for name, of_one in described.items() if of_one},
            sizes=self.sizes,
            fill_value=self.lowering.fill_value,
            max_sizes=self.lowering.max_sizes,
            call=self.lowering.call,
        )

    def _with_full_steps(self) -> tuple[Step, ...]:
        is_full = [step.stage.needs_whole for step in self.steps]
        # backwards, so that one pass reaches all that a batched stage needs, by way of others too
        for index in reversed(range(len(self.steps))):
            if is_full[index] and self.steps[index].is_run:
                for source in self.steps[index].upstream:
                    is_full[source] = True
        return tuple(replace(step, is_full=full) for step, full in zip(self.steps, is_full, strict=True))
