"""The labels of a dataset: names of dims, and coordinates."""

import numbers
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.attributes import Coordinate, as_coordinate, same_values, shown
from dasksim._core.failures import VALID
from dasksim._core.variables import Variable, unstorable
from dasksim.errors import ArgumentTypeError, SimulatorError, nearest

__all__ = [
    "check_described",
    "check_dims",
    "check_fill",
    "check_fill_value",
    "check_labels",
    "check_sizes",
    "feature_dims",
    "is_label",
    "own_coords",
    "ragged_variable",
]

#: The dim of scalars that are expanded.
SCALAR = "scalar"

# Every folder has the first two, and every store the third.
_NO_COORDS = {".", "..", "_dasksim"}


def check_labels(dims: Any, coords: Any) -> tuple[dict[str, tuple[str, ...]], dict[str, Coordinate]]:
    """Return the names of feature dims, and coordinates, as they are kept by a simulator.

    Raises
    ------
    ArgumentTypeError
        If they are no mappings, or hold something else than names and values that a store can hold.
    """
    for argument, value in (("dims", dims), ("coords", coords)):
        if not isinstance(value, Mapping | None):
            raise ArgumentTypeError(f"{argument} must be a mapping; got {value!r}")
    given = {name: (names,) if isinstance(names, str) else names for name, names in (dims or {}).items()}
    for name, names in given.items():
        if not isinstance(names, Sequence) or not all(map(is_label, names)):
            raise ArgumentTypeError(
                f"dims[{name!r}] must be a name or a list of names, such as ['time'], none of them empty or with "
                f"'/'; got {dims[name]!r}"
            )
    for name in coords or {}:
        wrong = unstorable(name) if is_label(name) else ""
        if wrong or name in _NO_COORDS:
            raise ArgumentTypeError(
                f"coords has labels of {name[:100]!r}, whose name cannot "
                f"{wrong or 'be that of a folder'}, since it names an array in a store"
            )
    return {name: tuple(names) for name, names in given.items()}, {
        name: as_coordinate(name, values) for name, values in (coords or {}).items()
    }


def check_sizes(max_sizes: Any) -> dict[str, int]:
    """Return declared largest sizes of dims.

    Raises
    ------
    ArgumentTypeError
        If they are no mapping of names to integers >= 1.
    """
    if not isinstance(max_sizes, Mapping | None):
        raise ArgumentTypeError(f"max_sizes must be a mapping, such as {{'obs': 100}}; got {max_sizes!r}")
    for dim, size in (max_sizes or {}).items():
        if not is_label(dim) or isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise ArgumentTypeError(f"max_sizes must map names of dims to integers >= 1; got {max_sizes!r}")
    return {dim: int(size) for dim, size in (max_sizes or {}).items()}


def check_fill_value(fill_value: Any) -> Any:
    """Return a fill value.

    Raises
    ------
    ArgumentTypeError
        If it is no number.
    """
    if not isinstance(fill_value, numbers.Number | np.bool_):
        raise ArgumentTypeError(f"fill_value must be a number; got {fill_value!r}")
    return fill_value


def check_fill(variable: Variable, max_sizes: Mapping[str, int], fill_value: Any) -> None:
    """Refuse a fill value that a variable whose size may differ cannot hold.

    Raises
    ------
    SimulatorError
        If it cannot.
    """
    if not variable.ragged and not set(variable.plates) & set(max_sizes):
        return
    # NumPy would warn of NaN as an integer, which is refused below
    with np.errstate(invalid="ignore"):
        held = np.asarray(fill_value).astype(variable.dtype)
    if not np.array_equal(held, np.asarray(fill_value), equal_nan=variable.dtype.kind in "fc"):
        raise SimulatorError(
            f"variable {variable.name!r} has dtype {variable.dtype}, which cannot hold fill_value={fill_value!r} "
            "beyond the size of a sub-batch; give make_simulator one that it can hold, such as fill_value=-1, or "
            "return floats"
        )


def is_label(name: object) -> bool:
    """Whether something can be the name of a dim."""
    return isinstance(name, str) and name != "" and "/" not in name


def feature_dims(variable: Variable, dims: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the given names of a variable's feature dims, else ``{variable}_dim_{i}``.

    All scalars that are expanded have one dim, since xarray would align none of many.
    """
    given = dims.get(variable.name)
    if given is None and variable.is_expanded and not variable.shape:
        return (SCALAR,)
    if given is None and variable.labels is not None and variable.labels.dims:
        return variable.labels.feature_dims(variable.name)
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
    coords: Mapping[str, Coordinate],
    plates: Mapping[str, int],
    max_sizes: Mapping[str, int],
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
    _check_no_mask(plates, found)
    for dim in ("batch", *plates):
        if dim in names:
            raise SimulatorError(
                f"variable {dim!r} has the name of a dim, along which samples or stages are repeated; rename one "
                "of them"
            )
    # no feature dim has size -1, so that none can be called batch
    sizes: dict[str, tuple[int, str]] = {"batch": (-1, "the batch")}
    sizes.update({plate: (size, "the stages") for plate, size in plates.items()})
    for variable in variables:
        for dim, size in zip(found[variable.name], variable.sample_shape, strict=True):
            # along a single dim of its own name xarray would even compute the variable when the dataset is made
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
    for name, coordinate in coords.items():
        _check_coord(name, coordinate, sizes, names)
    others = [name for name in sizes if name != "batch"]
    for dim in set(max_sizes) - set(others):
        raise SimulatorError(f"max_sizes names {dim!r}, which is no dim of the simulator; {nearest(dim, others)}")
    return found


def _check_no_mask(plates: Iterable[str], features: Mapping[str, Iterable[str]]) -> None:
    if VALID in plates or any(VALID in dims for dims in features.values()):
        raise SimulatorError(
            f"dim {VALID!r} has the name of the mask that stores have of samples that failed; rename it"
        )


def ragged_variable(
    variable: Variable, dims: Mapping[str, Sequence[str]], max_sizes: Mapping[str, int], fill_value: Any
) -> Variable:
    """Return a variable with the declared largest sizes of its dims.

    Raises
    ------
    SimulatorError
        If it is larger.
    """
    # a scalar that is expanded has a dim in the dataset, but no axis whose size could differ
    names = () if variable.is_hidden or not variable.shape else feature_dims(variable, dims)
    loose = [name for axis, name in enumerate(names) if axis in variable.ragged and name not in max_sizes]
    if loose:
        raise SimulatorError(
            f"variable {variable.name!r} differs in size between samples along {loose[0]!r}; add "
            f"max_sizes={{{loose[0]!r}: <the largest size>}} to the simulator to fill the rest"
        )
    if not max_sizes or not names:
        return variable
    ragged = frozenset(axis for axis, name in enumerate(names) if name in max_sizes)
    for axis in ragged:
        if variable.shape[axis] > max_sizes[names[axis]]:
            raise SimulatorError(
                f"variable {variable.name!r} has size {variable.shape[axis]} along {names[axis]!r}, more than "
                f"max_sizes[{names[axis]!r}]={max_sizes[names[axis]]}; give a larger one"
            )
    shape = tuple(max_sizes[names[axis]] if axis in ragged else size for axis, size in enumerate(variable.shape))
    return replace(variable, shape=shape, ragged=ragged, fill_value=fill_value)


def _check_coord(
    name: str, coordinate: Coordinate, sizes: Mapping[str, tuple[int, str]], variables: Sequence[str]
) -> None:
    features = [dim for dim, (size, _) in sizes.items() if size >= 0]
    dim = coordinate.dims[0]
    if dim not in features:
        raise SimulatorError(
            f"coords names {dim!r}, which is no feature dim of the simulator; {nearest(dim, features)}"
        )
    if name != dim and (name in variables or name in sizes or name == VALID or not is_label(name) or name[:1] in "_."):
        raise SimulatorError(
            f"coords has {name!r} along {dim!r}, which is the name of a variable or of another dim, or one that no "
            "array in a store can have; rename it"
        )
    if name != dim and len(name.split()) != 1:
        raise SimulatorError(f"coords has {name!r} along {dim!r}; xarray finds it in a store by a name without spaces")
    if coordinate.values.shape != (sizes[dim][0],):
        raise SimulatorError(
            f"coords[{name!r}] has shape {coordinate.values.shape}, but dim {dim!r} has size {sizes[dim][0]}; give one "
            "value for each position"
        )


def own_coords(
    variables: Sequence[Variable], dims: Mapping[str, Sequence[str]], given: Mapping[str, Coordinate]
) -> dict[str, Coordinate]:
    """Return the coordinates that values have of themselves, but for those that are given, along the dims in use.

    Raises
    ------
    SimulatorError
        If two variables have different ones, sizes differ along their dim, or given ones are the same in another order.
    """
    found: dict[str, tuple[Coordinate, str]] = {}
    for variable in variables:
        if variable.labels is None:
            continue
        own = variable.labels.dims[variable.labels.n_axes :]
        used = dict(zip(own, enumerate(feature_dims(variable, dims)), strict=False))
        for label, coordinate in variable.labels.coords.items():
            axis, dim = used[coordinate.dims[0]]
            name = dim if label == coordinate.dims[0] else label
            if name in given:
                _check_order(variable.name, name, coordinate.values, given[name].values)
                continue
            if axis in variable.ragged:
                raise SimulatorError(
                    f"variable {variable.name!r} has the coordinate {name!r} along {dim!r}, along which sizes differ; "
                    f"return it as a variable, or drop it (drop_vars({label!r}))"
                )
            known, owner = found.setdefault(name, (coordinate._replace(dims=(dim,)), variable.name))
            if known.dims != (dim,) or not same_values(known.values, coordinate.values):
                raise SimulatorError(
                    f"variables {owner!r} and {variable.name!r} have different coordinates {name!r}; give the "
                    f"right one with coords={{{name!r}: ...}}, or rename a dim"
                )
    return {name: coordinate for name, (coordinate, _) in found.items()}


def _check_order(variable: str, name: str, own: npt.NDArray[Any], given: npt.NDArray[Any]) -> None:
    """Refuse labels that are given in another order than a value has them, which would then be those of others."""
    if not same_values(own, given) and Counter(own.tolist()) == Counter(given.tolist()):
        raise SimulatorError(
            f"variable {variable!r} is returned with the labels {shown(own)} of {name!r}, which coords has in another "
            f"order, {shown(given)}; give them in the order in which they are returned, or leave them out"
        )


def check_described(attrs: Iterable[str], variables: Sequence[str], coords: Iterable[str]) -> None:
    """Refuse attributes of what is neither a variable nor a coordinate.

    Raises
    ------
    SimulatorError
        If there are some.
    """
    known = [*variables, *coords]
    for name in attrs:
        if name not in known:
            raise SimulatorError(
                f"attrs names {name!r}, which is neither a variable nor a coordinate; {nearest(name, known)}"
            )
