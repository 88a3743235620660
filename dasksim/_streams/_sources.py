"""What can be put on the stream of an address: generators, integers that stand for one, and quasi-random engines."""

import inspect
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from dasksim._streams.addresses import as_int
from dasksim._streams.cells import CellSeeds
from dasksim._streams.libraries import kind_of, seed_of
from dasksim._streams.process_wide import bits_of

__all__ = [
    "OwnSeed",
    "Seed",
    "can_make_again",
    "can_replace",
    "halves_of",
    "integer_of",
    "is_engine",
    "is_generator",
    "own_seeds",
    "put_at",
    "replacement",
    "restore",
    "state_of",
]

#: What seeds a source: that of an address, or of the cell that it is at.
Seed: TypeAlias = np.random.SeedSequence | CellSeeds

# Attributes in which objects of scipy and scikit-learn keep an integer that seeds what they draw, and what such an
# object takes in its place.
_SEEDS = {
    "random_state": np.random.RandomState,
    "_random_state": np.random.RandomState,
    "rng": np.random.Generator,
    "_rng": np.random.Generator,
}


@dataclass(frozen=True, eq=False)
class OwnSeed:
    """An integer that an object keeps as an attribute, and seeds what it draws with."""

    owner: Any
    name: str


def is_generator(obj: object) -> bool:
    """Whether ``obj`` is a generator of random numbers that can be seeded."""
    if isinstance(obj, random.Random):
        # the operating system's numbers have no state that could be set
        return not isinstance(obj, random.SystemRandom)
    is_numpys = isinstance(obj, np.random.Generator | np.random.RandomState | np.random.BitGenerator)
    return is_numpys or kind_of(obj) is not None


def can_replace(source: object) -> bool:
    """Whether there can be another like it, for subclasses of generators may be made in a way of their own."""
    kind = kind_of(source)
    if kind is not None:
        return kind.like is not None
    subclassed = isinstance(source, np.random.Generator | np.random.RandomState | random.Random)
    return not subclassed or type(source) in (np.random.Generator, np.random.RandomState, random.Random)


def own_seeds(obj: object) -> Iterator[OwnSeed]:
    """Yield the integers by which an object of scipy or scikit-learn seeds what it draws."""
    for name in _SEEDS:
        value = getattr(obj, "__dict__", {}).get(name)
        if isinstance(value, int | np.integer) and not isinstance(value, bool):
            yield OwnSeed(obj, name)


def replacement(source: Any, seed: Seed) -> Any:
    """Return a source like ``source`` (same kind, same bit generator) on a stream."""
    kind = kind_of(source)
    if kind is not None and kind.like is not None:
        new = kind.like(source)
        kind.seed(new, seed_of(integer_of(seed)))
        return new
    sequence: Any = seed  # NumPy takes any ISeedSequence, and says so of SeedSequence only
    if isinstance(source, random.Random):
        return random.Random(integer_of(seed))
    if isinstance(source, np.random.RandomState):
        return np.random.RandomState(type(bits_of(source))(sequence))
    if isinstance(source, np.random.BitGenerator):
        return type(source)(sequence)
    if isinstance(source, np.random.Generator):
        return np.random.Generator(type(source.bit_generator)(sequence))
    if isinstance(source, OwnSeed):
        # what NumPy itself makes of an integer
        bits = np.random.MT19937 if _SEEDS[source.name] is np.random.RandomState else np.random.PCG64
        return _SEEDS[source.name](bits(sequence))
    return _made_again(source, np.random.default_rng(sequence))


def integer_of(seed: Seed) -> int:
    """Return a seed for :class:`random.Random`."""
    return seed.integer if isinstance(seed, CellSeeds) else as_int(seed)


def halves_of(seed: Seed) -> list[int]:
    """Return a seed for :mod:`numpy.random`: eight words, since it takes no integer of more than 32 bits."""
    return seed.halves if isinstance(seed, CellSeeds) else [int(word) for word in seed.generate_state(8)]


def put_at(source: Any, seed: Seed) -> None:
    """Put a source itself on a stream, by its state, since others hold the source."""
    kind = kind_of(source)
    if kind is not None:
        kind.seed(source, seed_of(integer_of(seed)))
        return
    if isinstance(seed, CellSeeds) and _put_fast(source, seed):
        return
    new = replacement(source, seed)
    restore(source, new if isinstance(source, OwnSeed) else state_of(new))


def _put_fast(source: Any, seed: CellSeeds) -> bool:
    """Put a source on a cell's stream without making another, which takes far longer; return whether it could."""
    if isinstance(source, random.Random):
        source.seed(seed.integer)
        return True
    if isinstance(source, np.random.RandomState):
        is_known = type(bits_of(source)) is np.random.MT19937
        if is_known:
            source.seed(seed.halves)
        return is_known
    bits = source.bit_generator if isinstance(source, np.random.Generator) else source
    if type(bits) is np.random.MT19937:
        np.random.RandomState(bits).seed(seed.halves)
        return True
    state = _STATES.get(type(bits))
    if state is None:
        return False
    bits.state = {"bit_generator": type(bits).__name__, **state(seed.words), "has_uint32": 0, "uinteger": 0}
    return True


def _of_pcg(words: Sequence[int]) -> dict[str, Any]:
    # the increment is odd, as that of any linear congruential generator of a period of a power of two
    return {"state": {"state": words[0] | words[1] << 64, "inc": words[2] | words[3] << 64 | 1}}


def _of_philox(words: Sequence[int]) -> dict[str, Any]:
    zeros = np.zeros(4, np.uint64)
    # it is at the end of its buffer, so that the next number begins a block
    return {
        "state": {"counter": np.array([*words[2:], 0, 0], np.uint64), "key": np.array(words[:2], np.uint64)},
        "buffer": zeros,
        "buffer_pos": 4,
    }


# What NumPy's generators take for their state, from four random words.
_STATES: dict[type, Callable[[Sequence[int]], dict[str, Any]]] = {
    np.random.PCG64: _of_pcg,
    np.random.PCG64DXSM: _of_pcg,
    np.random.Philox: _of_philox,
    np.random.SFC64: lambda words: {"state": {"state": np.array([*words[:3], 1], np.uint64)}},
}


def restore(source: Any, state: Any) -> None:
    """Put a source back to where it was."""
    kind = kind_of(source)
    if kind is not None:
        kind.restore(source, state)
    elif isinstance(source, random.Random):
        source.setstate(state)
    elif isinstance(source, np.random.RandomState):
        source.set_state(state)
    elif isinstance(source, np.random.BitGenerator):
        source.state = state
    elif isinstance(source, np.random.Generator):
        source.bit_generator.state = state
    elif isinstance(source, OwnSeed):
        vars(source.owner)[source.name] = state
    else:
        vars(source).update(state)


def state_of(source: Any) -> Any:
    """Return where a source is, as :func:`restore` takes it."""
    kind = kind_of(source)
    if kind is not None:
        return kind.save(source)
    if isinstance(source, random.Random):
        return source.getstate()
    if isinstance(source, np.random.RandomState):
        return source.get_state(legacy=False)  # with the normal that it holds back
    if isinstance(source, np.random.BitGenerator):
        return source.state
    if isinstance(source, np.random.Generator):
        return source.bit_generator.state
    if isinstance(source, OwnSeed):
        return vars(source.owner)[source.name]
    return dict(vars(source))


def is_engine(obj: object) -> bool:
    """Whether ``obj`` is a quasi-random engine of scipy, but for those that only derive from the base of all."""
    # by name, so that scipy is not imported for those who do not use it
    names = [base.__name__ for base in type(obj).__mro__ if str(base.__module__).startswith("scipy.")]
    return "QMCEngine" in names[1:]


def can_make_again(engine: Any) -> bool:
    """Whether an engine's points are random, and another one can be made like it."""
    if not _is_scrambled(engine) and not hasattr(engine, "lhs_method"):  # the same sequence every time
        return False
    try:
        _made_again(engine, np.random.default_rng(0))
    except Exception:  # noqa: BLE001  a user's subclass with arguments of its own
        return False
    return True


def _is_scrambled(engine: Any) -> bool:
    """Whether an engine scrambles its points; Sobol engines of SciPy before 1.15 keep only the shift."""
    return bool(getattr(engine, "scramble", np.any(getattr(engine, "_shift", True))))


def _made_again(engine: Any, rng: np.random.Generator) -> Any:
    """Return another engine, at its beginning.

    Most draw their scrambling when they are made, so that one with another generator would give the same points again.
    """
    known = {**engine._init_quad, **vars(engine)}  # the first is what scipy itself makes others from
    names = set(inspect.signature(type(engine)).parameters)
    arguments = {name: known[name] for name in names - {"rng", "seed"} if name in known}
    return type(engine)(**arguments, **{"rng" if "rng" in names else "seed": rng})  # it is seed until scipy 1.15
