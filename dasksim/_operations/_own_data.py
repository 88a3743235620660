"""Refuse what reads from the store that a call writes to, or removes: it would find fill values, or nothing.

Lazy conditions and functions keep arrays of stores, which are read when a chunk is simulated. What a graph or a
function reaches is followed through whatever holds it; nothing is computed.
"""

import dis
import gc
import os
from collections.abc import Collection, Iterator, Mapping
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import numpy as np

from dasksim._core.arrays import is_lazy
from dasksim.errors import ArgumentError
from dasksim.store import Store

__all__ = ["refuse_own_conditions", "refuse_own_functions"]

# What leads to all else in a process, and what leads nowhere.
_NO_WAY = (ModuleType, type, FrameType, CodeType, BuiltinFunctionType, bytes, int, float, complex, np.generic)

# Packages whose objects lead to all that the client of a cluster, or a log, knows of.
_AMBIENT = {"_thread", "asyncio", "concurrent", "distributed", "logging", "threading", "tornado"}

# Packages whose functions do not keep data of users in the globals of their modules.
_LIBRARIES = {"dask", "dasksim", "numpy", "xarray", "zarr"}


def refuse_own_conditions(conditions: Mapping[str, Any], store: Store) -> None:
    """Refuse conditions that would be read from the store that is written to, chunk by chunk.

    Raises
    ------
    ArgumentError
        If one would.
    """
    for name, condition in conditions.items():
        if is_lazy(condition.values) and _paths_read(condition.values, store):
            raise ArgumentError(
                f"condition {name!r} is lazy and reads from the store at {store.name!r}, which this call writes to; "
                "give it computed, as .compute() or .load() return it, or choose another path"
            )


def refuse_own_functions(functions: object, store: Store, removed: Collection[str] | None = None) -> None:
    """Refuse functions that keep arrays of a store that are removed before they run.

    Raises
    ------
    ArgumentError
        If one does.
    """
    found = {path.partition("/")[0] for path in _paths_read(functions, store)}
    # what stays may be read; the empty path, all of the store, leads to what goes too
    read = found if removed is None else found & {"", *removed}
    if read:
        what = ", ".join(map(repr, sorted(filter(None, read)))) or "arrays"
        raise ArgumentError(
            f"a function keeps {what} of the store at {store.name!r}, which overwrite=True removes before the "
            "function runs; load what it needs first, as .compute() or .load() return it, or choose another path"
        )


def _paths_read(value: object, store: Store) -> set[str]:
    """Return the paths in a store at which arrays lie that a value reaches; the empty path stands for all of it."""
    found: set[str] = set()
    seen: dict[int, object] = {}  # what they hold cannot be freed, and its id taken by another
    todo = [(value, True)]
    while todo:
        obj, is_data = todo.pop()
        if id(obj) in seen or isinstance(obj, _NO_WAY) or _package(type(obj)) in _AMBIENT:
            continue
        seen[id(obj)] = obj
        if Store.is_place(obj):
            continue
        if isinstance(obj, str | os.PathLike) and not is_data:  # a setting may name any path
            continue
        path = store.path_of(obj)
        if path is not None:
            found.add(path)
        elif isinstance(obj, FunctionType):
            # not by its referents, which lead to all globals of its module
            todo.extend((kept, False) for kept in _kept(obj))
        elif isinstance(obj, np.ndarray) and obj.dtype.hasobject:
            # the garbage collector does not know what such an array holds
            todo.append((obj.tolist(), is_data))
        else:
            todo.extend((held, is_data) for held in gc.get_referents(obj))
    return found


def _kept(function: FunctionType) -> Iterator[object]:
    """Return what a function keeps, the globals that it names included."""
    yield from (function.__closure__, function.__defaults__, function.__kwdefaults__, vars(function))
    if _package(function) not in _LIBRARIES:
        scope = function.__globals__
        yield from (scope[name] for name in _global_names(function.__code__) if name in scope)


def _global_names(code: CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)


def _package(obj: Any) -> str:
    return str(getattr(obj, "__module__", "")).partition(".")[0]
