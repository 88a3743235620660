"""Seed whatever a user's function draws from, and leave the caller's generators as they were.

A generator that a function reaches (see ``_finding``) is replaced by one on dasksim's streams, which moves from sample
to sample where the function is called for each: the objects on the path to it are rebuilt around the replacement, all
others stay shared. ``random`` is such a generator too. What
cannot be replaced - ``numpy.random``, and generators behind a class - is seeded in place under a lock of the whole
process, and restored.

What a function assigns to an attribute or an item of a rebuilt object is forgotten after the sub-batch, so that no
sub-batch depends on another.
"""

import contextlib
import functools
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np

from dasksim._core.blas import one_blas_thread
from dasksim._streams._finding import Reach, find_generators, instance_attributes
from dasksim._streams._sources import Seed, halves_of, integer_of, put_at, replacement, restore, state_of
from dasksim._streams.addresses import HIDDEN_CHILD, NUMPY_CHILD, PYTHON_CHILD, SOURCES_CHILD, Address
from dasksim._streams.cells import CellStreams, Moves
from dasksim._streams.libraries import Library, add_libraries, registered_libraries
from dasksim._streams.process_wide import GlobalMark, GlobalStreams, global_streams, locked

__all__ = ["Isolated", "run_all"]

T = TypeVar("T")

# A stream, as what gives what seeds one of its children.
Stream: TypeAlias = Callable[[int], Seed]


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

    @property
    def draws(self) -> bool:
        """Whether it is known to draw from a generator that it reaches, or from the global ones."""
        return bool(self.uses_globals or self._reach.generators or self._reach.in_place)

    @property
    def sources(self) -> tuple[str, ...]:
        """What it is known to draw from, besides its arguments."""
        found = [*self._reach.generators.values(), *self._reach.in_place.values()]
        kinds = [f"a {type(source).__name__} that it reaches" for source in found]
        of_process = ["the generators of the process, such as numpy.random's"] if self.uses_globals else []
        return (*dict.fromkeys(kinds), *of_process)

    @property
    def is_of_process(self) -> bool:
        """Whether it names something that differs from process to process, such as a set of strings."""
        return self._reach.is_of_process

    def __reduce__(self) -> tuple[Any, ...]:
        # what it reaches is found again where it arrives: ids are those of one process
        return _arrived, (self.function, self.uses_globals, registered_libraries())

    @contextlib.contextmanager
    def at(self, address: Address, *, watch: bool = False) -> Iterator[Callable[..., Any]]:
        """Give the function with every generator that it reaches on the stream of ``address``.

        With ``watch``, the global generators are seeded too, and ``uses_globals`` is set if the function moved them.
        """
        with self._placed(address.sequence, watch) as (function, put):
            if put is not None:
                put(address.sequence)
            yield function

    @contextlib.contextmanager
    def at_cells(
        self, streams: CellStreams, *, watch: bool = False
    ) -> Iterator[tuple[Callable[..., Any], Moves | None]]:
        """Give the function, and what puts every generator that it reaches on the stream of each cell in turn."""
        with self._placed(streams.child, watch, moves=True) as (function, put):
            yield function, None if put is None else functools.partial(_moving, put, streams)

    @contextlib.contextmanager
    def _placed(
        self, first: Stream, watch: bool, *, moves: bool = False
    ) -> Iterator[tuple[Callable[..., Any], Callable[[Stream], None] | None]]:
        """Give the function, and what puts on a stream what it reaches and is not, or is to be moved on."""
        # anew each time: what a function assigns to rebuilt objects must not reach the next sub-batch
        rebuild = _Rebuild(self._reach, first) if self._reach.generators else None
        function = rebuild(self.function) if rebuild is not None else self.function
        rebuilt = rebuild.sources() if rebuild is not None and moves else []
        in_place = [(source, k) for k, source in self._reach.in_place.items()]
        if not (self.uses_globals or in_place or watch):
            # nothing of the process is touched, so that threads need not wait for each other; but C code that they
            # call by the sample may not bear it: a seed and what is drawn after it are two calls
            with locked() if moves and self._reach.calls_c else contextlib.nullcontext():
                yield function, (lambda stream: _put(rebuilt, stream)) if rebuilt else None
            return
        process: GlobalStreams | None = None
        try:
            with (
                locked(),
                _restored([source for source, _ in in_place]),
                global_streams(watch=not self.uses_globals) as process,
            ):

                def put(stream: Stream) -> None:
                    _put(rebuilt, stream)
                    _put(in_place, stream)
                    process.put(
                        halves_of(stream(NUMPY_CHILD)),
                        integer_of(stream(PYTHON_CHILD)),
                        lambda number: integer_of(stream(SOURCES_CHILD + number)),
                    )

                yield function, put
        finally:
            self.uses_globals = self.uses_globals or (process is not None and process.are_used)


def _arrived(function: Callable[..., Any], uses_globals: bool, libraries: Sequence[Library]) -> Isolated:
    """Return a function in another process, to which libraries that were registered come with it."""
    add_libraries(libraries)
    return Isolated(function, uses_globals)


def _moving(put: Callable[[Stream], None], streams: CellStreams, values: Iterable[T]) -> Iterator[T]:
    """Give values, one a cell, each once all has been put on the stream of the cell."""
    for cell, value in enumerate(values):
        streams.move(cell)
        put(streams.child)
        yield value


def _put(sources: Iterable[tuple[Any, int]], stream: Stream) -> None:
    """Put numbered sources on their child streams."""
    for source, number in sources:
        put_at(source, stream(HIDDEN_CHILD + number))


class _Guard:
    """Runs work that calls certain functions, and finds out if one of them moves the generators of the process."""

    def __init__(self, functions: frozenset[Isolated]) -> None:
        self._functions = functions
        self._changed = threading.Condition()
        self._n_runs = 0  # runs that began without the lock and have not ended
        self._free: set[_Run] = set()  # those of them that are not being done again
        self._mark: GlobalMark | None = None  # the generators of the process before the first of them

    def run(self, work: Callable[[bool], T]) -> T:
        """Return what :func:`run_all` does."""
        run = self._begin()
        if run is None:
            return work(False)
        try:
            try:
                result = work(False)
            except Exception:
                # an error too may follow from what was drawn: that of the second run counts
                if not self._is_suspect(run):
                    raise
            else:
                if not self._is_suspect(run):
                    return result
            return work(True)
        finally:
            self._end(run)

    def _begin(self) -> "_Run | None":
        with self._changed:
            # what began while another is done again could move the generators, and its functions be blamed for it
            self._changed.wait_for(lambda: not self._unseeded() or len(self._free) == self._n_runs)
            unseeded = self._unseeded()
            if not unseeded:
                # all of them run under the lock already: there is nothing to find out
                return None
            if not self._n_runs:
                self._mark = GlobalMark.now()
            run = _Run(unseeded)
            self._n_runs += 1
            self._free.add(run)
            return run

    def _unseeded(self) -> list[Isolated]:
        return [function for function in self._functions if not function.uses_globals]

    def _is_suspect(self, run: "_Run") -> bool:
        with self._changed:
            # before it waits for the others, or two would wait for each other
            self._free.discard(run)
            self._changed.notify_all()
            if not run.was_wrong() and not (self._mark and self._mark.moved_by_functions()):
                return False
            self._changed.wait_for(lambda: not self._free)
            return True

    def _end(self, run: "_Run") -> None:
        with self._changed:
            self._free.discard(run)
            self._n_runs -= 1
            if self._mark and run.was_wrong():
                # only where a function drew: what the caller draws in another thread is not taken back
                self._mark.restore()
                self._mark = None
            self._changed.notify_all()


@dataclass(frozen=True, eq=False)
class _Run:
    """One run, and the functions that are called in it with the generators of the process as they are."""

    unseeded: Sequence[Isolated]

    def was_wrong(self) -> bool:
        """Whether one of them has been found to use those generators since."""
        return any(function.uses_globals for function in self.unseeded)


# The guards of the runs under way, each with its functions; threads that run the same functions share one.
_guards: "weakref.WeakValueDictionary[frozenset[Isolated], _Guard]" = weakref.WeakValueDictionary()
_finding = threading.Lock()


def run_all(functions: Iterable[Isolated], work: Callable[[bool], T]) -> T:
    """Return ``work(watch)``, which calls functions by :meth:`Isolated.at`, done again if it moved ``numpy.random``.

    Either the probe did not see that one of them uses it, or the caller drew in another thread: the second run, which
    watches each, finds out which. It waits until no first run is left that could draw in between. What it misses: a
    function that starts to use them in one thread while another function has them seeded in a second thread.
    """
    key = frozenset(functions)
    # two threads must not make two guards for the same functions
    with _finding:
        guard = _guards.setdefault(key, _Guard(key))
    with one_blas_thread():
        return guard.run(work)


@contextlib.contextmanager
def _restored(sources: Sequence[Any]) -> Iterator[None]:
    """Put sources back to where they were when the block ends."""
    saved = [(source, state_of(source)) for source in sources]
    try:
        yield
    finally:
        # in reverse, since two may share a state, as a generator and its bits do
        for source, state in reversed(saved):
            restore(source, state)


class _Rebuild:
    """Rebuild the objects on the path to a generator around its replacement."""

    def __init__(self, reach: Reach, stream: Stream) -> None:
        self._reach = reach
        self._done: dict[int, Any] = {
            id(obj): replacement(obj, stream(HIDDEN_CHILD + k)) for k, obj in reach.generators.items()
        }

    def sources(self) -> list[tuple[Any, int]]:
        """Return the generators that it puts in place of others, with their numbers."""
        return [(self._done[id(obj)], k) for k, obj in self._reach.generators.items()]

    def __call__(self, obj: Any) -> Any:
        key = id(obj)
        if key not in self._reach.path:
            return obj
        if key not in self._done:
            self._done[key] = self._rebuild(obj)
        return self._done[key]

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
            # a cycle through it closes in something else, which is remembered
            return tuple(map(self, obj))
        if isinstance(obj, list):
            return self._fill(obj, [], lambda new: new.extend(map(self, obj)))
        if isinstance(obj, dict):
            return self._fill(obj, {}, lambda new: new.update({k: self(v) for k, v in obj.items()}))
        if isinstance(obj, types.ModuleType):
            return self._fill(obj, types.ModuleType(obj.__name__), lambda new: self._module(obj, new))
        cls: Any = type(obj)
        return self._fill(obj, cls.__new__(cls), lambda new: self._instance(obj, new))

    def _fill(self, obj: Any, new: Any, fill: Callable[[Any], None]) -> Any:
        """Remember ``new`` before its contents are rebuilt, so that a cycle finds it."""
        self._done[id(obj)] = new
        fill(new)
        return new

    def _instance(self, obj: Any, new: Any) -> None:
        for name, value in instance_attributes(obj).items():
            # past properties of the same name, and past dataclasses that are frozen
            if name in getattr(obj, "__dict__", ()):
                vars(new)[name] = self(self._reach.seeds.get((id(obj), name), value))
            else:
                object.__setattr__(new, name, self(value))
        if isinstance(obj, np.vectorize):
            new._ufunc = {}  # it keeps ufuncs made of the function that is replaced

    def _module(self, module: types.ModuleType, new: types.ModuleType) -> None:
        vars(new).update(vars(module))
        for name, child in self._reach.attributes.get(id(module), {}).items():
            vars(new)[name] = self(child)

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        closure = function.__closure__
        if closure is not None:
            closure = tuple(self._cell(cell) for cell in closure)
        new = types.FunctionType(function.__code__, self._scope(function.__globals__), function.__name__, None, closure)
        # before its parts are rebuilt, so that a recursive function finds itself
        self._done[id(function)] = new
        if function.__defaults__:
            new.__defaults__ = tuple(map(self, function.__defaults__))
        if function.__kwdefaults__:
            new.__kwdefaults__ = {name: self(value) for name, value in function.__kwdefaults__.items()}
        if any(id(value) in self._reach.path for value in vars(function).values()):
            vars(new).update({name: self(value) for name, value in vars(function).items()})
        else:
            # the very dict, so that a counter kept there counts
            new.__dict__ = vars(function)
        # last, since what a cell holds may lead back to the function
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
        # one for all functions that share the cell: what one of them assigns the others see
        cell_copy: types.CellType = self._done.setdefault(id(cell), types.CellType())
        return cell_copy

    def _scope(self, scope: dict[str, Any]) -> dict[str, Any]:
        names = self._reach.names.get(id(scope))
        if not names:
            # the very globals, so that what any function assigns to them is seen
            return scope
        if id(scope) not in self._done:
            copy = self._done[id(scope)] = dict(scope)
            copy.update({name: self(child) for name, child in names.items()})
        copied: dict[str, Any] = self._done[id(scope)]
        return copied
