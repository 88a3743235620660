"""What a simulator returns: the names, dims, dtypes and per-sample shapes of its variables."""

import functools
import math
import operator
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dasksim._core.arrays import device_named, dtype_of
from dasksim._core.failures import VALID
from dasksim._core.labelled import Labels, plain
from dasksim.errors import ArgumentError, ArgumentTypeError, DasksimError, OutputError

__all__ = [
    "RESERVED",
    "Variable",
    "as_values",
    "brief",
    "can_hold",
    "check_name",
    "declared_variables",
    "is_supported",
    "unstorable",
]

#: Names that functions ask for and that no variable can have.
RESERVED = frozenset({"rng", "seed", "seed32", "random_state", "xp", "batch_shape"})

_NUMERIC_KINDS = "biufc"

# File systems allow no more.
_MOST_NAME_BYTES = 255


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
    plates
        Names of the axes between ``batch`` and the features, such as further batch axes and the nodes of a graph.
    ragged
        The feature axes whose size may differ between sub-batches or samples; ``shape`` then holds the largest.
    fill_value
        What stands beyond the size of a sample along these.
    is_hidden
        Whether it is no variable of the dataset but passes between stages; its name holds a ``/``, as no user's does.
    counts
        What it counts, to be summed over all sub-batches: ``"proposals"`` or ``"accepted"``; such a one is hidden.
    sizes_of
        The variable whose sizes along its ragged axes it holds, if it does.
    labels
        What its values say of themselves, where the function returns DataArrays or quantities.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_shared: bool = False
    is_python: bool = False
    is_expanded: bool = False
    plates: tuple[str, ...] = ()
    ragged: frozenset[int] = frozenset()
    fill_value: Any = 0
    is_hidden: bool = False
    counts: str = ""
    sizes_of: str = ""
    labels: Labels | None = field(default=None, compare=False)

    @property
    def is_count(self) -> bool:
        """Whether it counts something."""
        return bool(self.counts)

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

    def sizes(self) -> "Variable":
        """Return the variable of its sizes along ragged axes: one number, or one for each of several axes."""
        shape = (len(self.ragged),) if len(self.ragged) > 1 else ()
        name = f"{self.name}_size"
        return Variable(name, shape, np.dtype("int64"), self.is_shared, plates=self.plates, sizes_of=self.name)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether values of one sample may have the shape."""
        if shape == self.shape:
            return True
        return len(shape) == len(self.shape) and all(
            got <= most if axis in self.ragged else got == most
            for axis, (got, most) in enumerate(zip(shape, self.shape, strict=True))
        )

    def __str__(self) -> str:
        return f"{self.name}: shape {self.shape}, {self.dtype}"


def check_name(name: object, where: str, error: type[DasksimError] = OutputError) -> None:
    """Raise ``error`` if ``name`` cannot be the name of a variable."""
    if not isinstance(name, str):
        raise error(f"{where} the variable {name!r}; names of variables must be strings")
    if name in RESERVED or name == "batch":
        raise error(
            f"{where} the variable {name!r}, a name that dasksim gives a meaning of its own; rename the variable"
        )
    if name == VALID:
        raise error(
            f"{where} the variable {name!r}, the name of the mask that stores have of samples that failed; rename the "
            "variable"
        )
    if not name or "/" in name or name.startswith(("_", ".")):
        raise error(
            f"{where} the variable {name!r}; a name cannot be empty, contain '/' or begin with '_' or '.', since it "
            "names an array in a store"
        )
    wrong = unstorable(name)
    if wrong:
        raise error(f"{where} the variable {name[:100]!r}; a name cannot {wrong}, since it names an array in a store")


def unstorable(name: str) -> str:
    """Return why a folder, an object store or Zarr cannot hold an array of the name, or nothing."""
    # first: surrogates have no encoding, whose length is asked for below
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return "contain control characters or surrogates"
    if "\\" in name:
        return "contain '\\'"
    if len(name.encode()) > _MOST_NAME_BYTES:
        return f"be longer than {_MOST_NAME_BYTES} bytes"
    # Zarr's own files: metadata, and what is not written whole yet
    if name == "zarr.json" or name.endswith(".partial"):
        return "be 'zarr.json' or end with '.partial'"
    return ""


def as_values(value: Any, name: str, where: str, device: str = "cpu") -> Any:
    """Return ``value`` as a numeric array of a device, of native byte order; ``where`` begins the message if not."""
    if isinstance(value, np.ma.MaskedArray):
        raise OutputError(
            f"{where} returned {name!r} as a masked array, whose mask would be lost; fill it, or return the mask as a "
            "variable of its own"
        )
    value = plain(value, None, name, where)
    try:
        array = device_named(device).put(value)
        dtype = dtype_of(array)
    except ValueError as error:
        raise OutputError(f"{where} returned {name!r} as rows of different shapes: {error}") from error
    if not is_supported(dtype):
        raise OutputError(
            f"{where} returned {name!r} as {brief(value)} of dtype {array.dtype}; variables must be boolean or "
            "numeric arrays, at most float64 or complex128"
        )
    return array.astype(dtype.newbyteorder("="), copy=False) if isinstance(array, np.ndarray) else array


def is_supported(dtype: np.dtype[Any]) -> bool:
    """Whether a variable can have the dtype: boolean or numeric, with a meaning that all machines agree on."""
    return dtype.kind in _NUMERIC_KINDS and dtype.itemsize <= (16 if dtype.kind == "c" else 8)


def brief(value: object) -> str:
    """Return a value's type and the beginning of its repr."""
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
        # NumPy takes None for float64; as objects it is refused below
        variable = Variable(name, sizes, np.dtype("O" if dtype is None else dtype).newbyteorder("="))
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(
            f"schema[{name!r}] must be a pair (shape of one sample, dtype), such as ((3,), 'float64'); got {entry!r}"
        ) from error
    if not is_supported(variable.dtype) or min(sizes, default=1) < 1:
        raise ArgumentError(f"schema[{name!r}] must have sizes >= 1 and a boolean or numeric dtype; got {entry!r}")
    return variable


@functools.lru_cache(maxsize=1024)
def can_hold(dtype: np.dtype[Any], got: np.dtype[Any], is_python: bool) -> bool:
    """Whether values of dtype ``got`` are what a variable of ``dtype`` promises.

    Python scalars, and lists of them, may be of a narrower kind (``0`` among floats); arrays and NumPy scalars must
    have the very dtype.
    """
    return got == dtype or (is_python and np.can_cast(got, dtype, "safe"))
