"""One stage: bind its inputs by name, call the user's function on a sub-batch, check what came back.

No Dask in sight: a stage evaluates on arrays in memory.
"""

import copy
import inspect
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import numpy.typing as npt

from dasksim._arrays import namespace
from dasksim._isolation import Isolated
from dasksim._outputs import checked, describe, stacked
from dasksim._schema import RESERVED, Variable
from dasksim._streams import PROBE_SUB_BATCH, Address, stage_key
from dasksim.errors import SimulatorError, nearest

__all__ = [
    "BatchedStage",
    "Binding",
    "ContextStage",
    "FunctionStage",
    "Plate",
    "RowStage",
    "SharedStage",
    "Stage",
    "SubBatch",
    "function_name",
    "within",
]

Array = npt.NDArray[Any]
T = TypeVar("T")


@dataclass(frozen=True)
class SubBatch:
    """What a stage is given: one sub-batch, or the rows of a probe.

    Parameters
    ----------
    address
        Where its random numbers come from.
    axes
        The batch shape, ``(number of rows, further batch axes...)``.
    rows
        Inputs that begin with ``axes``; read-only.
    shared
        Inputs that hold for the whole sub-batch.
    python
        The names among ``rows`` that go to a function one by one as Python scalars.
    first_sample
        Number of its first sample in the dataset.
    watch
        Whether to find out if the function uses the global generators.
    full_rows
        Rows of a whole sub-batch, of which these may be the first ones only.
    unit
        What messages call a row: a sample of the dataset, or else a row counted from 0, such as a proposal.
    """

    address: Address
    axes: tuple[int, ...]
    rows: Mapping[str, Array] = field(default_factory=dict)
    shared: Mapping[str, Any] = field(default_factory=dict)
    python: frozenset[str] = frozenset()
    first_sample: int = 0
    watch: bool = False
    full_rows: int = 0
    unit: str = "sample"

    @property
    def n_cells(self) -> int:
        """Number of samples times further batch axes."""
        return math.prod(self.axes)


@dataclass(frozen=True)
class Binding:
    """The names that a function's arguments take their values from.

    Parameters
    ----------
    positional
        Names passed by position, in order.
    keyword
        Names passed by keyword.
    """

    positional: tuple[str, ...]
    keyword: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All names, variables and what the function asks for."""
        return self.positional + self.keyword

    @property
    def inputs(self) -> tuple[str, ...]:
        """The variables among the names."""
        return tuple(name for name in self.names if name not in RESERVED)


@dataclass(frozen=True)
class Plate:
    """An axis along which a stage is repeated.

    Parameters
    ----------
    name
        Name of the dim.
    size
        Number of repeats, or the name of the context that holds it.
    """

    name: str
    size: int | str


class Stage(ABC):
    """One step of a simulator, with named inputs and named outputs.

    Parameters
    ----------
    name
        Path of the stage; the key of its streams.

    Attributes
    ----------
    plates
        Axes along which it is repeated, besides those of the call.
    depth
        How many of the further batch axes of the call it is repeated along; None for all.
    is_expanded
        Whether its scalars get a trailing axis of size 1 in the dataset.
    sees
        The stages whose variables it may take; None for all before it.
    gathers
        The stages whose hidden variables it takes.
    """

    is_batched: bool
    is_context: ClassVar[bool] = False
    makes_contexts: ClassVar[bool] = False
    how_often: ClassVar[str]

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = stage_key(name)
        self.declared: tuple[Variable, ...] | None = None
        self.plates: tuple[Plate, ...] = ()
        self.depth: int | None = None
        self.is_expanded = False
        self.sees: frozenset[str] | None = None
        self.gathers: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def replaced(self, **changes: Any) -> Self:
        """Return the stage with other attributes; another name gives it other streams."""
        stage = copy.copy(self)
        vars(stage).update(changes)
        stage.key = stage_key(stage.name)
        return stage

    @property
    def needs_whole(self) -> bool:
        """Whether a short sub-batch has to be computed whole and cut, to be the beginning of a whole one."""
        return self.is_batched

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of all parameters that take a value by name."""

    @property
    @abstractmethod
    def functions(self) -> tuple[Isolated, ...]:
        """The users' functions that it calls."""

    @property
    def takes_all(self) -> bool:
        """Whether it takes all that is known before it."""
        return False

    @abstractmethod
    def bind(self, known: Iterable[str]) -> Binding:
        """Match what the stage takes with the names known before it."""

    @abstractmethod
    def probe(self, binding: Binding, batch: SubBatch) -> tuple[tuple[Variable, ...], dict[str, Array]]:
        """Run the stage on a few rows; return the variables it makes, and their values."""

    @abstractmethod
    def simulate(self, binding: Binding, batch: SubBatch, outputs: Sequence[Variable]) -> dict[str, Array]:
        """Run the stage on a sub-batch and return its outputs, checked; shapes begin with ``batch.axes``."""

    def finish(self, outputs: tuple[Variable, ...], inputs: Mapping[str, Variable]) -> tuple[Variable, ...]:
        """Return the outputs that a probe found, with what only the inputs' descriptions tell of them."""
        return outputs

    def guarded(self, work: Callable[[bool], T]) -> T:
        """Return ``work(watch)``, which simulates; see :meth:`Isolated.run`."""
        return work(False)


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
    """

    def __init__(self, name: str, function: Callable[..., Any], declared: tuple[Variable, ...] | None = None) -> None:
        super().__init__(name)
        self.function = Isolated(function)
        self.declared = declared
        self._parameters = _parameters(function, name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all parameters that take a value by name."""
        return tuple(p.name for p in self._parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))

    @property
    def functions(self) -> tuple[Isolated, ...]:
        return (self.function,)

    @property
    def takes_all(self) -> bool:
        """Whether the function takes ``**kwargs`` and so all that is known before it."""
        return any(p.kind is p.VAR_KEYWORD for p in self._parameters)

    def guarded(self, work: Callable[[bool], T]) -> T:
        return self.function.run(work)

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
            in_order = in_order and name is not None and parameter.kind is not parameter.KEYWORD_ONLY
            if name is not None:
                (positional if in_order else keyword).append(name)
        if self.takes_all:
            keyword += [name for name in known if name not in positional and name not in keyword]
        return Binding(tuple(positional), tuple(keyword))

    def _source(self, i: int, parameter: inspect.Parameter, known: Sequence[str]) -> str | None:
        """Return the name that a parameter takes its value from, or None if it keeps its default."""
        name = parameter.name
        if name in self._offered():
            return name
        if name in known:
            return name
        if parameter.default is not parameter.empty:
            return None
        if i == 0 and self.is_batched and not self.is_context and "batch_shape" not in self.names:
            hint = nearest(name, known)
            if not hint.startswith("did you mean") and parameter.kind is not parameter.KEYWORD_ONLY:
                return "batch_shape"
        if name == "batch_shape":
            raise SimulatorError(
                f"stage {self.name!r} takes batch_shape, but is not batched and sees one row at a time; declare it "
                "with is_batched=True, or leave batch_shape out"
            )
        raise SimulatorError(
            f"stage {self.name!r} needs {name!r}, but no earlier stage, context or condition provides it; "
            f"{nearest(name, known)}"
        )

    def _offered(self) -> frozenset[str]:
        return RESERVED

    def _values(self, binding: Binding, batch: SubBatch) -> dict[str, Any]:
        values: dict[str, Any] = {**batch.shared, **batch.rows}
        asked = set(binding.names) - set(values)
        if "rng" in asked:
            values["rng"] = batch.address.generator()
        if "seed" in asked:
            values["seed"] = batch.address.seeds(1)[0]
        if "xp" in asked:
            values["xp"] = namespace()
        if "batch_shape" in asked:
            values["batch_shape"] = batch.axes
        return values

    def call(self, binding: Binding, batch: SubBatch) -> Any:
        """Call the function with what it is bound to."""
        values = self._values(binding, batch)
        with self.function.at(batch.address, watch=batch.watch) as function:
            return function(
                *(values[name] for name in binding.positional), **{name: values[name] for name in binding.keyword}
            )


class BatchedStage(FunctionStage):
    """A function that is called once for a whole sub-batch."""

    is_batched = True
    how_often = "once for each sub-batch"

    def probe(self, binding: Binding, batch: SubBatch) -> tuple[tuple[Variable, ...], dict[str, Array]]:
        outputs = self.call(binding, batch)
        variables = describe(outputs, self.name, batch.axes)
        return variables, checked(outputs, f"stage {self.name!r}", variables, batch.axes)

    def simulate(self, binding: Binding, batch: SubBatch, outputs: Sequence[Variable]) -> dict[str, Array]:
        return checked(self.call(binding, batch), _where(self.name, batch), outputs, batch.axes)


class ContextStage(FunctionStage):
    """A function that is called once for a sub-batch and returns values that the whole of it shares."""

    is_batched = True
    is_context = True
    makes_contexts = True
    how_often = "once for each sub-batch, for all its samples"

    def probe(self, binding: Binding, batch: SubBatch) -> tuple[tuple[Variable, ...], dict[str, Array]]:
        outputs = self.call(binding, batch)
        variables = describe(outputs, self.name, (), is_shared=True)
        return variables, checked(outputs, f"stage {self.name!r}", variables, ())

    def simulate(self, binding: Binding, batch: SubBatch, outputs: Sequence[Variable]) -> dict[str, Array]:
        return checked(self.call(binding, batch), _where(self.name, batch), outputs, ())


class SharedStage(BatchedStage):
    """A batched function whose scalars are contexts of the sub-batch, and whose arrays have one row a sample."""

    makes_contexts = True

    def probe(self, binding: Binding, batch: SubBatch) -> tuple[tuple[Variable, ...], dict[str, Array]]:
        outputs = self.call(binding, batch)
        if not isinstance(outputs, Mapping):
            describe(outputs, self.name, ())
        contexts = {name: value for name, value in outputs.items() if np.ndim(value) == 0}
        rows = {name: value for name, value in outputs.items() if name not in contexts}
        variables = describe(contexts, self.name, (), is_shared=True) if contexts or not rows else ()
        variables += describe(rows, self.name, batch.axes) if rows else ()
        return variables, checked(outputs, f"stage {self.name!r}", variables, batch.axes)


class RowStage(FunctionStage):
    """A function that is called once for each sample (and further batch axis)."""

    is_batched = False
    how_often = "once for each sample"

    def probe(self, binding: Binding, batch: SubBatch) -> tuple[tuple[Variable, ...], dict[str, Array]]:
        rows = self._rows(binding, batch)
        variables = describe(rows[0], self.name, ())
        return variables, self._stack(rows, batch, variables)

    def simulate(self, binding: Binding, batch: SubBatch, outputs: Sequence[Variable]) -> dict[str, Array]:
        return self._stack(self._rows(binding, batch), batch, outputs)

    def _offered(self) -> frozenset[str]:
        return RESERVED - {"batch_shape"}

    def _rows(self, binding: Binding, batch: SubBatch) -> list[Any]:
        columns = self._columns(binding, batch)
        args = zip(*(columns[name] for name in binding.positional)) if binding.positional else itertools.repeat(())
        rows: list[Any] = []
        with self.function.at(batch.address, watch=batch.watch) as function:
            try:
                if binding.keyword:
                    keywords = zip(*(columns[name] for name in binding.keyword))
                    for _, values, more in zip(range(batch.n_cells), args, keywords):
                        rows.append(function(*values, **dict(zip(binding.keyword, more))))
                else:
                    rows.extend(itertools.starmap(function, itertools.islice(args, batch.n_cells)))
            except Exception as error:
                if batch.address.sub_batch != PROBE_SUB_BATCH:
                    error.add_note(f"raised by stage {self.name!r} at {_row(batch, len(rows))}")
                raise
        return rows

    def _columns(self, binding: Binding, batch: SubBatch) -> dict[str, Iterable[Any]]:
        """Return the values of each argument, one a row."""
        columns: dict[str, Iterable[Any]] = {}
        for name, value in self._values(binding, batch).items():
            if name in batch.rows:
                column = value.reshape(batch.n_cells, *value.shape[len(batch.axes) :])
                columns[name] = column.tolist() if name in batch.python else column
            else:
                columns[name] = itertools.repeat(value)
        if "seed" in columns and "seed" not in batch.shared:
            columns["seed"] = batch.address.seeds(batch.n_cells)
        return columns

    def _stack(self, rows: list[Any], batch: SubBatch, outputs: Sequence[Variable]) -> dict[str, Array]:
        """Turn a list of dicts into a dict of arrays: all rows at a glance or, where that is not enough, one by one."""
        arrays = stacked(rows, outputs)
        if arrays is None:
            where = f"stage {self.name!r} at "
            one_by_one = [checked(row, where + _row(batch, i), outputs, ()) for i, row in enumerate(rows)]
            arrays = {v.name: np.array([row[v.name] for row in one_by_one]) for v in outputs}
        return {
            v.name: arrays[v.name].astype(v.dtype, copy=False).reshape(*batch.axes, *arrays[v.name].shape[1:])
            for v in outputs
        }


def _where(stage: str, batch: SubBatch) -> str:
    first = batch.first_sample if batch.unit == "sample" else 0
    last = first + batch.axes[0] - 1
    return f"stage {stage!r} in sub-batch {batch.address.sub_batch} ({batch.unit}s {first} to {last})"


def _row(batch: SubBatch, cell: int) -> str:
    row = cell // (batch.n_cells // batch.axes[0])
    return f"{batch.unit} {row + batch.first_sample if batch.unit == 'sample' else row}"


def _parameters(function: Callable[..., Any], stage: str) -> tuple[inspect.Parameter, ...]:
    try:
        return tuple(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise SimulatorError(
            f"cannot read the arguments of stage {stage!r} ({function!r}); wrap it in a function that names them"
        ) from error


def within(path: str, name: str = "") -> str:
    """Return the path of something within ``path``; without a name, a path that ends in ``/`` for functions' own names.

    Examples
    --------
    >>> within("model", "prior"), within("model"), within("model/"), within("", "prior")
    ('model/prior', 'model/', 'model/', 'prior')
    """
    return f"{path.rstrip('/')}/{name}" if path else name


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
