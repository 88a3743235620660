"""Stages of one user function: bind its arguments by name, call it on a sub-batch, check what came back."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dasksim._core.arrays import device_named
from dasksim._core.labelled import Labels
from dasksim._core.variables import RESERVED, Variable
from dasksim._engine._kept_outputs import Turns, are_kept, copied
from dasksim._engine._outputs import checked, describe, known_labels, labels_in, loose_dims, with_labels, without_labels
from dasksim._engine.stage import Binding, Stage, SubBatch
from dasksim._streams.cells import Cells, CellStreams
from dasksim._streams.isolation import Isolated
from dasksim.errors import SimulatorError, nearest

__all__ = [
    "BatchedStage",
    "ContextStage",
    "FunctionStage",
    "SharedStage",
    "arrays_of",
    "function_name",
    "without_exit",
    "zeros",
]

Array = npt.NDArray[Any]
T = TypeVar("T")


# Arguments that a function draws from.
_SOURCES = frozenset({"rng", "seed", "seed32", "random_state"})


def without_exit(call: Callable[..., T], *arguments: Any) -> T:
    """Return what a call returns; where a function ends the process, which would say nothing, raise an exception."""
    try:
        return call(*arguments)
    except SystemExit as error:
        raised = RuntimeError(f"a function raised {error!r}, which would have ended this process")
        raise raised.with_traceback(error.__traceback__) from None


class FunctionStage(Stage):
    """One user function as a stage.

    Parameters
    ----------
    name
        Path of the stage; the key of its streams.
    function
        The user's function.
    declared
        Its outputs, if the user declared them.

    Attributes
    ----------
    keeps_outputs
        Whether the function keeps what it returns, and may change it at its next call, as one does that has arrays to
        work in. What it returns is then copied, and no two threads call such functions at a time. Found at the probe,
        or later.
    """

    def __init__(self, name: str, function: Callable[..., Any], declared: tuple[Variable, ...] | None = None) -> None:
        super().__init__(name)
        self.function = Isolated(function)
        self.declared = declared
        self._turns = Turns()
        self._parameters = _parameters(function, name)

    @property
    def draws(self) -> bool:
        """Whether it is known to draw random numbers."""
        return not _SOURCES.isdisjoint(self.names) or self.function.draws

    @property
    def keeps_outputs(self) -> bool:
        return self._turns.keeps_outputs

    @keeps_outputs.setter
    def keeps_outputs(self, keeps: bool) -> None:
        self._turns.keeps_outputs = keeps

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all parameters that take a value by name."""
        return tuple(p.name for p in self._parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))

    @property
    def required(self) -> tuple[str, ...]:
        """The names of the parameters that have no default."""
        return tuple(p.name for p in self._parameters if p.name in self.names and p.default is p.empty)

    @property
    def functions(self) -> tuple[Isolated, ...]:
        return (self.function,)

    def settings(self) -> dict[str, Any]:
        schema = None if self.declared is None else {v.name: [list(v.shape), v.dtype.name] for v in self.declared}
        return {**super().settings(), "schema": schema}

    @property
    def takes_all(self) -> bool:
        """Whether the function takes ``**kwargs`` and so all that is known before it."""
        return any(p.kind is p.VAR_KEYWORD for p in self._parameters)

    def bind(self, known: Iterable[str]) -> Binding:
        """Match the function's parameters with the names known before it.

        Raises
        ------
        SimulatorError
            If nothing provides a parameter that has no default.
        """
        known = list(known)
        positional: list[str] = []
        keyword: list[str] = []
        in_order = True
        for i, parameter in enumerate(self._parameters):
            if parameter.kind is parameter.VAR_POSITIONAL:
                in_order = False
                continue
            if parameter.kind is parameter.VAR_KEYWORD:
                continue
            name = self._source(i, parameter, known)
            # after a parameter that keeps its default, the others can only go by keyword
            in_order = in_order and name is not None and parameter.kind is not parameter.KEYWORD_ONLY
            if name is not None:
                (positional if in_order else keyword).append(name)
        if self.takes_all:
            keyword += [name for name in known if name not in positional and name not in keyword]
        return Binding(tuple(positional), tuple(keyword))

    def _source(self, i: int, parameter: inspect.Parameter, known: Sequence[str]) -> str | None:
        """Return the name that a parameter takes its value from, or None if it keeps its default."""
        name = parameter.name
        # one that is declared as an integer is no RandomState, and one that is set by default is the user's own choice
        is_integer = parameter.annotation in (int, "int") or isinstance(parameter.default, Integral)
        if name in self._offered() and not (name == "random_state" and is_integer):
            return name
        if name in known:
            return name
        if parameter.default is not parameter.empty:
            return None
        if i == 0 and self.is_batched and not self.is_context and "batch_shape" not in self.names:
            # a misspelt variable is not taken for the batch shape
            hint = nearest(name, known)
            if not hint.startswith("did you mean") and parameter.kind is not parameter.KEYWORD_ONLY:
                return "batch_shape"
        if name == "batch_shape":
            raise SimulatorError(
                f"stage {self.name!r} takes batch_shape, but is not batched and sees one row at a time; declare it "
                "with is_batched=True, or leave batch_shape out"
            )
        if name == "random_state":
            raise SimulatorError(
                f"stage {self.name!r} takes random_state as an integer; take seed32 in its place, an integer from 1 to "
                "2**31 - 2"
            )
        raise SimulatorError(
            f"stage {self.name!r} needs {name!r}, but no earlier stage, context or condition provides it; "
            f"{nearest(name, known)}"
        )

    def _offered(self) -> frozenset[str]:
        return RESERVED

    def _values(self, binding: Binding, batch: SubBatch) -> dict[str, Any]:
        values: dict[str, Any] = {**batch.shared, **batch.rows}
        if batch.device != "cpu":
            put = device_named(batch.device).put
            values.update({name: put(value) for name, value in batch.shared.items() if isinstance(value, np.ndarray)})
        asked = set(binding.names) - set(values)
        values.update(self._drawn(asked, batch))
        if "xp" in asked:
            values["xp"] = device_named(batch.device).xp
        if "batch_shape" in asked:
            values["batch_shape"] = batch.axes
        return values

    def _drawn(self, asked: Collection[str], batch: SubBatch) -> dict[str, Any]:
        """Return what the function draws from, made for those who ask: a generator costs as much as some light rows."""
        drawn: dict[str, Any] = {}
        if "rng" in asked:
            drawn["rng"] = batch.address.generator(batch.device)
        if "random_state" in asked:
            # from where rng draws, if that is on the host
            rng = drawn["rng"] if "rng" in asked and batch.device == "cpu" else batch.address.generator()
            drawn["random_state"] = np.random.RandomState(rng.bit_generator)
        if "seed" in asked:
            drawn["seed"] = batch.address.seeds(1)[0]
        if "seed32" in asked:
            number = batch.address.sub_batch
            drawn["seed32"] = CellStreams(batch.address, Cells(range(number, number + 1))).seeds32()[0]
        return drawn

    def call(
        self, binding: Binding, batch: SubBatch, variables: Sequence[Variable] | None = None
    ) -> tuple[Any, dict[str, Labels]]:
        """Call the function with what it is bound to; what it returns stays as it is, whatever it does afterwards.

        Labels are those that its variables are known to have, else those found; the values are without them.
        """
        labels, loose = known_labels(variables or ()), loose_dims(variables or ())

        def work(copies: bool) -> list[Any]:
            outputs = self._returned(binding, batch)
            if variables is None:
                labels.update(labels_in(outputs[0], self.name, 0 if self.is_context else len(batch.axes)))
            if labels:
                outputs = [without_labels(outputs[0], labels, _where(self.name, batch), loose)]
            return copied(outputs) if copies else outputs

        return self._turns.run(work, lambda outputs: are_kept(outputs, arrays_of(batch)))[0], labels

    def _returned(self, binding: Binding, batch: SubBatch) -> list[Any]:
        """Return what the function returns, in a list that alone holds it."""
        values = self._values(binding, batch)
        with self.function.at(batch.address, watch=batch.watch) as function:
            return [
                function(
                    *(values[name] for name in binding.positional), **{name: values[name] for name in binding.keyword}
                )
            ]


class BatchedStage(FunctionStage):
    """A function that is called once for a whole sub-batch.

    Parameters
    ----------
    name, function, declared
        As in :class:`FunctionStage`.
    can_use_gpu
        Whether the function can be given arrays of a GPU; by default it can if it takes ``xp``.
    """

    is_batched = True
    how_often = "once for each sub-batch"

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        declared: tuple[Variable, ...] | None = None,
        can_use_gpu: bool | None = None,
    ) -> None:
        super().__init__(name, function, declared)
        self.can_use_gpu = "xp" in self.names if can_use_gpu is None else can_use_gpu

    def probe(self, binding: Binding, batch: SubBatch) -> tuple[tuple[Variable, ...], dict[str, Array]]:
        outputs, labels = self.call(binding, batch)
        variables = with_labels(describe(outputs, self.name, batch.axes), labels)
        return variables, checked(outputs, f"stage {self.name!r}", variables, batch.axes)

    def simulate(self, binding: Binding, batch: SubBatch, outputs: Sequence[Variable]) -> dict[str, Array]:
        try:
            made, _ = without_exit(self.call, binding, batch, outputs)
        except Exception as error:
            if self.makes_contexts or not batch.fails(slice(None), self.name, error):
                raise
            return zeros(outputs, batch)
        return checked(made, _where(self.name, batch), outputs, batch.axes, batch.device)


class ContextStage(FunctionStage):
    """A function that is called once for a sub-batch and returns values that the whole of it shares."""

    is_batched = True
    is_redrawn = False
    is_context = True
    makes_contexts = True
    how_often = "once for each sub-batch, for all its samples"

    def probe(self, binding: Binding, batch: SubBatch) -> tuple[tuple[Variable, ...], dict[str, Array]]:
        outputs, labels = self.call(binding, batch)
        variables = with_labels(describe(outputs, self.name, (), is_shared=True), labels)
        return variables, checked(outputs, f"stage {self.name!r}", variables, ())

    def simulate(self, binding: Binding, batch: SubBatch, outputs: Sequence[Variable]) -> dict[str, Array]:
        made, _ = self.call(binding, batch, outputs)
        return checked(made, _where(self.name, batch), outputs, ())


class SharedStage(BatchedStage):
    """A batched function whose scalars are contexts of the sub-batch, and whose arrays have one row a sample."""

    makes_contexts = True

    def __init__(self, name: str, function: Callable[..., Any], declared: tuple[Variable, ...] | None = None) -> None:
        super().__init__(name, function, declared, can_use_gpu=False)

    def probe(self, binding: Binding, batch: SubBatch) -> tuple[tuple[Variable, ...], dict[str, Array]]:
        outputs, labels = self.call(binding, batch)
        if not isinstance(outputs, Mapping):
            describe(outputs, self.name, ())
        contexts = {name: value for name, value in outputs.items() if np.ndim(value) == 0}
        rows = {name: value for name, value in outputs.items() if name not in contexts}
        variables = describe(contexts, self.name, (), is_shared=True) if contexts or not rows else ()
        variables += describe(rows, self.name, batch.axes) if rows else ()
        variables = with_labels(variables, labels)
        return variables, checked(outputs, f"stage {self.name!r}", variables, batch.axes)


def zeros(variables: Sequence[Variable], batch: SubBatch) -> dict[str, Any]:
    """Return values without meaning, for samples that have failed."""
    put = device_named(batch.device).put
    shapes = {v.name: v.shape if v.is_shared else (*batch.axes, *v.shape) for v in variables}
    return {v.name: put(np.zeros(shapes[v.name], v.dtype)) for v in variables}


def arrays_of(batch: SubBatch) -> list[Any]:
    """Return what a function is given, arrays and whatever else."""
    return [*batch.rows.values(), *batch.shared.values()]


def _where(stage: str, batch: SubBatch) -> str:
    place = batch.place
    last = place.first_row + batch.axes[0] - 1
    return f"stage {stage!r} in sub-batch {place.sub_batch} ({place.unit}s {place.first_row} to {last})"


def _parameters(function: Callable[..., Any], stage: str) -> tuple[inspect.Parameter, ...]:
    try:
        return tuple(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise SimulatorError(
            f"cannot read the arguments of stage {stage!r} ({function!r}); wrap it in a function that names them"
        ) from error


def function_name(function: Any) -> str:
    """Return the name of a function, of the function inside a partial, or of a callable object's class.

    Examples
    --------
    >>> import functools
    >>> function_name(functools.partial(max, 1))
    'max'
    """
    while hasattr(function, "func"):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))
