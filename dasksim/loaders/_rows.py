"""Any samples of a store, by their numbers."""

from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim.errors import ArgumentError
from dasksim.loaders._blocks import Blocks

__all__ = ["Rows"]

Array = npt.NDArray[Any]


class Rows:
    """The wanted samples of a store in their order; inner chunks that were read last are kept, up to ``buffer_bytes``.

    Parameters
    ----------
    source
        What is read.
    buffer_bytes
        How much is kept.
    """

    def __init__(self, source: Blocks, buffer_bytes: int) -> None:
        self._source = source
        self._ends = np.cumsum(self._source.counts)
        self._blocks: OrderedDict[int, dict[str, Array]] = OrderedDict()
        block_bytes = max(self._source.row_bytes * self._source.block_rows, 1)
        self._n_kept = max(buffer_bytes // block_bytes, 1)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def take(self, numbers: Any) -> dict[str, Array]:
        """Return samples, counted among the wanted ones.

        Raises
        ------
        ArgumentError
            If there is no such sample.
        StoreError
            If one cannot be read.
        """
        wanted = np.asarray(numbers, np.int64)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise ArgumentError(f"samples are numbered from 0 to {len(self) - 1}; got {wanted.min()} to {wanted.max()}")
        source = self._source
        taken = {name: np.empty((len(wanted), *r.row_shape), r.dtype) for name, r in source.forms.items()}
        positions = np.searchsorted(self._ends, wanted, side="right")
        # block by block, so that none is read twice, however its samples are spread
        for position in np.unique(positions):
            places = np.flatnonzero(positions == position)
            rows = wanted[places] - (self._ends[position] - source.counts[position])
            block = self._block(int(source.blocks[position]))
            for name, array in taken.items():
                array[places] = block[name][rows]
        return taken

    def _block(self, number: int) -> dict[str, Array]:
        """Return the wanted samples of a block."""
        found = self._blocks.pop(number, None)
        if found is None:
            found = self._read(number)
        # at the end again: the first one is then that which was not used for longest
        self._blocks[number] = found
        while len(self._blocks) > self._n_kept:
            self._blocks.popitem(last=False)
        return found

    def _read(self, number: int) -> dict[str, Array]:
        source = self._source
        chunk, inner = source.place(number)
        rows = source.rows(number)
        parts = source.parts(chunk, [inner])
        found = {name: values[rows] for part in parts for _, read in part for name, values in read.items()}
        # afterwards, as the store may have been made anew while this was read
        source.check_unchanged()
        return found
