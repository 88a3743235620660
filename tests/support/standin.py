"""A stand-in for CuPy, and for a GPU: arrays that never become NumPy's by themselves, and count how often they cross.

The module is the namespace of its arrays, as ``cupy`` is. What is computed on them is counted too: a GPU starts a
kernel for each, which reads all that goes in and writes all that comes out.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.arrays import Device, GpuGenerator

__all__ = ["CROSSINGS", "KERNELS", "METHODS", "Array", "Generator", "StandInDevice", "asarray"]

#: Crossings since the list was cleared: ``"get"`` or ``"put"``, and the shape.
CROSSINGS: list[tuple[str, tuple[int, ...]]] = []

#: What was computed since the list was cleared: its name, and the bytes that were read and written.
KERNELS: list[tuple[str, int]] = []


class Array(np.lib.mixins.NDArrayOperatorsMixin):
    """An array that is not in the memory of the host, as far as others can tell."""

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self._values = values

    __cuda_array_interface__ = property(lambda self: {"shape": self.shape})
    shape = property(lambda self: self._values.shape)
    dtype = property(lambda self: self._values.dtype)
    ndim = property(lambda self: self._values.ndim)
    size = property(lambda self: self._values.size)
    nbytes = property(lambda self: self._values.nbytes)
    T = property(lambda self: Array(self._values.T))

    def get(self) -> npt.NDArray[Any]:
        """Copy it to the host."""
        CROSSINGS.append(("get", self.shape))
        return self._values.copy()

    def astype(self, dtype: Any, **options: Any) -> Any:
        return _computed("astype", self._values.astype(dtype, **options), [self._values])

    def reshape(self, *shape: Any) -> "Array":
        return Array(self._values.reshape(*shape))

    def __getitem__(self, key: Any) -> Any:
        return _computed("getitem", self._values[_plain(key)], [self._values])

    def __setitem__(self, key: Any, values: Any) -> None:
        self._values[_plain(key)] = _plain(values)
        part = self._values[_plain(key)]
        KERNELS.append(("setitem", 2 * part.nbytes))

    def __len__(self) -> int:
        return len(self._values)

    def __array__(self, *_: Any, **__: Any) -> npt.NDArray[Any]:
        raise TypeError("implicit conversion to a NumPy array is not allowed")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        others = (value for value in inputs if isinstance(value, np.ndarray) and value.ndim)
        if any(True for _ in others):
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        return _call(ufunc.__name__, getattr(ufunc, method), inputs, options, is_ufunc=True)

    def __array_function__(self, function: Callable[..., Any], _: Any, arguments: Any, options: Any) -> Any:
        return _call(function.__name__, function, arguments, options)


#: The methods of CuPy's generators.
METHODS = {
    *("random", "uniform", "integers", "beta", "binomial", "chisquare", "dirichlet", "exponential", "f", "gamma"),
    *("geometric", "hypergeometric", "logseries", "poisson", "power"),
    *("standard_exponential", "standard_gamma", "standard_normal"),
}


class Generator:
    """Draws what NumPy's generator does, by the methods that CuPy's has."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in METHODS:
            raise AttributeError(f"'Generator' object has no attribute {name!r}")
        method = getattr(self._generator, name)
        return lambda *arguments, **options: _call(name, method, arguments, options)


def asarray(value: Any, dtype: Any = None) -> Array:
    """Copy a value to the stand-in, if it is not there."""
    if isinstance(value, Array):
        return value if dtype is None else value.astype(dtype, copy=False)
    if isinstance(value, np.ndarray):
        CROSSINGS.append(("put", value.shape))
    return Array(np.array(value, dtype))


class StandInDevice(Device):
    """Arrays that refuse to become NumPy's by themselves."""

    xp = sys.modules[__name__]

    def put(self, value: Any) -> Any:
        return asarray(value)

    def generator(self, sequence: np.random.SeedSequence) -> GpuGenerator:
        return GpuGenerator(Generator(np.random.Generator(np.random.SFC64(sequence))))


def __getattr__(name: str) -> Any:
    found = getattr(np, name)
    if not callable(found) or isinstance(found, type):
        return found
    return lambda *arguments, **options: _call(name, found, arguments, options)


def _call(name: str, function: Callable[..., Any], arguments: Any, options: Any, is_ufunc: bool = False) -> Any:
    """Call a function of NumPy's with the values of arrays, and count it."""
    inputs, named = [*map(_plain, arguments)], {key: _plain(value) for key, value in options.items()}
    return _computed(
        name, function(*inputs, **named), inputs, may_view=not (is_ufunc or isinstance(function, np.ufunc))
    )


def _computed(name: str, made: Any, inputs: Any, may_view: bool = True) -> Any:
    """Return what was computed, and count it, unless it may be and is a view of what went in."""
    read = [part for value in inputs for part in (value if isinstance(value, list | tuple) else [value])]
    read = [part for part in read if isinstance(part, np.ndarray)]
    outputs = [part for part in (made if isinstance(made, tuple) else [made]) if isinstance(part, np.ndarray)]
    if outputs and not (may_view and any(np.may_share_memory(outputs[0], part) for part in read)):
        KERNELS.append((name, sum(part.nbytes for part in (*read, *outputs))))
    return _wrapped(made)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value._values if isinstance(value, Array) else value


def _wrapped(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_wrapped, value))
    return Array(np.asarray(value)) if isinstance(value, np.ndarray | np.generic) else value
