"""Which samples belong to which split: by their numbers alone, so that a longer store has the same ones and more."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim.errors import ArgumentError, ArgumentTypeError, nearest

__all__ = ["Split", "check_split"]

# The fractional parts of multiples of the golden ratio, as 64-bit integers: any run of them is spread evenly.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

# So many inner chunks are split sample by sample, so that small stores have exact splits; later ones go to a split as a
# whole, so that each is read for one split only.
_FINE_BLOCKS = 64


@dataclass(frozen=True)
class Split:
    """One of several disjoint parts of a store.

    Parameters
    ----------
    name
        Its name.
    lower, upper
        Its share of the numbers below ``2**64``.
    """

    name: str
    lower: int
    upper: int

    def rows(self, block: int, first: int, stop: int) -> npt.NDArray[np.bool_] | bool:
        """Return which samples of a block, from the first to the last, are in the split; one value if all or none."""
        if block >= _FINE_BLOCKS:
            return bool(self._holds(np.array([block], np.uint64))[0])
        return self._holds(np.arange(first, stop, dtype=np.uint64))

    def _holds(self, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        # that it wraps around is what leaves the fractional part
        spread = numbers * _GOLDEN
        # the upper edge of the last split, 2**64, does not fit into 64 bits
        return (spread >= np.uint64(self.lower)) & (spread <= np.uint64(self.upper - 1))


def check_split(split: Any) -> Split | None:
    """Return the split that was asked for.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If it is none.
    """
    if split is None:
        return None
    is_pair = isinstance(split, tuple | list) and len(split) == 2
    if not is_pair or not isinstance(split[0], str) or not isinstance(split[1], Mapping) or not split[1]:
        raise ArgumentTypeError(
            "split must be a name and the fractions of all splits, such as ('train', {'train': 0.9, 'validation': "
            f"0.1}}); got {split!r}"
        )
    name, fractions = split
    if name not in fractions:
        raise ArgumentError(f"split names {name!r}, for which there is no fraction; {nearest(name, fractions)}")
    for key, fraction in fractions.items():
        if isinstance(fraction, bool) or not isinstance(fraction, int | float | np.number):
            raise ArgumentTypeError(f"the fraction of split {key!r} must be a number; got {fraction!r}")
        if not 0 < fraction <= 1:
            raise ArgumentError(f"the fraction of split {key!r} must be greater than 0 and at most 1; got {fraction!r}")
    total = math.fsum(map(float, fractions.values()))
    if abs(total - 1) > 1e-6:
        hint = f"; give what is left over a name too, such as 'unused': {1 - total:.6g}" if total < 1 else ""
        raise ArgumentError(f"the fractions of all splits must sum to 1; {dict(fractions)!r} sum to {total:.6g}{hint}")
    # summed from the first for all splits alike, so that neighbours have the very same edge; the last one is exact
    edges = [round(math.fsum(map(float, list(fractions.values())[:i])) * 2**64) for i in range(len(fractions))]
    edges.append(2**64)
    i = list(fractions).index(name)
    return Split(name, edges[i], edges[i + 1])
