"""Blocks of samples as loaders see them, some of which are wanted."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dasksim._core.failures import VALID
from dasksim._core.telling import counted
from dasksim.errors import ArgumentError, nearest
from dasksim.loaders._request import LoaderRequest

__all__ = ["Blocks", "Form", "Part", "WantedBlocks"]

Array = npt.NDArray[Any]

#: Blocks of a chunk that are read, each with its number in the chunk and the arrays of its variables.
Part = Iterator[tuple[int, Mapping[str, Array]]]


class Form(NamedTuple):
    """What an array for the samples of a variable has to be."""

    dtype: np.dtype[Any]
    row_shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype.name} of shape {self.row_shape}"


class Blocks(ABC):
    """What loaders read: blocks, numbered through, the least that is read, as they are at one time.

    A block holds consecutive samples. Blocks lie in *chunks*, of which several blocks are best read together.
    """

    #: What it is, and what its blocks are called, for messages.
    title: str
    kind: str

    #: Whether reading waits for a network.
    is_far: bool = False

    #: Of the variables that are read.
    forms: dict[str, Form]

    #: Numbers of the blocks that are there, and how many samples of each are wanted.
    blocks: Array
    counts: Array

    #: Samples of the largest block.
    block_rows: int

    #: Number after that of the last block that there can be.
    n_numbers: int

    #: Values of the context within which batches are drawn; None without one.
    contexts: list[Any] | None

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample in memory."""
        return sum(math.prod(form.row_shape) * form.dtype.itemsize for form in self.forms.values())

    @property
    def n_groups(self) -> int:
        """Number of values of the context; 1 without one."""
        return max(len(self.contexts or ()), 1)

    @abstractmethod
    def rows(self, block: int) -> Array:
        """Return the wanted samples of a block, counted from its first one."""

    @abstractmethod
    def groups(self, block: int, rows: Array) -> Array:
        """Return the numbers of the contexts' values of some samples of a block."""

    @abstractmethod
    def place(self, block: int) -> tuple[Any, int]:
        """Return the chunk of a block, and its number there."""

    @abstractmethod
    def parts(self, chunk: Any, inners: Sequence[int]) -> list[Part]:
        """Return what reads blocks of a chunk; each part may be gone through by a thread of its own."""

    def check_unchanged(self) -> None:  # noqa: B027  # of a dataset there is nothing to check
        """Raise a StoreMismatchError if samples may be others now than when this was opened."""

    def check_length(self) -> None:  # noqa: B027
        """Raise a StoreMismatchError if there are more samples now."""


class WantedBlocks(Blocks):
    """Blocks of one store or dataset.

    Parameters
    ----------
    request
        What is wanted.
    known
        The variables that there are.
    edges
        Number of the first sample of each block, and after the last one of all.
    blocks
        Which blocks are there.
    sub_batch_size
        Samples that share a context.
    has_mask
        Whether samples may be masked.

    Raises
    ------
    ArgumentError
        If there is no such variable, or samples are masked and nobody said what to do with them.
    """

    def __init__(
        self,
        request: LoaderRequest,
        known: Mapping[str, Form],
        edges: Array,
        blocks: Array,
        sub_batch_size: int,
        *,
        has_mask: bool,
    ) -> None:
        names = _names(request, known, self.title, has_mask)
        self.forms = {name: known[name] for name in names}
        self.blocks = blocks
        self.n_numbers = len(edges) - 1
        self.block_rows = int(np.diff(edges).max(initial=1))
        self._edges, self._sub_batch_size = edges, sub_batch_size
        self._split = request.split
        self._invalid = self._find_invalid(request) if has_mask and VALID in known else {}
        self.counts = np.array([self._count(int(block)) for block in self.blocks], np.int64)
        self.contexts, self._groups = self._find_groups(request.within, known)

    @abstractmethod
    def read_all(self, name: str) -> Iterable[tuple[int, Array]]:
        """Return one variable of all blocks."""

    def groups(self, block: int, rows: Array) -> Array:
        groups: Array = self._groups[(self._edges[block] + rows) // self._sub_batch_size]
        return groups

    def rows(self, block: int) -> Array:
        wanted = self._wanted(block)
        if isinstance(wanted, bool):
            return np.arange(self._n_rows(block) if wanted else 0)
        return np.flatnonzero(wanted)

    def _wanted(self, block: int) -> npt.NDArray[np.bool_] | bool:
        first, stop = self._edges[block : block + 2].tolist()
        wanted = True if self._split is None else self._split.rows(block, first, stop)
        if block in self._invalid and wanted is not False:
            wanted = np.full(stop - first, True) if wanted is True else wanted
            wanted[self._invalid[block]] = False
        return wanted

    def _n_rows(self, block: int) -> int:
        return int(self._edges[block + 1] - self._edges[block])

    def _count(self, block: int) -> int:
        wanted = self._wanted(block)
        return self._n_rows(block) * int(wanted) if isinstance(wanted, bool) else int(np.count_nonzero(wanted))

    def _find_invalid(self, request: LoaderRequest) -> dict[int, Array]:
        """Return the masked samples of each block that has some, if they are not wanted."""
        if request.masked == "keep":
            return {}
        # no order can be planned before it is known how many samples each block has, so the whole mask is read
        found = {}
        for block, valid in self.read_all(VALID):
            if not valid.all():
                found[block] = np.flatnonzero(~valid)
        if found and request.masked == "refuse":
            n_masked = sum(map(len, found.values()))
            raise ArgumentError(
                f"{counted(n_masked, 'sample')} of {self.title} failed and {'is' if n_masked == 1 else 'are'} masked; "
                "give masked='drop' to leave them out, which conditions prior and likelihood on success, or "
                f"masked='keep' to have them, with NaN or 0 as values and False as {VALID!r}"
            )
        return found

    def _find_groups(self, within: str | None, known: Mapping[str, Form]) -> tuple[list[Any] | None, Array]:
        """Return the values of the context, and for each sub-batch the number of its value."""
        size = self._sub_batch_size
        if within is None:
            return None, np.zeros(0, np.int32)
        if within not in known:
            raise ArgumentError(f"within={within!r} is no variable of {self.title}; {nearest(within, known)}")
        values: dict[int, Any] = {}
        for block, content in self.read_all(within):
            rows = self._valid_rows(block)
            flat = content.reshape(len(content), math.prod(content.shape[1:]))[rows[rows < len(content)]]
            # the sub-batch of each sample, the first sample of each sub-batch, and whether all others have its value
            batches = (self._edges[block] + rows) // size
            first = np.flatnonzero(np.diff(batches, prepend=-1))
            if flat.shape[1] != 1 or np.any(flat != np.repeat(flat[first], np.diff([*first, len(rows)]), axis=0)):
                raise ArgumentError(
                    f"within={within!r} must be a context: one number for each sub-batch; it differs within the "
                    f"sub-batches of samples {self._edges[block]} to {self._edges[block] + len(content) - 1}"
                )
            # a sub-batch may lie in several blocks
            for batch, value in zip(batches[first].tolist(), flat[first, 0].tolist(), strict=True):
                values.setdefault(batch, value)
                if values[batch] != value:
                    raise ArgumentError(f"within={within!r} must be a context; it differs within sub-batch {batch}")
        groups = np.zeros(-(-int(self._edges[-1]) // size), np.int32)
        contexts = sorted(set(values.values()))
        number = {value: i for i, value in enumerate(contexts)}
        for batch, value in values.items():
            groups[batch] = number[value]
        return contexts, groups

    def _valid_rows(self, block: int) -> Array:
        keep = np.full(self._n_rows(block), True)
        keep[self._invalid.get(block, np.zeros(0, np.int64))] = False
        return np.flatnonzero(keep)


def _names(request: LoaderRequest, known: Mapping[str, Form], title: str, has_mask: bool) -> Sequence[str]:
    """Return the variables to read; ``valid`` is a user's own in older stores whose samples may not be masked."""
    if request.variables is None:
        return [name for name in known if name != VALID or request.masked == "keep" or not has_mask]
    for name in request.variables:
        if name not in known:
            raise ArgumentError(f"variables names {name!r}, which is not in {title}; {nearest(name, known)}")
    return request.variables
