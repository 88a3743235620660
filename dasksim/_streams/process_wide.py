"""The generators of the whole process: ``numpy.random`` and ``random``.

Only one thread at a time may have them seeded: unlocked, two threads gave three different results for one seed.

They have no public names, and are found as what the modules' functions are methods of; nothing else may name them.
"""

import contextlib
import pickle
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dasksim._streams.addresses import Address

__all__ = ["NUMPY_GLOBAL", "GlobalMark", "Use", "bits_of", "by_reference", "locked", "not_copied", "seeded_globals"]

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


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Hold the lock of the process."""
    with _lock:
        yield


@dataclass(frozen=True, eq=False)
class GlobalMark:
    """The state of the global generators at one moment."""

    numpy_state: Any
    python_state: Any

    @classmethod
    def now(cls) -> "GlobalMark":
        """Return the present state, the normal that ``numpy.random`` holds back included.

        It waits for functions that have the generators seeded, which put them back: they leave no trace.
        """
        with _lock:
            return cls(NUMPY_GLOBAL.get_state(legacy=False), random.getstate())

    def numpy_moved(self) -> bool:
        """Whether the generator of ``numpy.random`` has moved since.

        That of ``random`` says nothing here: event loops, such as a cluster worker's, draw from it all the time.
        """
        # as bytes, since dicts of arrays cannot be compared
        return pickle.dumps(self.now().numpy_state) != pickle.dumps(self.numpy_state)

    def moved(self) -> bool:
        """Whether one of the two has moved since; to be asked under the lock that the mark was made under."""
        return self.numpy_moved() or self.now().python_state != self.python_state

    def restore(self) -> None:
        """Put the global generators back to where they were."""
        with _lock:
            NUMPY_GLOBAL.set_state(self.numpy_state)
            random.setstate(self.python_state)


@dataclass
class Use:
    """Whether a function drew from the global generators; known afterwards."""

    happened: bool = False


@contextlib.contextmanager
def seeded_globals(address: Address, *, watch: bool) -> Iterator[Use]:
    """Put the global generators on the streams of ``address``, and restore them; to be used under the lock.

    Without ``watch``, whether they were used is not found out, which would take 0.1 ms.
    """
    before, caller = GlobalMark.now(), np.random.mtrand.get_bit_generator()
    np.random.mtrand.set_bit_generator(_STAND_IN)
    use = Use()
    try:
        NUMPY_GLOBAL.seed(address.numpy_global())
        random.seed(address.python_global())
        seeded = GlobalMark.now() if watch else None
        try:
            yield use
        finally:
            use.happened = seeded is not None and seeded.moved()
    finally:
        # before the state is set, which is that of the caller's bits
        np.random.mtrand.set_bit_generator(caller)
        before.restore()
