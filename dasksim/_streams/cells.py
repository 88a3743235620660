"""Streams of the cells of a stage that is called once for each: every cell has one of its own.

A cell is a sample, or a place of it in plates, or a proposal for it. Its stream follows from the stage's address and
from which cell it is, and from nothing else: not from the sub-batch, nor from the cells that are simulated with it.

The states are made for many cells at once. Philox, keyed by the address and with the cell as its counter, gives a block
of four words for each; three of them seed SFC64 as NumPy seeds it. A generator is made once, and put on the next cell's
stream by writing its state, which takes a hundredth of the time in which another is made.
"""

import ctypes
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from dasksim._streams.addresses import SEEDS32_CHILD, SEEDS_CHILD, Address
from dasksim.errors import SimulatorError

__all__ = ["CellSeeds", "CellStreams", "Cells", "Moves"]

Array = npt.NDArray[Any]
Words = npt.NDArray[np.uint64]
T = TypeVar("T")

#: What gives values, one a cell, each once something has been put on the stream of its cell.
Moves: TypeAlias = Callable[[Iterable[Any]], Iterator[Any]]

# Constants of Philox with four words of 64 bits.
_MULTIPLIERS = np.array([0xD2E7470EE14C6C93, 0xCA5A826395121157], np.uint64)
# By how much SFC64 shifts, and turns a word by 24 bits.
_SHIFTS = np.array([11, 3, 24, 40], np.uint64)
_STEPS = np.array([0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B], np.uint64)

# How many seeds of 32 bits there are, from 1 on; the largest is what C's `int` and most libraries take.
_N_SEEDS32 = 2**31 - 2

# A counter has four words: the sample, two that the places in plates share, and the proposal.
_PLACE_BITS = 128


@dataclass(frozen=True)
class Cells:
    """Which cells some rows are.

    Parameters
    ----------
    samples
        Number of the sample of each; a range where they follow each other.
    places
        Where each is along the plates, outer ones first.
    proposals
        Which proposal for its sample each is; none where samples are not proposed.
    """

    samples: "range | Array"
    places: tuple[Array, ...] = ()
    proposals: Array | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def select(self, rows: "slice | Array") -> "Cells":
        """Return some of them."""
        samples = self.samples[rows] if isinstance(rows, slice) else np.asarray(self.samples)[rows]
        proposals = None if self.proposals is None else self.proposals[rows]
        return Cells(samples, tuple(place[rows] for place in self.places), proposals)

    def along(self, sizes: Sequence[int]) -> "Cells":
        """Return the cells of these rows along plates, those of a row together and in C order."""
        if not sizes:
            return self
        index = np.indices(sizes).reshape(len(sizes), -1)
        rows = self.select(np.repeat(np.arange(len(self)), index.shape[1]))
        inner = tuple(np.tile(place, len(self)) for place in index)
        return Cells(rows.samples, (*rows.places, *inner), rows.proposals)

    def proposed(self, rows: Array, proposals: Array) -> "Cells":
        """Return proposals for some of them, with a number each."""
        # those of a rejection within another: no sample has so many that the two numbers would meet
        outer = np.zeros(len(self), np.int64) if self.proposals is None else self.proposals
        return replace(self.select(rows), proposals=outer[rows] << 32 | proposals)

    def counters(self) -> Words:
        """Return the counter of each, of four words."""
        counters = np.zeros((len(self), 4), np.uint64)
        counters[:, 0] = np.asarray(self.samples)
        # as many bits for each plate as there are, so that no two places have one number
        bits = _PLACE_BITS // max(2, len(self.places) + len(self.places) % 2)
        per_word = 64 // bits
        for i, place in enumerate(self.places):
            counters[:, 1 + i // per_word] |= place.astype(np.uint64) << np.uint64(bits * (i % per_word))
        if self.proposals is not None:
            counters[:, 3] = self.proposals
        return counters


class CellStreams:
    """The streams of cells of a stage, and of their children.

    Parameters
    ----------
    address
        That of the stage on the sub-batch, of which the number of the sub-batch does not count.
    cells
        The cells.
    """

    def __init__(self, address: Address, cells: Cells) -> None:
        self._address = address
        self._cells = cells
        self._children: dict[int, CellSeeds] = {}

    def __len__(self) -> int:
        return len(self._cells)

    def words(self, *child: int) -> Words:
        """Return four words for each cell, of its own stream or of a child stream."""
        key = self._address.cell_key(*child)
        samples = self._cells.samples
        if isinstance(samples, range) and not self._cells.places and self._cells.proposals is None:
            # NumPy makes the blocks of counters that follow each other; it adds 1 to a counter before its block
            raw = np.random.Philox(counter=[samples.start, 0, 0, 0], key=key).random_raw(4 * len(samples))
            return np.asarray(raw).reshape(-1, 4)
        counters = self._cells.counters()
        counters[:, 0] += np.uint64(1)
        return _philox(counters, key)

    def seeds(self) -> list[int]:
        """Return a seed of 63 bits for each cell."""
        seeds: list[int] = (self.words(SEEDS_CHILD)[:, 0] >> np.uint64(1)).tolist()
        return seeds

    def seeds32(self) -> list[int]:
        """Return a seed from 1 to 2**31 - 2 for each cell.

        It is a permutation of the sample's number, so that samples of a stage have seeds that differ, up to as many as
        there are: of random ones, two among 60 000 would be the same.
        """
        samples, counters = np.asarray(self._cells.samples).astype(np.uint64), self._cells.counters()
        numbers = samples % np.uint64(_N_SEEDS32)
        # one permutation for all samples; another one for each place along plates, and for each proposal
        counters[:, 0] = samples // np.uint64(_N_SEEDS32)
        alike = counters[:1] if (counters == counters[:1]).all() else counters
        keys = _philox(alike, self._address.cell_key(SEEDS32_CHILD)).view(np.uint32)
        keys = np.broadcast_to(keys, (len(numbers), keys.shape[1]))
        seeds: list[int] = (_permuted(numbers.astype(np.uint32), keys) + np.uint32(1)).tolist()
        return seeds

    def generator(self) -> tuple[np.random.Generator, Moves]:
        """Return a generator, and what puts it on the stream of each cell in turn."""
        words = self.words()
        seeds = CellSeeds(words)
        bits = np.random.SFC64(seeds)  # type: ignore[arg-type]
        put = _put if _KNOWS_MEMORY else _put_officially
        return np.random.Generator(bits), functools.partial(put, bits, seeds, _mixed(words))

    def in_memory(self) -> tuple[np.random.Generator, Words, Words]:
        """Return a generator, the memory of its state as words, and what has to stand there for each cell.

        Raises
        ------
        SimulatorError
            If a state lies in memory in another way than is known.
        """
        if not _KNOWS_MEMORY:
            raise SimulatorError("NumPy keeps the state of SFC64 in another way here than compiled functions need")
        bits = np.random.SFC64(0)
        return np.random.Generator(bits), np.frombuffer(_memory(bits), np.uint64), _mixed(self.words())

    def child(self, number: int) -> "CellSeeds":
        """Return what seeds a child stream, of the cell that was moved to last."""
        if number not in self._children:
            self._children[number] = CellSeeds(self.words(number))
        return self._children[number]

    def move(self, cell: int) -> None:
        """Move to a cell."""
        for seeds in self._children.values():
            seeds.move(cell)


class CellSeeds(np.random.bit_generator.ISpawnableSeedSequence):
    """What seeds a generator that goes from cell to cell, and gives it children that are the cell's own.

    Parameters
    ----------
    words
        Four words for each cell.

    Attributes
    ----------
    cell
        The cell that it is at.
    """

    def __init__(self, words: Words) -> None:
        self._words = words
        self._sequence: tuple[int, np.random.SeedSequence] | None = None
        self.cell = 0

    def move(self, cell: int) -> None:
        """Move to a cell, as if it had not been there: its children are counted anew."""
        self.cell, self._sequence = cell, None

    @property
    def words(self) -> list[int]:
        """Four words of the cell."""
        words: list[int] = self._words[self.cell].tolist()
        return words

    @property
    def halves(self) -> list[int]:
        """The same as eight words of 32 bits."""
        return [half for word in self.words for half in (word & 0xFFFFFFFF, word >> 32)]

    @property
    def integer(self) -> int:
        """The same as one integer."""
        return sum(word << 64 * i for i, word in enumerate(self.words))

    @property
    def entropy(self) -> Any:
        """As of a :class:`numpy.random.SeedSequence`, which others may take it for."""
        return self._own().entropy

    @property
    def spawn_key(self) -> tuple[int, ...]:
        """The same."""
        return self._own().spawn_key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Array:
        # what SFC64 asks for when it is made
        if n_words == 3 and np.dtype(dtype) == np.uint64:
            return np.array(self.words[:3], np.uint64)
        return self._own().generate_state(n_words, dtype)

    def spawn(self, n_children: int) -> list[np.random.SeedSequence]:  # type: ignore[override]
        return self._own().spawn(n_children)

    def _own(self) -> np.random.SeedSequence:
        """Return the cell's own, which counts its children."""
        if self._sequence is None or self._sequence[0] != self.cell:
            self._sequence = self.cell, np.random.SeedSequence(self.words)
        return self._sequence[1]


def _put(bits: np.random.SFC64, seeds: CellSeeds, states: Words, values: Iterable[T]) -> Iterator[T]:
    """Give values, one a cell, each once SFC64 has been put on the stream of the cell."""
    memory = _memory(bits)
    # a list of bytes, made at once, is what memory takes the fastest
    for cell, (state, value) in enumerate(zip(states.view(f"V{memory.nbytes}")[:, 0].tolist(), values)):
        seeds.cell = cell
        memory[:] = state
        yield value


def _put_officially(bits: np.random.SFC64, seeds: CellSeeds, states: Words, values: Iterable[T]) -> Iterator[T]:
    """Do the same where a state lies in memory in another way than is known."""
    for cell, (state, value) in enumerate(zip(states, values)):
        seeds.cell = cell
        bits.state = {
            "bit_generator": "SFC64",
            "state": {"state": state[:4]},
            "has_uint32": 0,
            "uinteger": 0,
        }
        yield value


def _memory(bits: np.random.SFC64) -> memoryview:
    """Return the memory that holds a state: three words, a counter, and the half of a word that is held back."""
    return memoryview((ctypes.c_char * 40).from_address(bits.ctypes.state_address)).cast("B")


def _mixed(words: Words) -> Words:
    """Return the states that NumPy seeds SFC64 with from three words each, and no half word that is held back."""
    a, b, c = np.array(words[:, :3].T, order="C")
    drawn, turned = np.empty_like(a), np.empty_like(a)
    for counter in np.arange(1, 13, dtype=np.uint64):
        # in place: for the cells of a sub-batch, making arrays would cost more than computing them
        np.add(a, b, out=drawn)
        drawn += counter
        np.right_shift(b, _SHIFTS[0], out=a)
        a ^= b
        np.left_shift(c, _SHIFTS[1], out=b)
        b += c
        np.left_shift(c, _SHIFTS[2], out=turned)
        np.right_shift(c, _SHIFTS[3], out=c)
        c |= turned
        c += drawn
    return np.stack([a, b, c, np.full_like(a, 13), np.zeros_like(a)], axis=1)


def _permuted(numbers: Array, keys: Array) -> Array:
    """Return numbers below that of seeds, permuted: a Feistel network of 32 bits, walked until it ends below it."""
    found = _feistel(numbers, keys)
    while (is_beyond := found >= _N_SEEDS32).any():
        found[is_beyond] = _feistel(found[is_beyond], keys[is_beyond])
    return found


def _feistel(numbers: Array, keys: Array) -> Array:
    left, right = numbers >> np.uint32(16), numbers & np.uint32(0xFFFF)
    for k in range(keys.shape[1]):
        mixed = (right + keys[:, k]) * np.uint32(0x9E3779B1)
        mixed = (mixed ^ mixed >> np.uint32(15)) * np.uint32(0x85EBCA77)
        left, right = right, left ^ (mixed >> np.uint32(13)) & np.uint32(0xFFFF)
    return left << np.uint32(16) | right


def _philox(counters: Words, key: Words) -> Words:
    """Return the block of Philox for each counter, as NumPy's makes them one after the other."""
    c0, c1, c2, c3 = (counters[:, i].copy() for i in range(4))
    k0, k1 = key[:1], key[1:]
    for _ in range(10):
        high0, low0 = _product(c0, _MULTIPLIERS[0])
        high1, low1 = _product(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + _STEPS[0], k1 + _STEPS[1]
    return np.stack([c0, c1, c2, c3], axis=1)


def _product(a: Words, b: np.uint64) -> tuple[Words, Words]:
    """Return the high and the low words of products of two words, by halves."""
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    a_low, a_high, b_low, b_high = a & low, a >> half, b & low, b >> half
    one, other = a_low * b_high, a_high * b_low
    middle = (a_low * b_low >> half) + (one & low) + (other & low)
    return a_high * b_high + (one >> half) + (other >> half) + (middle >> half), a * b


def _knows_memory() -> bool:
    """Whether a state that is written to memory is that which NumPy then tells."""
    try:
        bits = np.random.SFC64(0)
        bits.random_raw(3)
        np.random.Generator(bits).integers(9, dtype=np.int32)  # holds back half a word
        words = np.arange(11, 16, dtype=np.uint64)
        words[4] = 0
        _memory(bits)[:] = words.tobytes()
        found = bits.state
        return (*found["state"]["state"], found["has_uint32"], found["uinteger"]) == (*words[:4], 0, 0)
    except Exception:  # noqa: BLE001  (an interpreter without ctypes, another layout)
        return False


_KNOWS_MEMORY = _knows_memory()
