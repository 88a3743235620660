"""Seed whatever a user's function draws from, and leave the caller's generators as they were.

A generator that a function reaches (see ``_reach``) is replaced by one on the sub-batch's own stream: the objects on the
path to it are rebuilt around the replacement, all others stay shared. What cannot be replaced - ``numpy.random``,
``random``, and generators behind a class - is seeded in place under a lock of the whole process, and restored.
"""

import contextlib
import functools
import pickle
import random
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dasksim._reach import Reach, find_generators, instance_attributes
from dasksim._streams import Address

__all__ = ["GlobalMark", "Isolated", "global_mark"]

_lock = threading.RLock()
_n_locked_sections = 0  # how often the lock was taken; odd while it is held


class Isolated:
    """A user's function together with the generators that it reaches.

    Parameters
    ----------
    function
        Any callable.
    uses_globals
        Whether it is known to use ``numpy.random.*`` or ``random.*``.

    Attributes
    ----------
    uses_globals
        Whether the function is run under the lock, with the global generators seeded. Found from the code, at the
        probe, or later.
    n_bytes
        Bytes of the arrays that the function captures.
    """

    def __init__(self, function: Callable[..., Any], uses_globals: bool = False) -> None:
        self.function = function
        self._reach = find_generators(function)
        self.uses_globals = uses_globals or self._reach.uses_globals
        self.n_bytes = self._reach.n_bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.function, self.uses_globals)

    @contextlib.contextmanager
    def at(self, address: Address, *, watch: bool = False) -> Iterator[Callable[..., Any]]:
        """Give the function with every generator that it reaches on the stream of ``address``.

        With ``watch``, the global generators are seeded too, and ``uses_globals`` is set if the function moved them.
        """
        with contextlib.ExitStack() as stack:
            use = None
            if self.uses_globals or self._reach.in_place or watch:
                stack.enter_context(_locked())
                stack.enter_context(_seeded_in_place(self._reach, address))
                use = stack.enter_context(_seeded_globals(address))
            if self._reach.generators:
                rebuild = _Rebuild(self._reach, address)
                stack.callback(rebuild.write_back)
                yield rebuild(self.function)
            else:
                yield self.function
        if use is not None and use.happened:
            self.uses_globals = True


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    global _n_locked_sections
    with _lock:
        _n_locked_sections += 1
        try:
            yield
        finally:
            _n_locked_sections += 1


@dataclass
class _Use:
    happened: bool = False


@contextlib.contextmanager
def _seeded_globals(address: Address) -> Iterator[_Use]:
    numpy_before, python_before = np.random.get_bit_generator(), random.getstate()
    stand_in = address.numpy_global()
    np.random.set_bit_generator(stand_in)
    random.seed(address.python_global())
    numpy_seeded, python_seeded = pickle.dumps(stand_in.state), random.getstate()
    use = _Use()
    try:
        yield use
    finally:
        use.happened = pickle.dumps(stand_in.state) != numpy_seeded or random.getstate() != python_seeded
        np.random.set_bit_generator(numpy_before)
        random.setstate(python_before)


@contextlib.contextmanager
def _seeded_in_place(reach: Reach, address: Address) -> Iterator[None]:
    saved = [(obj, _get_state(obj)) for obj in reach.in_place]
    try:
        for k, obj in enumerate(reach.in_place, start=len(reach.generators)):
            _set_state(obj, _get_state(_replacement(obj, address, k)))
        yield
    finally:
        for obj, state in saved:
            _set_state(obj, state)


def _replacement(obj: Any, address: Address, k: int) -> Any:
    """Return a generator like ``obj`` (same kind, same bit generator) on the stream of ``address``."""
    if isinstance(obj, random.Random):
        return random.Random(address.hidden_int(k))
    if isinstance(obj, np.random.RandomState):
        return np.random.RandomState(type(obj._bit_generator)(address.hidden(k)))  # type: ignore[attr-defined]
    return np.random.Generator(type(obj.bit_generator)(address.hidden(k)))


def _get_state(obj: Any) -> Any:
    if isinstance(obj, random.Random):
        return obj.getstate()
    if isinstance(obj, np.random.RandomState):
        return obj._bit_generator.state  # type: ignore[attr-defined]
    return obj.bit_generator.state


def _set_state(obj: Any, state: Any) -> None:
    if isinstance(obj, random.Random):
        obj.setstate(state)
    elif isinstance(obj, np.random.RandomState):
        obj._bit_generator.state = state  # type: ignore[attr-defined]
    else:
        obj.bit_generator.state = state


class _Rebuild:
    """Rebuild the objects on the path to a generator around its replacement."""

    def __init__(self, reach: Reach, address: Address) -> None:
        self._reach = reach
        self._done: dict[int, Any] = {id(obj): _replacement(obj, address, k) for k, obj in enumerate(reach.generators)}
        self._scopes: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def __call__(self, obj: Any) -> Any:
        key = id(obj)
        if key not in self._reach.path:
            return obj
        if key not in self._done:
            self._done[key] = self._rebuild(obj)
        return self._done[key]

    def write_back(self) -> None:
        """Carry what functions assigned to their globals over to the real ones."""
        for scope, copy in self._scopes:
            ours = self._reach.names[id(scope)]
            for name in self._reach.stores.get(id(scope), ()):
                if name in copy and name not in ours:
                    scope[name] = copy[name]

    def _rebuild(self, obj: Any) -> Any:
        if isinstance(obj, types.FunctionType):
            return self._function(obj)
        if isinstance(obj, types.MethodType):
            return types.MethodType(self(obj.__func__), self(obj.__self__))
        if isinstance(obj, types.BuiltinMethodType):
            return getattr(self(obj.__self__), obj.__name__)
        if isinstance(obj, functools.partial):
            return functools.partial(self(obj.func), *self(obj.args), **self(obj.keywords))
        if isinstance(obj, tuple):
            return tuple(map(self, obj))
        if isinstance(obj, list):
            return self._fill(obj, [], lambda new: new.extend(map(self, obj)))
        if isinstance(obj, dict):
            return self._fill(obj, {}, lambda new: new.update({k: self(v) for k, v in obj.items()}))
        if isinstance(obj, types.ModuleType):
            return self._fill(obj, types.ModuleType(obj.__name__), lambda new: self._module(obj, new))
        return self._fill(obj, object.__new__(type(obj)), lambda new: self._instance(obj, new))

    def _fill(self, obj: Any, new: Any, fill: Callable[[Any], None]) -> Any:
        """Remember ``new`` before its contents are rebuilt, so that a cycle finds it."""
        self._done[id(obj)] = new
        fill(new)
        return new

    def _instance(self, obj: Any, new: Any) -> None:
        for name, value in instance_attributes(obj).items():
            object.__setattr__(new, name, self(value))

    def _module(self, module: types.ModuleType, new: types.ModuleType) -> None:
        vars(new).update(vars(module))
        for name, child in self._reach.attributes.get(id(module), {}).items():
            vars(new)[name] = self(child)

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        closure = function.__closure__
        if closure is not None:
            closure = tuple(self._cell(cell) for cell in closure)
        new = types.FunctionType(function.__code__, self._scope(function.__globals__), function.__name__, None, closure)
        self._done[id(function)] = new
        if function.__defaults__:
            new.__defaults__ = tuple(map(self, function.__defaults__))
        if function.__kwdefaults__:
            new.__kwdefaults__ = {name: self(value) for name, value in function.__kwdefaults__.items()}
        if vars(function):
            vars(new).update({name: self(value) for name, value in vars(function).items()})
        for cell, copy in zip(function.__closure__ or (), closure or (), strict=True):
            if copy is not cell:
                copy.cell_contents = self(cell.cell_contents)
        return new

    def _cell(self, cell: types.CellType) -> types.CellType:
        try:
            shared = id(cell.cell_contents) not in self._reach.path
        except ValueError:  # not filled yet
            return cell
        if shared:
            return cell
        cell_copy: types.CellType = self._done.setdefault(id(cell), types.CellType())
        return cell_copy

    def _scope(self, scope: dict[str, Any]) -> dict[str, Any]:
        names = self._reach.names.get(id(scope))
        if not names:
            return scope
        if id(scope) not in self._done:
            copy = self._done[id(scope)] = dict(scope)
            self._scopes.append((scope, copy))
            copy.update({name: self(child) for name, child in names.items()})
        copied: dict[str, Any] = self._done[id(scope)]
        return copied


@dataclass(frozen=True, eq=False)
class GlobalMark:
    """The state of the global generators at one moment."""

    n_locked_sections: int
    numpy_state: Any
    python_state: Any

    def moved(self) -> bool:
        """Whether the global generators have moved since, and no function seeded them in between."""
        now = global_mark()
        if now.n_locked_sections != self.n_locked_sections or now.n_locked_sections % 2:
            return False
        return now.python_state != self.python_state or pickle.dumps(now.numpy_state) != pickle.dumps(self.numpy_state)

    def restore(self) -> None:
        """Put the global generators back to where they were."""
        with _lock:
            np.random.get_bit_generator().state = self.numpy_state
            random.setstate(self.python_state)


def global_mark() -> GlobalMark:
    """Return the state of the global generators of ``numpy.random`` and ``random``."""
    return GlobalMark(_n_locked_sections, np.random.get_bit_generator().state, random.getstate())
