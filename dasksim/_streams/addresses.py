"""From an address to a stream of random numbers.

Every random number in dasksim comes from a stream that is a pure function of its address: the seed, the stage's name,
the sub-batch and the attempt. Nothing else - chunks, workers, order, retries - can reach it.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim._core.arrays import device_named

__all__ = [
    "HIDDEN_CHILD",
    "NUMPY_CHILD",
    "PROBE_SUB_BATCH",
    "PYTHON_CHILD",
    "SEEDS32_CHILD",
    "SEEDS_CHILD",
    "SOURCES_CHILD",
    "Address",
    "as_int",
    "stage_key",
]

#: The sub-batch that probes draw from. No dataset reaches it, so a probe never shares a stream with data.
PROBE_SUB_BATCH = 2**63

# What stands for the sub-batch where each cell has a stream of its own; no dataset reaches it either.
_CELLS = 2**63 + 1

# What a redrawn sample adds to the path to its stream; no function spawns as many children.
_REDRAWN = 1 << 62

#: Children of a stage's own stream, for what is not the `rng` argument. Numbers from HIDDEN_CHILD on are the generators
#: that a function reaches by itself, in the order in which they are found. `rng.spawn` counts its children from 0.
SEEDS_CHILD, NUMPY_CHILD, PYTHON_CHILD, HIDDEN_CHILD = range(1 << 63, (1 << 63) + 4)

#: What decides on the seeds of 32 bits, and the first of the children for other generators of the process.
SEEDS32_CHILD = (1 << 63) - 1
SOURCES_CHILD = (1 << 63) - (1 << 33)


def stage_key(name: str) -> int:
    """Return the stable 64-bit key of a stage's name.

    The top bit is always set, so that every key takes two 32-bit words of a spawn key and no two addresses
    spell the same words.
    """
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") | 1 << 63


@dataclass(frozen=True, slots=True)
class Address:
    """Where a stream of random numbers belongs.

    Parameters
    ----------
    seed
        Any integer >= 0.
    stage
        Key of the stage, see :func:`stage_key`.
    sub_batch
        Number of the sub-batch, counted from 0 over the whole dataset.
    attempt
        Number of the attempt at this sub-batch, counted from 0; those of stages inside others in the bits above.
    redraw
        How often samples that failed have been drawn again.
    """

    seed: int
    stage: int
    sub_batch: int
    attempt: int = 0
    redraw: int = 0

    def sequence(self, *child: int) -> np.random.SeedSequence:
        """Return the seed sequence of the stream, or of a child stream of it."""
        # a first draw has no such number: where nothing fails, a policy for failures changes no bit
        redraw = (_REDRAWN | self.redraw,) if self.redraw else ()
        key = (self.stage, self.sub_batch, _without_children(self.attempt), *redraw, *child)
        return np.random.SeedSequence(self.seed, spawn_key=key)

    def generator(self, device: str = "cpu") -> Any:
        """Return the generator that a function receives as ``rng``: NumPy's, or on a GPU CuPy's."""
        return device_named(device).generator(self.sequence())

    def seeds(self, n: int) -> list[int]:
        """Return ``n`` seeds of 63 bits; those of a smaller ``n`` are a prefix."""
        raw = np.random.SFC64(self.sequence(SEEDS_CHILD)).random_raw(n)
        return [int(word) >> 1 for word in raw]

    def cell_key(self, *child: int) -> npt.NDArray[np.uint64]:
        """Return the key, two words, of the streams of all cells, or of a child stream of each."""
        whole = self.sub_batch if self.sub_batch == PROBE_SUB_BATCH else _CELLS
        return np.asarray(replace(self, sub_batch=whole).sequence(*child).generate_state(2, np.uint64), np.uint64)


def _without_children(attempt: int) -> int:
    """Return an attempt inside another so that it spells no words that a child of a smaller attempt does."""
    # SeedSequence joins the words of all its numbers: 2 << 32 | 7 spells 7 and 2, as child 2 of attempt 7 does; but the
    # first word of no child has the top bit
    n_words = -(-attempt.bit_length() // 32)
    return attempt | 1 << 32 * n_words - 1 if n_words > 1 else attempt


def as_int(sequence: np.random.SeedSequence) -> int:
    """Return a seed for :class:`random.Random`."""
    return int.from_bytes(sequence.generate_state(4, np.uint32).tobytes(), "little")
