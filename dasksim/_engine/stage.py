"""One stage: named inputs, named outputs, and what it is given on a sub-batch.

No Dask in sight: a stage evaluates on arrays in memory.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import numpy.typing as npt

from dasksim._core.arrays import as_host, namespace_of
from dasksim._core.plan import Plan
from dasksim._core.variables import RESERVED, Variable
from dasksim._engine.failed_rows import FailedRows
from dasksim._streams.addresses import Address, stage_key
from dasksim._streams.cells import Cells
from dasksim._streams.isolation import Isolated, run_all

__all__ = ["Binding", "Place", "Plate", "Stage", "SubBatch", "within"]

Array = npt.NDArray[Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Which sub-batch is simulated, and on which attempt.

    Parameters
    ----------
    seed
        The seed in force.
    sub_batch
        Number of the sub-batch.
    first_sample
        Number of its first sample in the dataset.
    cells
        Which cells its rows are, of a whole sub-batch or more.
    full_rows
        Rows of a whole sub-batch; what is simulated may be the first of them only.
    attempt
        Number of the attempt.
    unit
        What messages call a row: a sample of the dataset, or else a row counted from 0, such as a proposal.
    redraw
        How often samples that failed have been drawn again.
    """

    seed: int
    sub_batch: int
    first_sample: int
    full_rows: int
    cells: Cells
    attempt: int = 0
    unit: str = "sample"
    redraw: int = 0

    @classmethod
    def of(cls, plan: Plan, sub_batch: int) -> "Place":
        """Return the place of a sub-batch of a dataset."""
        first, size = sub_batch * plan.sub_batch_size, plan.sub_batch_size
        return cls(plan.seed, sub_batch, first, size, Cells(range(first, first + size)))

    @property
    def first_row(self) -> int:
        """What messages count rows from."""
        return self.first_sample if self.unit == "sample" else 0

    def address(self, stage: "Stage") -> Address:
        """Return the address of a stage's stream; contexts, and what is not redrawn, stay as they are."""
        attempt = 0 if stage.is_context else self.attempt
        return Address(self.seed, stage.key, self.sub_batch, attempt, self.redraw if stage.is_redrawn else 0)


@dataclass(frozen=True)
class SubBatch:
    """What a stage is given: one sub-batch, or the rows of a probe.

    Parameters
    ----------
    place
        Which sub-batch it is of.
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
    watch
        Whether to find out if the function uses the global generators.
    failures
        Which rows have failed, or None where any exception ends all.
    device
        Where it is simulated; its rows are arrays of that device.
    shapes
        For each of ``rows`` whose cells differ in size, the shape of each cell.
    """

    place: Place
    address: Address
    axes: tuple[int, ...]
    rows: Mapping[str, Array] = field(default_factory=dict)
    shared: Mapping[str, Any] = field(default_factory=dict)
    python: frozenset[str] = frozenset()
    watch: bool = False
    failures: FailedRows | None = None
    device: str = "cpu"
    shapes: Mapping[str, Array] = field(default_factory=dict)

    @property
    def cells(self) -> Cells:
        """Which cells it has, in C order."""
        return self.place.cells.select(slice(self.axes[0])).along(self.axes[1:])

    @property
    def n_cells(self) -> int:
        """Number of samples times further batch axes."""
        return math.prod(self.axes)

    @property
    def cells_per_row(self) -> int:
        """Number of cells that belong to one row."""
        return math.prod(self.axes[1:])

    def fails(self, rows: Any, stage: str, error: BaseException) -> bool:
        """Take note that a function raised an exception at some rows; return whether to go on without them."""
        if self.failures is None:
            return False
        return self.failures.raised(np.arange(self.axes[0])[rows], stage, error)

    def row_of(self, cell: int) -> str:
        """Return what a message calls the row of a cell."""
        row = cell // self.cells_per_row
        if self.failures is not None and self.failures.are_samples:
            return f"sample {self.failures.samples[row]}"
        return f"{self.place.unit} {self.place.first_row + row}"

    def inputs_of(self, cell: int) -> str:
        """Return the inputs of a cell, for a message."""
        cells = {
            name: namespace_of(value).reshape(value, (self.n_cells, *value.shape[len(self.axes) :]))
            for name, value in self.rows.items()
        }
        values = {**self.shared, **{name: as_host(value[cell, ...])[()] for name, value in cells.items()}}
        with np.printoptions(threshold=20, edgeitems=3):
            return ", ".join(f"{name}={_shown(value)}" for name, value in values.items())


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
    is_by_cell
        Whether what it makes of a cell depends on that cell alone, so that sub-batches change no value.
    is_redrawn
        Whether what it draws is drawn again for samples that failed.
    can_use_gpu
        Whether it can be given arrays of a GPU, and computes with their namespace.
    is_transfer
        Whether all it does is to copy a variable to another device.
    passes_failed
        Whether all it does is to put values elsewhere, those of rows that have failed too.
    takes_padded
        Whether it can be given rows that differ in size, each at its own.
    """

    is_batched: bool
    is_by_cell: bool = False
    can_use_gpu: bool = False
    is_transfer: ClassVar[bool] = False
    passes_failed: ClassVar[bool] = False
    takes_padded: bool = False
    is_context: ClassVar[bool] = False
    makes_contexts: ClassVar[bool] = False
    is_redrawn: bool = True
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
    def kind(self) -> str:
        """What a store calls stages of this kind, which is not gone on with by others."""
        return type(self).__name__

    def settings(self) -> dict[str, Any]:
        """Return what else than functions, inputs and names of outputs its values depend on, ready for JSON."""
        return {
            "plates": [[plate.name, plate.size] for plate in self.plates],
            "depth": self.depth,
            "expand_outputs": self.is_expanded,
            # stores of versions in which the cells of a sub-batch shared a stream do not have it
            **({"streams": "cell"} if self.is_by_cell else {}),
        }

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
        """Return ``work(watch)``, which simulates; see :func:`run_all`."""
        return run_all(self.functions, work)


def _shown(value: Any) -> str:
    return repr(value.item() if isinstance(value, np.generic) else value)


def within(path: str, name: str = "") -> str:
    """Return the path of something within ``path``; without a name, a path that ends in ``/`` for functions' own names.

    Examples
    --------
    >>> within("model", "prior"), within("model"), within("model/"), within("", "prior")
    ('model/prior', 'model/', 'model/', 'prior')
    """
    return f"{path.rstrip('/')}/{name}" if path else name
