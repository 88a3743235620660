"""Which samples a rank reads in an epoch, and which are shuffled together. Numbers only; nothing is read here."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Segment", "Stretch", "Terms"]

Array = npt.NDArray[Any]


class Segment(NamedTuple):
    """Some of the wanted samples of a block, counted among them."""

    block: int
    start: int
    stop: int


@dataclass(frozen=True)
class Terms:
    """What an order depends on.

    Parameters
    ----------
    batch_size
        Samples in a batch.
    window_rows
        Samples that are shuffled together; a window has more by at most an inner chunk.
    shuffle
        Whether to shuffle.
    drop_last
        Whether to leave out what does not fill a batch.
    seed, epoch
        Of what the order is a function.
    world
        Number of ranks.
    keeps_windows
        Whether windows hold the same samples in all epochs, which keeps the number of batches where there are groups.
    """

    batch_size: int
    window_rows: int
    shuffle: bool
    drop_last: bool
    seed: int
    epoch: int
    world: int
    keeps_windows: bool = False

    def generator(self, *address: int) -> np.random.Generator:
        """Return the stream at an address within the epoch."""
        return np.random.Generator(
            np.random.PCG64DXSM(np.random.SeedSequence(self.seed, spawn_key=(self.epoch, *address)))
        )


class Stretch:
    """The share of one rank: a stretch of all samples, in the order of shuffled blocks, cut into windows.

    Every wanted sample belongs to exactly one window of one rank. Shares differ by at most one sample.

    Parameters
    ----------
    terms
        What it depends on.
    rank
        The rank.
    blocks, counts
        All blocks and the number of wanted samples in each.

    Examples
    --------
    Blocks 0 to 3 with ten, five, none and ten wanted samples are a line of 25 samples. Two ranks have its first twelve
    and its other thirteen, so that block 1 is cut: its first two samples are the first rank's.

    >>> terms = Terms(2, window_rows=10, shuffle=False, drop_last=False, seed=0, epoch=0, world=2)
    >>> blocks, counts = np.arange(4), np.array([10, 5, 0, 10])
    >>> [tuple(segment) for segment in Stretch(terms, 0, blocks, counts).segments(0)]
    [(0, 0, 10), (1, 0, 2)]
    >>> [tuple(segment) for segment in Stretch(terms, 1, blocks, counts).segments(0)]
    [(1, 2, 5), (3, 0, 10)]
    """

    def __init__(self, terms: Terms, rank: int, blocks: Array, counts: Array) -> None:
        # in the same order of blocks, windows hold the same samples in all epochs
        fixed = replace(terms, epoch=0) if terms.keeps_windows else terms
        order = fixed.generator().permutation(len(blocks)) if terms.shuffle else np.arange(len(blocks))
        # wanted samples are numbered through the blocks in their order: block order[i] has those from starts[i] on
        stops = np.cumsum(counts[order])
        starts = stops - counts[order]
        total = int(stops[-1]) if len(stops) else 0
        first, last = rank * total // terms.world, (rank + 1) * total // terms.world
        self.n_rows = last - first
        inside = np.flatnonzero((stops > first) & (starts < last) & (counts[order] > 0))
        self._blocks = blocks[order[inside]]
        # of the first and the last block perhaps a part only, counted from the block's own first wanted sample
        self._starts = np.maximum(first - starts[inside], 0)
        self._stops = np.minimum(last, stops[inside]) - starts[inside]
        self._edges = self._cut(terms, int(counts.max(initial=1)))

    def _cut(self, terms: Terms, largest: int) -> list[int]:
        """Return where windows begin among the blocks, and where the last one ends."""
        # each window has a batch at least, so that a batch has samples of two windows at most
        n_windows = max(min(-(-self.n_rows // terms.window_rows), self.n_rows // (terms.batch_size + largest)), 1)
        ends = np.cumsum(self._stops - self._starts)
        # a window ends with the block in which its share of the samples is reached: blocks are not cut again
        shares = np.arange(1, n_windows) * self.n_rows // n_windows
        n_blocks = len(self._blocks)
        edges = [0, *np.unique(np.clip(np.searchsorted(ends, shares) + 1, 0, n_blocks)).tolist()]
        return edges if edges[-1] == n_blocks else [*edges, n_blocks]

    @property
    def n_windows(self) -> int:
        """Number of windows."""
        return len(self._edges) - 1

    def segments(self, window: int) -> list[Segment]:
        """Return what a window is made of."""
        part = slice(self._edges[window], self._edges[window + 1])
        columns = (self._blocks[part], self._starts[part], self._stops[part])
        return [Segment(*numbers) for numbers in zip(*(column.tolist() for column in columns), strict=True)]
