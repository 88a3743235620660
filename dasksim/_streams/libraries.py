"""Generators that libraries keep for the whole process, as NumPy and Python do: how they are seeded and restored.

One counts where its library has been imported, since nothing draws from it elsewhere.
"""

import re
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dasksim._streams._library_private import KerasGenerators, NumbaStates
from dasksim.errors import ArgumentError, ArgumentTypeError

__all__ = [
    "Kind",
    "Library",
    "add_libraries",
    "imported_libraries",
    "kind_of",
    "may_draw",
    "register",
    "registered_libraries",
    "seed_of",
]

# Seeds have as many bits: more than any library takes are of no use.
_SEED_BITS = 63


def seed_of(integer: int) -> int:
    """Return the seed that libraries take, for an integer of any size."""
    return integer & ((1 << _SEED_BITS) - 1)


@dataclass(frozen=True)
class Library:
    """A library that keeps a generator for the whole process.

    Parameters
    ----------
    module
        The module that has to be imported for it to count.
    seed
        Puts the generator on a stream, from an integer of 63 bits.
    save
        Returns the generator's state, ready to be pickled; states that differ have other bytes.
    restore
        Puts it back to such a state.
    is_per_thread
        Whether each thread has one of its own, so that its state says nothing of what other threads did.
    """

    module: str
    seed: Callable[[int], Any]
    save: Callable[[], Any]
    restore: Callable[[Any], Any]
    is_per_thread: bool = False

    @property
    def number(self) -> int:
        """The number of its child stream, below that of all registered ones; it does not depend on the others."""
        return zlib.crc32(self.module.encode())

    def put(self, integer: int) -> None:
        """Put the generator on the stream that an integer of any size stands for."""
        self.seed(seed_of(integer))


def _save_torch() -> tuple[bytes, tuple[bytes, ...]]:
    torch = sys.modules["torch"]
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ()
    return torch.get_rng_state().numpy().tobytes(), tuple(state.numpy().tobytes() for state in on_gpus)


def _restore_torch(states: tuple[bytes, tuple[bytes, ...]]) -> None:
    torch = sys.modules["torch"]
    of_host, on_gpus = states
    torch.set_rng_state(torch.frombuffer(bytearray(of_host), dtype=torch.uint8))
    if on_gpus:
        torch.cuda.set_rng_state_all([torch.frombuffer(bytearray(s), dtype=torch.uint8) for s in on_gpus])


# Names in PyTorch and Keras of what draws, or leads to it.
_DRAWS = re.compile("rand|normal|uniform|dropout|noise|bernoulli|multinomial|poisson|seed|distributions", re.IGNORECASE)
_NAMED = ("torch", "keras")

_numba, _keras = NumbaStates(), KerasGenerators()

# Those that dasksim knows. PyTorch's function seeds the generators of all devices.
_KNOWN = {
    "torch": Library("torch", lambda seed: sys.modules["torch"].manual_seed(seed), _save_torch, _restore_torch),
    "numba": Library("numba", _numba.seed, _numba.save, _numba.restore, is_per_thread=True),
    "keras": Library("keras", _keras.seed, _keras.save, _keras.restore),
}


@dataclass(frozen=True)
class Kind:
    """A kind of generators, as objects, of a library other than NumPy and Python.

    Parameters
    ----------
    seed
        Puts one on the stream of an integer of 63 bits.
    save
        Returns its state.
    restore
        Puts it back.
    like
        Returns another one like it, if there can be one.
    """

    seed: Callable[[Any, int], Any]
    save: Callable[[Any], Any]
    restore: Callable[[Any, Any], Any]
    like: Callable[[Any], Any] | None = None


_TORCH_GENERATOR = Kind(
    lambda generator, seed: generator.manual_seed(seed),
    lambda generator: generator.get_state(),
    lambda generator, state: generator.set_state(state),
    lambda generator: type(generator)(device=generator.device),
)
# of one that a layer keeps nobody can make another that the layer would take
_KERAS_GENERATOR = Kind(_keras.put, _keras.state, lambda generator, state: generator.state.assign(state))


def kind_of(obj: object) -> Kind | None:
    """Return which kind of generators an object is one of; None if it is none of those that are known."""
    top = str(type(obj).__module__).partition(".")[0]
    if top == "torch" and isinstance(obj, sys.modules["torch"].Generator):
        return _TORCH_GENERATOR
    return _KERAS_GENERATOR if top == "keras" and _keras.is_one(obj) else None


# Those that users have registered, in the order of their modules' names.
_registered: dict[str, Library] = {}


def imported_libraries() -> list[Library]:
    """Return those that have been imported."""
    # a copy, since another thread may register one
    return [library for name, library in {**_KNOWN, **_registered}.items() if name in sys.modules]


def may_draw(name: str) -> bool:
    """Whether something with a full name, such as ``"torch.nn.Dropout"``, may draw from a generator that is known."""
    return name.partition(".")[0] in _NAMED and _DRAWS.search(name) is not None


def registered_libraries() -> tuple[Library, ...]:
    """Return those that users have registered, to take them to other processes."""
    return tuple(_registered.values())


def add_libraries(libraries: Sequence[Library]) -> None:
    """Register what was registered elsewhere."""
    _registered.update({library.module: library for library in libraries})


def register(
    module: str, *, seed: Callable[[int], Any], save: Callable[[], Any], restore: Callable[[Any], Any]
) -> None:
    """Tell dasksim of a generator that a library keeps for the whole process.

    From then on it is put on the stream of each sample before a function is called that draws from it, under a lock,
    and the caller's state is put back. That a function draws from it is noticed by its state, at the probe or later.
    NumPy's, Python's, PyTorch's, Numba's and Keras's are known.

    Parameters
    ----------
    module
        Name of the library's module; the generator counts where that has been imported.
    seed
        Takes an integer of 63 bits.
    save
        Returns the generator's state, which can be pickled.
    restore
        Takes such a state.

    Returns
    -------
    None

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument cannot be used, or the library is known already.

    Examples
    --------
    Functions of a module travel to workers by name, and there reach the module's own generator:

    >>> import dasksim
    >>> import my_library  # doctest: +SKIP
    >>> dasksim.random.register(  # doctest: +SKIP
    ...     "my_library", seed=my_library.seed, save=my_library.get_state, restore=my_library.set_state
    ... )
    """
    functions: tuple[Any, ...] = (seed, save, restore)
    if not isinstance(module, str) or not all(map(callable, functions)):  # type: ignore[redundant-expr]
        raise ArgumentTypeError("module must be the name of a module, and seed, save and restore must be functions")
    if module in ("numpy", "numpy.random", "random", *_KNOWN):
        raise ArgumentError(f"the generator of {module!r} is known to dasksim")
    _registered[module] = Library(module, seed, save, restore)
