"""Devices: where a stage computes, with which array namespace and generators, and the way to the host and back.

The host computes with NumPy, a GPU with CuPy. What is common to both is written against the array API standard.
"""

import functools
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim.errors import ArgumentError

__all__ = [
    "DEVICES",
    "Device",
    "GpuGenerator",
    "as_host",
    "cast",
    "choose_device",
    "concat",
    "device_named",
    "dtype_of",
    "is_lazy",
    "namespace_of",
    "read_only",
    "select_rows",
    "shown",
]

#: The kinds of device that a stage may run on.
DEVICES = ("cpu", "gpu")

# Threads of a GPU that draw: which of them draws which number follows from it, so that it is the same on all GPUs.
_DRAWING_THREADS = 1 << 16

# Elements of an array that are all shown.
_MOST_SHOWN = 20


class Device(ABC):
    """Where a stage computes.

    Attributes
    ----------
    xp
        The array namespace that functions receive.
    """

    xp: ModuleType

    @abstractmethod
    def put(self, value: Any) -> Any:
        """Return a value as an array of the device, copied there if it is not."""

    @abstractmethod
    def generator(self, sequence: np.random.SeedSequence) -> Any:
        """Return the generator that functions receive as ``rng``."""


class _Host(Device):
    xp = np

    def put(self, value: Any) -> Any:
        return as_host(value)

    def generator(self, sequence: np.random.SeedSequence) -> np.random.Generator:
        # SFC64 draws 1.1 to 1.3 times as fast as PCG64, and 1.4 to 2.6 times as fast as Philox.
        return np.random.Generator(np.random.SFC64(sequence))


class _Gpu(Device):
    def __init__(self) -> None:
        import cupy

        self.xp = cupy

    def put(self, value: Any) -> Any:
        return self.xp.asarray(value)

    def generator(self, sequence: np.random.SeedSequence) -> "GpuGenerator":
        random: Any = self.xp.random
        return GpuGenerator(random.Generator(random.Philox4x3210(_Wide.of(sequence), size=_DRAWING_THREADS)))


class GpuGenerator:
    """CuPy's generator, and the method ``normal``, which it lacks.

    Parameters
    ----------
    generator
        A ``cupy.random.Generator``.
    """

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: Any = None) -> Any:
        """Draw from normal distributions, as :meth:`numpy.random.Generator.normal` does."""
        if size is None:
            size = np.broadcast_shapes(*(getattr(value, "shape", ()) for value in (loc, scale)))
        return self._generator.standard_normal(size) * scale + loc

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(self._generator, name)
        except AttributeError as error:
            error.add_note(
                "the generators of CuPy lack some methods of NumPy's; draw in another way, or declare that the "
                "function runs on the host (can_use_gpu=False)"
            )
            raise


class _Wide(np.random.SeedSequence):
    """A seed sequence of which CuPy's generators, which ask for 32 bits, take 63: those that their kernels hold."""

    @classmethod
    def of(cls, sequence: np.random.SeedSequence) -> "_Wide":
        return cls(sequence.entropy, spawn_key=sequence.spawn_key)

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> npt.NDArray[Any]:
        return super().generate_state(n_words, np.uint64) >> np.uint64(1)


_HOST = _Host()


@functools.cache
def _open_gpu() -> Device:
    if reason := _why_no_gpu():
        raise ArgumentError(f"device='gpu', but no GPU can be used here: {reason}")
    return _Gpu()


def device_named(kind: str) -> Device:
    """Return a device of this process.

    Raises
    ------
    ArgumentError
        If there is none of the kind.
    """
    return _HOST if kind == "cpu" else _open_gpu()


def choose_device(device: object, can_use_gpu: bool) -> str:
    """Return the kind of device that is meant.

    Raises
    ------
    ArgumentError
        If a GPU is asked for in vain, or the word is another one.
    """
    if device == "auto":
        return "gpu" if can_use_gpu and _why_no_gpu() is None else "cpu"
    if device not in DEVICES:
        raise ArgumentError(f"device must be 'auto', 'cpu' or 'gpu'; got {device!r}")
    if device == "gpu" and not can_use_gpu:
        raise ArgumentError(
            "device='gpu', but no stage of the simulator can run on a GPU; a batched function can if it takes xp, the "
            "array namespace, and computes with that"
        )
    return str(device)


def _why_no_gpu() -> str | None:
    """Return why there is no usable GPU in this process, or None if there is one."""
    return _ask_cupy(os.getpid())


@functools.cache
def _ask_cupy(process: int) -> str | None:  # a forked process cannot use the GPU that its parent uses
    if os.environ.get("CUPY_CUDA_PER_THREAD_DEFAULT_STREAM", "0") != "0":
        return "CUPY_CUDA_PER_THREAD_DEFAULT_STREAM is set, and threads would read each other's arrays too early"
    try:
        import cupy
    except ImportError as error:
        return f"CuPy cannot be imported ({error}); pip install 'dasksim[gpu]' installs it"
    try:
        (cupy.arange(2) + 1).get()  # needs a driver, a GPU with memory, and a compiler of kernels
    except Exception as error:  # noqa: BLE001
        return f"CuPy cannot compute ({type(error).__name__}: {error})"
    return None


def is_lazy(value: object) -> bool:
    """Whether a value is a Dask array, of which there is none before ``dask.array`` is imported."""
    arrays = sys.modules.get("dask.array")
    return arrays is not None and isinstance(value, arrays.Array)


def as_host(value: Any) -> npt.NDArray[Any]:
    """Return ``value`` as a NumPy array; arrays of other libraries are copied to the host."""
    if isinstance(value, np.ndarray):
        return value
    # CuPy's arrays refuse to become NumPy's by themselves
    if hasattr(value, "__cuda_array_interface__") and hasattr(value, "get"):
        return np.asarray(value.get())
    return np.asarray(value)


def namespace_of(array: Any) -> Any:
    """Return the array namespace that an array belongs to."""
    if isinstance(array, np.ndarray):
        return np
    if hasattr(array, "__cuda_array_interface__"):  # CuPy 13 has no __array_namespace__
        return sys.modules[type(array).__module__.partition(".")[0]]
    return array.__array_namespace__() if hasattr(array, "__array_namespace__") else np


def dtype_of(array: Any) -> np.dtype[Any]:
    """Return the dtype of an array as NumPy's.

    Raises
    ------
    TypeError
        If NumPy has none like it.
    """
    # a dtype of another namespace is told by the end of its name, such as `namespace.float64`
    dtype = array.dtype
    return dtype if isinstance(dtype, np.dtype) else np.dtype(str(dtype).rpartition(".")[2])


def cast(array: Any, dtype: np.dtype[Any]) -> Any:
    """Return an array in another dtype, itself if it has that."""
    if isinstance(array, np.ndarray):
        return array.astype(dtype, copy=False)
    if dtype_of(array) == dtype:
        return array
    xp = namespace_of(array)
    # by the namespace's own dtype of that name: the array API standard knows none of NumPy's
    return xp.asarray(array, dtype=getattr(xp, dtype.name, dtype))


def concat(arrays: Sequence[Any], xp: Any, axis: int = 0) -> Any:
    """Join arrays along an axis; CuPy 13 knows the standard's ``concat`` by NumPy's older name."""
    join = getattr(xp, "concat", None) or xp.concatenate
    return join(list(arrays), axis=axis)


def select_rows(array: Any, rows: npt.NDArray[np.intp]) -> Any:
    """Return some rows of an array, by number, where it is."""
    xp = namespace_of(array)
    return xp.take(array, xp.asarray(rows), axis=0)


def read_only(value: Any) -> Any:
    """Return a view that cannot be written to; arrays of other libraries than NumPy have none."""
    if isinstance(value, np.ndarray):
        if not value.ndim:
            # a scalar of NumPy's, to which nobody can write
            return value[()]
        # a view, so that whoever made the array can still write to it
        value = value.view()
        value.flags.writeable = False
    return value


def shown(value: Any) -> str:
    """Return an array as text, with all digits that tell a number from others: what differs looks different."""
    array = np.asarray(value)
    if array.size <= _MOST_SHOWN:
        return np.array2string(array, floatmode="unique").replace("\n", "\n" + " " * 11)
    ends = np.array2string(array.ravel(), threshold=0, edgeitems=3, floatmode="unique", max_line_width=1000)
    return f"{ends} of shape {array.shape}"
