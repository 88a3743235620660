"""What a simulator returns: the names, dims, dtypes and per-sample shapes of its variables."""

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._arrays import as_host
from dasksim.errors import ArgumentError, ArgumentTypeError, DasksimError, OutputError, SimulatorError, nearest

__all__ = [
    "RESERVED",
    "Variable",
    "as_values",
    "batch_dims",
    "can_hold",
    "check_dims",
    "check_labels",
    "check_name",
    "declared_variables",
    "describe",
    "feature_dims",
    "is_supported",
]

#: Names that functions ask for and that no variable can have.
RESERVED = frozenset({"rng", "seed", "xp", "batch_shape"})

_NUMERIC_KINDS = "biufc"
_COORD_KINDS = "biufMmU"


@dataclass(frozen=True)
class Variable:
    """One named output of a stage.

    Parameters
    ----------
    name
        Name of the variable.
    shape
        Shape of one sample, as the function returns it.
    dtype
        Type of its values.
    is_shared
        Whether one value holds for a whole sub-batch (a context, or a condition that is no variable of the simulator).
    is_python
        Whether the function returned a Python scalar, so that later functions are given one too.
    is_expanded
        Whether a scalar gets a trailing axis of size 1 in the dataset.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_shared: bool = False
    is_python: bool = False
    is_expanded: bool = False

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample in the dataset."""
        return (1,) if self.is_expanded and not self.shape else self.shape

    @property
    def sample_bytes(self) -> int:
        """The bytes of one sample."""
        return math.prod(self.shape) * self.dtype.itemsize

    def expanded(self) -> "Variable":
        """Return the variable with ``is_expanded`` set."""
        return replace(self, is_expanded=True)

    def __str__(self) -> str:
        return f"{self.name}: shape {self.shape}, {self.dtype}"


def describe(outputs: object, stage: str, axes: tuple[int, ...], *, is_shared: bool = False) -> tuple[Variable, ...]:
    """Return the variables that ``outputs``, returned by a probe, consist of.

    Parameters
    ----------
    outputs
        What the function returned.
    stage
        Name of the stage, for messages.
    axes
        The batch axes that each value must begin with.

    Raises
    ------
    OutputError
        If the outputs are not a mapping of names to numeric arrays that begin with ``axes``.
    """
    if not isinstance(outputs, Mapping):
        raise OutputError(
            f"stage {stage!r} returned {_brief(outputs)}; a simulator function must return a dict of "
            "variables, such as {'x': value}"
        )
    if not outputs:
        raise OutputError(f"stage {stage!r} returned an empty dict; return at least one variable")
    return tuple(_describe_one(name, value, stage, axes, is_shared) for name, value in outputs.items())


def _describe_one(name: object, value: Any, stage: str, axes: tuple[int, ...], is_shared: bool) -> Variable:
    check_name(name, f"stage {stage!r} returned")
    array = as_values(value, str(name), f"stage {stage!r}")
    if array.shape[: len(axes)] != axes:
        raise OutputError(
            f"stage {stage!r} returned {name!r} with shape {array.shape}; it is batched, so the shape must begin "
            f"with batch_shape={axes}"
        )
    if 0 in array.shape:
        raise OutputError(f"stage {stage!r} returned {name!r} with shape {array.shape}; a variable must have values")
    return Variable(
        str(name),
        array.shape[len(axes) :],
        array.dtype,
        is_shared=is_shared,
        is_python=type(value) in (bool, int, float, complex),
    )


def check_name(name: object, where: str, error: type[DasksimError] = OutputError) -> None:
    """Raise ``error`` if ``name`` cannot be the name of a variable."""
    if not isinstance(name, str):
        raise error(f"{where} the variable {name!r}; names of variables must be strings")
    if name in RESERVED or name == "batch":
        raise error(
            f"{where} the variable {name!r}, a name that dasksim gives a meaning of its own; rename the variable"
        )
    if not name or "/" in name or name.startswith(("_", ".")):
        raise error(
            f"{where} the variable {name!r}; a name cannot be empty, contain '/' or begin with '_' or '.', since it "
            "names an array in a store"
        )


def as_values(value: Any, name: str, where: str) -> npt.NDArray[Any]:
    """Return ``value`` as a numeric NumPy array of native byte order; ``where`` begins the message if it is none."""
    if isinstance(value, np.ma.MaskedArray):
        raise OutputError(
            f"{where} returned {name!r} as a masked array, whose mask would be lost; fill it, or return the mask as a "
            "variable of its own"
        )
    try:
        array = as_host(value)
    except ValueError as error:
        raise OutputError(f"{where} returned {name!r} as rows of different shapes: {error}") from error
    if not is_supported(array.dtype):
        raise OutputError(
            f"{where} returned {name!r} as {_brief(value)} of dtype {array.dtype}; variables must be boolean or "
            "numeric arrays, at most float64 or complex128"
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def is_supported(dtype: np.dtype[Any]) -> bool:
    """Whether a variable can have the dtype: boolean or numeric, with a meaning that all machines agree on."""
    return dtype.kind in _NUMERIC_KINDS and dtype.itemsize <= (16 if dtype.kind == "c" else 8)


def _brief(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) < 60 else text[:57] + '...'}"


def declared_variables(schema: Any) -> tuple[Variable, ...] | None:
    """Return the variables of a declared schema, ``{name: (shape of one sample, dtype)}``."""
    if schema is None:
        return None
    if not isinstance(schema, Mapping) or not schema:
        raise ArgumentTypeError(f"schema must be a mapping {{name: (shape, dtype)}}; got {schema!r}")
    return tuple(_declare_one(name, entry) for name, entry in schema.items())


def _declare_one(name: str, entry: Any) -> Variable:
    check_name(name, "schema declares", ArgumentError)
    try:
        shape, dtype = entry
        sizes = tuple(map(operator.index, shape))
        variable = Variable(name, sizes, np.dtype("O" if dtype is None else dtype).newbyteorder("="))
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(
            f"schema[{name!r}] must be a pair (shape of one sample, dtype), such as ((3,), 'float64'); got {entry!r}"
        ) from error
    if not is_supported(variable.dtype) or min(sizes, default=1) < 1:
        raise ArgumentError(f"schema[{name!r}] must have sizes >= 1 and a boolean or numeric dtype; got {entry!r}")
    return variable


def batch_dims(n_axes: int) -> tuple[str, ...]:
    """Return the names of the batch dims: ``batch``, ``batch_1``, ..."""
    return ("batch", *(f"batch_{i}" for i in range(1, n_axes)))


def check_labels(dims: Any, coords: Any) -> tuple[dict[str, tuple[str, ...]], dict[str, npt.NDArray[Any]]]:
    """Return the names of feature dims, and coordinates, as they are kept by a simulator.

    Raises
    ------
    ArgumentTypeError
        If they are no mappings, or hold something else than names and values that a store can hold.
    """
    for argument, value in (("dims", dims), ("coords", coords)):
        if not isinstance(value, Mapping | None):
            raise ArgumentTypeError(f"{argument} must be a mapping; got {value!r}")
    given: Mapping[Any, Any] = dims or {}
    for name, names in given.items():
        if isinstance(names, str) or not isinstance(names, Sequence) or not all(map(_is_label, names)):
            raise ArgumentTypeError(
                f"dims[{name!r}] must be a list of names, such as ['time'], none of them empty or with '/'; "
                f"got {names!r}"
            )
    arrays = {dim: np.asarray(values) for dim, values in (coords or {}).items()}
    for dim, array in arrays.items():
        if array.dtype.kind not in _COORD_KINDS and not all(isinstance(value, str) for value in array.flat):
            raise ArgumentTypeError(f"coords[{dim!r}] must hold numbers, strings or times; got {array!r}")
    return {name: tuple(names) for name, names in given.items()}, arrays


def _is_label(name: object) -> bool:
    return isinstance(name, str) and name != "" and "/" not in name


def feature_dims(variable: Variable, dims: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the given names of a variable's feature dims, else ``{variable}_dim_{i}``."""
    given = dims.get(variable.name)
    if given is None:
        return tuple(f"{variable.name}_dim_{i}" for i in range(len(variable.sample_shape)))
    if len(given) != len(variable.sample_shape):
        raise SimulatorError(
            f"dims[{variable.name!r}]={list(given)} names {len(given)} dims, but one sample of {variable.name!r} has "
            f"shape {variable.sample_shape}; name {len(variable.sample_shape)} dims"
        )
    return tuple(given)


def check_dims(
    variables: Sequence[Variable],
    dims: Mapping[str, Sequence[str]],
    coords: Mapping[str, Any],
    batch: Sequence[str],
) -> dict[str, tuple[str, ...]]:
    """Return the feature dims of each variable, and check that all names and sizes agree.

    Raises
    ------
    SimulatorError
        If dims or coords name what does not exist, or sizes contradict each other.
    """
    names = [variable.name for variable in variables]
    for name in dims:
        if name not in names:
            raise SimulatorError(f"dims names {name!r}, which is no variable of the simulator; {nearest(name, names)}")
    found = {variable.name: feature_dims(variable, dims) for variable in variables}
    for dim in batch:
        if dim in names:
            raise SimulatorError(f"variable {dim!r} has the name of a batch dim; rename it")
    sizes: dict[str, tuple[int, str]] = dict.fromkeys(batch, (-1, "the batch"))
    for variable in variables:
        for dim, size in zip(found[variable.name], variable.sample_shape, strict=True):
            if dim in names:
                raise SimulatorError(
                    f"dim {dim!r} of {variable.name!r} has the name of a variable; xarray would take that variable "
                    "for its coordinate: rename one of them"
                )
            known, owner = sizes.setdefault(dim, (size, repr(variable.name)))
            if known != size:
                raise SimulatorError(
                    f"dim {dim!r} has size {size} in {variable.name!r} but belongs to {owner} "
                    f"{'' if known < 0 else f'with size {known} '}already; give the dims different names"
                )
        if len(set(found[variable.name])) < len(found[variable.name]):
            raise SimulatorError(f"dims[{variable.name!r}]={list(found[variable.name])} names one dim twice")
    for dim, values in coords.items():
        _check_coord(dim, values, sizes)
    return found


def _check_coord(dim: str, values: Any, sizes: Mapping[str, tuple[int, str]]) -> None:
    features = [name for name, (size, _) in sizes.items() if size >= 0]
    if dim not in features:
        raise SimulatorError(
            f"coords names {dim!r}, which is no feature dim of the simulator; {nearest(dim, features)}"
        )
    array = np.asarray(values)
    if array.shape != (sizes[dim][0],):
        raise SimulatorError(
            f"coords[{dim!r}] has shape {array.shape}, but dim {dim!r} has size {sizes[dim][0]}; give one value for "
            "each position"
        )


@functools.lru_cache(maxsize=1024)
def can_hold(dtype: np.dtype[Any], got: np.dtype[Any], is_python: bool) -> bool:
    """Whether values of dtype ``got`` are what a variable of ``dtype`` promises.

    Python scalars, and lists of them, may be of a narrower kind (``0`` among floats); arrays and NumPy scalars must
    have the very dtype.
    """
    return got == dtype or (is_python and np.can_cast(got, dtype, "safe"))
