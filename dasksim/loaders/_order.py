"""The order of an epoch: which samples come in which batch. Numbers only; nothing is read here."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dasksim.errors import ArgumentError
from dasksim.loaders._stretch import Stretch, Terms

__all__ = ["Epoch", "Piece", "plan_epoch"]

Array = npt.NDArray[Any]


class Piece(NamedTuple):
    """Consecutive samples of a window."""

    window: int
    start: int
    stop: int


@dataclass(frozen=True)
class Epoch:
    """One rank's batches of one epoch.

    Batches are numbered; each is a few pieces of at most two windows that follow each other.

    Parameters
    ----------
    terms
        What it depends on.
    rank
        The rank.
    stretch
        Its windows.
    counts
        Samples of each window and group, of shape ``(n_windows, n_groups)``.
    n_wanted
        Number of batches, so that all ranks have the same; more than come by themselves, or fewer.
    """

    terms: Terms
    rank: int
    stretch: Stretch
    counts: Array
    n_wanted: int | None = None

    @cached_property
    def _carried(self) -> Array:
        """How many samples of each group a window takes over from the one before."""
        size, n_windows = self.terms.batch_size, len(self.counts)
        carried = np.zeros((n_windows + 1, self.counts.shape[1]), np.int64)
        # the last window has none after it to leave anything to
        for window in range(n_windows - 1):
            total = carried[window] + self.counts[window]
            # what does not fill a batch even with the window before makes a short one: nothing is kept any longer
            is_short = (total < size) & (carried[window] > 0)
            carried[window + 1] = np.where(is_short, 0, total % size)
        return carried

    @cached_property
    def _n_own(self) -> Array:
        """Batches of each window, before ranks are made even."""
        total = self._carried[:-1] + self.counts
        rest = total - self._carried[1:]
        full, short = rest // self.terms.batch_size, rest % self.terms.batch_size
        own: Array = full.sum(1) + (0 if self.terms.drop_last else (short > 0).sum(1))
        return own

    @cached_property
    def _n_halved(self) -> Array:
        """Batches of each window that are cut in two, the last ones of an epoch."""
        # from the last window backwards, so that batches before the end of an epoch stay whole
        halved = np.zeros(len(self.counts), np.int64)
        left = self.n_batches - int(self._n_own.sum())
        for window in range(len(self.counts) - 1, -1, -1):
            if left <= 0:
                break
            halved[window] = min(left, sum(_length(batch) > 1 for batch in self._own(window)))
            left -= halved[window]
        if left > 0:
            raise ArgumentError(
                f"batches of {self.terms.batch_size} samples cannot be as many on each of {self.terms.world} ranks; "
                "give drop_last=True, or a larger batch_size"
            )
        return halved

    @cached_property
    def _ends(self) -> Array:
        return np.cumsum(self._n_own + self._n_halved)

    @property
    def n_batches(self) -> int:
        """Number of batches."""
        return int(self._n_own.sum()) if self.n_wanted is None else self.n_wanted

    def check(self) -> None:
        """Raise an ArgumentError if there cannot be as many batches."""
        self._n_halved  # noqa: B018

    def window_of(self, number: int) -> int:
        """Return the window with which a batch is complete."""
        return int(np.searchsorted(self._ends, number, side="right"))

    def batches(self, window: int) -> tuple[int, list[list[Piece]]]:
        """Return the batches that are complete with a window, and the number of the first of them."""
        batches = self._own(window)
        n_halved = int(self._n_halved[window])
        for i in reversed(range(len(batches) if n_halved else 0)):
            if n_halved and _length(batches[i]) > 1:
                batches[i : i + 1] = _halves(batches[i])
                n_halved -= 1
        return int(self._ends[window]) - len(batches), batches

    def _own(self, window: int) -> list[list[Piece]]:
        size = self.terms.batch_size
        # samples of a window stand group by group; the last ones of each wait for the next window to fill a batch
        before = np.cumsum(self.counts[window - 1]) if window else np.zeros(self.counts.shape[1], np.int64)
        ends = np.cumsum(self.counts[window])
        found = []
        for group, end in enumerate(ends.tolist()):
            carried, left = int(self._carried[window, group]), int(self._carried[window + 1, group])
            start, stop = end - int(self.counts[window, group]), end - left
            own = stop - start
            for first in range(0, carried + own, size):
                last = min(first + size, carried + own)
                if self.terms.drop_last and last - first < size:
                    continue
                pieces = []
                if first < carried:
                    # these are the last ones of the group in the window before
                    base = int(before[group]) - carried
                    pieces.append(Piece(window - 1, base + first, base + min(last, carried)))
                if last > carried:
                    pieces.append(Piece(window, start + max(first - carried, 0), start + last - carried))
                found.append(pieces)
        # else all batches of one group would come before those of the next
        if self.terms.shuffle and len(ends) > 1:
            order = self.terms.generator(self.rank, window, 1).permutation(len(found))
            found = [found[i] for i in order]
        return sorted(found, key=lambda pieces: pieces[0].window)  # so that the window before can be given up soon

    @cached_property
    def _mixed(self) -> Array:
        """A permutation of a window; others have the same one, turned: the blocks that it mixes are random already."""
        n_rows = int(self.counts.sum(1).max(initial=0))
        # `permutation` would keep other threads from running
        mixed: Array = self.terms.generator(self.rank).choice(n_rows, n_rows, replace=False)
        return mixed

    def places(self, window: int, groups: Array | None) -> Array | None:
        """Return where in a window its samples go, in the order of its segments; None if they stay."""
        n_rows = int(self.counts[window].sum())
        if not self.terms.shuffle:
            order = None if groups is None else np.argsort(groups, kind="stable")
        else:
            # what is left of a random permutation without its larger numbers is a random one of the others
            places = self._mixed if n_rows == len(self._mixed) else self._mixed[self._mixed < n_rows]
            places = places + self.terms.generator(self.rank, window, 0).integers(n_rows)
            # modulo n_rows, at a fifth of the time: without a sign, what would be below 0 is larger than all others
            places = np.minimum(places.view(np.uint64), (places - n_rows).view(np.uint64)).view(np.int64)
            if groups is None:
                return places
            order = np.argsort(places)
            # stable, so that each group keeps the order in which it was shuffled
            order = order[np.argsort(groups[order], kind="stable")]
        if order is None:
            return None
        # from the sample at each place to the place of each sample
        inverse = np.empty(n_rows, np.int64)
        inverse[order] = np.arange(n_rows)
        return inverse


def plan_epoch(epochs: Sequence[Epoch], rank: int) -> Epoch:
    """Return the batches of one rank, of which there are as many as on all others.

    With ``drop_last``, those of the rank with the fewest; else those of the one with the most, and some are cut in two.

    Raises
    ------
    ArgumentError
        If there are too few samples for that.
    """
    numbers = [epoch.n_batches for epoch in epochs]
    own = epochs[rank]
    n_wanted = min(numbers) if own.terms.drop_last else max(numbers)
    even = [Epoch(epoch.terms, epoch.rank, epoch.stretch, epoch.counts, n_wanted) for epoch in epochs]
    # each rank checks those of all: if only one raised, the others would wait for it
    for epoch in even:
        epoch.check()
    return even[rank]


def _length(batch: Sequence[Piece]) -> int:
    return sum(piece.stop - piece.start for piece in batch)


def _halves(batch: Sequence[Piece]) -> list[list[Piece]]:
    middle, seen = _length(batch) // 2, 0
    halves: tuple[list[Piece], list[Piece]] = ([], [])
    for piece in batch:
        cut = min(max(middle - seen, 0), piece.stop - piece.start) + piece.start
        for half, part in zip(
            halves, (Piece(piece.window, piece.start, cut), Piece(piece.window, cut, piece.stop)), strict=True
        ):
            if part.start < part.stop:
                half.append(part)
        seen += piece.stop - piece.start
    return list(halves)
