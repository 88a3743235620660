"""The generators of the whole process: ``numpy.random``, ``random``, and those of other libraries.

Only one thread at a time may have them seeded: unlocked, two threads gave three different results for one seed.

The first two have no public names, and are found as what the modules' functions are methods of; nothing else may name
them.
"""

import contextlib
import pickle
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dasksim._streams.libraries import Library, imported_libraries

__all__ = [
    "NUMPY_GLOBAL",
    "GlobalMark",
    "GlobalStreams",
    "bits_of",
    "by_reference",
    "global_streams",
    "is_locked_here",
    "locked",
    "not_copied",
]

#: The generator behind the functions of ``numpy.random``.
NUMPY_GLOBAL: np.random.RandomState = np.random.normal.__self__  # type: ignore[attr-defined]

_PYTHON_GLOBAL: random.Random = random.random.__self__  # type: ignore[attr-defined]

_STAND_IN = np.random.MT19937(0)  # np.random.seed and np.random.get_state work with no other kind

# Reentrant: a function that runs under it may run a simulator, whose functions take it again.
_lock = threading.RLock()


def by_reference(obj: object) -> tuple[Any, ...] | None:
    """Return how a generator of the whole process is pickled so that it is the other process's own; None for others."""
    if obj is NUMPY_GLOBAL:
        return _numpy_global, ()
    return (_python_global, ()) if obj is _PYTHON_GLOBAL else None


def not_copied() -> dict[int, object]:
    """Return what ``copy.deepcopy`` is to take for copied already: the generators of the whole process."""
    return {id(generator): generator for generator in (NUMPY_GLOBAL, _PYTHON_GLOBAL)}


def bits_of(state: np.random.RandomState) -> np.random.BitGenerator:
    """Return what a RandomState draws from; unlike a Generator it has no public attribute for it."""
    bits: np.random.BitGenerator = state._bit_generator
    return bits


def _numpy_global() -> np.random.RandomState:
    return NUMPY_GLOBAL


def _python_global() -> random.Random:
    return _PYTHON_GLOBAL


# Whether each thread holds the lock, which it does not tell.
_here = threading.local()


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Hold the lock of the process."""
    with _lock:
        before = is_locked_here()
        _here.is_locked = True
        try:
            yield
        finally:
            _here.is_locked = before


def is_locked_here() -> bool:
    """Whether this thread holds the lock of the process, for which others wait in vain if it waits for them."""
    return getattr(_here, "is_locked", False)


@dataclass(frozen=True, eq=False)
class GlobalMark:
    """The state of the global generators at one moment."""

    numpy_state: Any
    python_state: Any
    others: Sequence[tuple[Library, Any]] = ()

    @classmethod
    def now(cls) -> "GlobalMark":
        """Return the present state, the normal that ``numpy.random`` holds back included.

        It waits for functions that have the generators seeded, which put them back: they leave no trace.
        """
        with _lock:
            others = [(library, library.save()) for library in imported_libraries()]
            return cls(NUMPY_GLOBAL.get_state(legacy=False), random.getstate(), others)

    def moved_by_functions(self) -> bool:
        """Whether one of them has moved since, but for that of ``random``.

        That one says nothing: event loops, such as a cluster worker's, draw from it all the time.
        """
        # nor do those of which each thread has its own: another one may ask than has made the mark
        return self._differs_from(self.now(), per_thread=False)

    def _differs_from(self, now: "GlobalMark", *, per_thread: bool = True) -> bool:
        others = [(library, state) for library, state in self.others if per_thread or not library.is_per_thread]
        before = {library.module: state for library, state in others}
        # a library that was imported since has told no state before
        after = {library.module: state for library, state in now.others if library.module in before}
        # as bytes, since dicts of arrays cannot be compared
        mine, theirs = (self.numpy_state, {name: before[name] for name in after}), (now.numpy_state, after)
        return pickle.dumps(mine) != pickle.dumps(theirs)

    def moved(self) -> bool:
        """Whether any has moved since; to be asked under the lock that the mark was made under."""
        now = self.now()
        return self._differs_from(now) or now.python_state != self.python_state

    def restore(self) -> None:
        """Put the global generators back to where they were."""
        with _lock:
            NUMPY_GLOBAL.set_state(self.numpy_state)
            random.setstate(self.python_state)
            for library, state in self.others:
                library.restore(state)


class GlobalStreams:
    """The global generators while they are on streams of dasksim's.

    Parameters
    ----------
    watch
        Whether to find out if they are used, which takes 0.1 ms for each stream.

    Attributes
    ----------
    are_used
        Whether a function has drawn from them; known once the next stream is put, or the last one has ended.
    """

    def __init__(self, watch: bool) -> None:
        self._watch = watch
        self._mark: GlobalMark | None = None
        self.are_used = False

    def put(self, numpy_seed: Sequence[int], python_seed: int, of_library: Callable[[int], int]) -> None:
        """Put them on streams.

        That of ``numpy.random`` takes words of 32 bits, and no larger integer; ``of_library`` gives the integer that
        seeds a library's, by its number.
        """
        self.look()
        NUMPY_GLOBAL.seed(numpy_seed)
        random.seed(python_seed)
        for library in imported_libraries():
            library.put(of_library(library.number))
        self._mark = GlobalMark.now() if self._watch and not self.are_used else None

    def look(self) -> None:
        """Find out whether they were used."""
        self.are_used = self.are_used or (self._mark is not None and self._mark.moved())


@contextlib.contextmanager
def global_streams(*, watch: bool) -> Iterator[GlobalStreams]:
    """Give what puts the global generators on streams, and restore them; to be used under the lock."""
    before, caller = GlobalMark.now(), np.random.mtrand.get_bit_generator()
    np.random.mtrand.set_bit_generator(_STAND_IN)
    streams = GlobalStreams(watch)
    try:
        yield streams
    finally:
        streams.look()
        # before the state is set, which is that of the caller's bits
        np.random.mtrand.set_bit_generator(caller)
        before.restore()
