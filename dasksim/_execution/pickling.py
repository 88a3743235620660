"""How users' objects become bytes: by value where another process cannot import them."""

import functools
import importlib
import io
import pickle
import sys
import types
from collections import ChainMap
from collections.abc import Callable
from importlib.machinery import PathFinder
from typing import Any, ClassVar

import cloudpickle

from dasksim._streams.process_wide import by_reference

__all__ = ["dumps", "is_by_name", "loads"]

#: Unpack what :func:`dumps` packed.
loads = pickle.loads


def dumps(obj: object) -> bytes:
    """Return an object as bytes.

    The generators of the whole process go by reference: what keeps the one of ``numpy.random`` here, such as a frozen
    distribution of scipy, keeps the other process's own there, which is seeded like it. What has taken a module's place
    in ``sys.modules`` is imported there, and functions keep the name of their file, which messages tell.
    """
    with io.BytesIO() as file:
        _Pickler(file).dump(obj)
        return file.getvalue()


def is_by_name(obj: Any) -> bool:
    """Whether another process finds a function or class by its name, so that it need not be sent."""
    name = getattr(obj, "__module__", None) or "__main__"
    by_value = cloudpickle.list_registry_pickle_by_value()
    # __main__ is another module there; and as in cloudpickle, a package by value takes its modules along
    if name == "__main__" or any(f"{name}.".startswith(f"{module}.") for module in by_value):
        return False
    found: Any = sys.modules.get(name)
    for part in obj.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is obj


def _reduce_code(code: types.CodeType) -> tuple[Any, ...]:
    """Return how code is made again in its file; cloudpickle gives all the same name, which says nothing."""
    return _code_of_file, (code.co_filename, *cloudpickle.Pickler.dispatch_table[types.CodeType](code))


def _code_of_file(filename: str, make: Callable[..., types.CodeType], arguments: tuple[Any, ...]) -> types.CodeType:
    return make(*arguments).replace(co_filename=filename)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    dispatch_table: ClassVar[Any] = ChainMap({types.CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table)

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        # objects that stand in place of a module, such as one with attributes that are made when they are asked for;
        # instances of subclasses of modules too, which cloudpickle does not take for modules
        # (a copy: another thread may import meanwhile)
        modules: dict[str, Any] = dict(sys.modules)
        self._facades = {
            id(module): name
            for name, module in modules.items()
            if type(module) not in (types.ModuleType, type(None)) and _can_import(name)
        }

    def reducer_override(self, obj: Any) -> Any:
        """Return how an object is made again, or NotImplemented where the usual way will do."""
        if id(obj) in self._facades:
            return importlib.import_module, (self._facades[id(obj)],)
        # cloudpickle sends functions by value, but not those of functools.cache
        if type(obj) is _CACHED and not is_by_name(obj):
            return _cached_again, (obj.__wrapped__, obj.cache_parameters())
        if isinstance(obj, BaseException):  # not as distributed has it, which takes tracebacks along
            return obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        # before cloudpickle's own way, which copies the generator of numpy.random: nobody seeds the copy
        reduced = by_reference(obj)
        return super().reducer_override(obj) if reduced is None else reduced


def _can_import(name: str) -> bool:
    """Whether there is a file behind a name in ``sys.modules``, and the module may go by name."""
    parent = name.rpartition(".")[0]
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    try:
        return (not parent or path is not None) and PathFinder.find_spec(name, path) is not None
    except (ImportError, ValueError):
        return False


_CACHED: Any = type(functools.cache(len))


def _cached_again(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)
