"""The blocks of a dataset: its Dask chunks or, of what is in memory, slices."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim.loaders._blocks import Form, Part, WantedBlocks
from dasksim.loaders._request import LoaderRequest
from dasksim.store import DatasetReader

__all__ = ["DatasetBlocks"]


class DatasetBlocks(WantedBlocks):
    """A dataset, of which each block is a chunk of its own.

    Parameters
    ----------
    request
        What is wanted of it.
    reader
        What reads it.
    """

    title, kind = "the dataset", "chunks"

    def __init__(self, request: LoaderRequest, reader: DatasetReader) -> None:
        self._reader = reader
        forms = {name: Form(*form) for name, form in reader.variables.items()}
        # any sample may have a context of its own
        super().__init__(
            request, forms, reader.edges, np.arange(len(reader.edges) - 1), sub_batch_size=1, has_mask=reader.has_mask
        )

    def place(self, block: int) -> tuple[int, int]:
        return block, 0

    def parts(self, chunk: int, inners: Sequence[int]) -> list[Part]:
        return [((inner, self._reader.read(chunk, list(self.forms))) for inner in inners)]

    def read_all(self, name: str) -> Iterable[tuple[int, npt.NDArray[Any]]]:
        return ((block, self._reader.read(block, [name])[name]) for block in self.blocks.tolist())
