"""What can be told of damage without reading samples: from what lies where, and how many bytes it has."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dasksim._core.failures import VALID
from dasksim._core.telling import counted
from dasksim.errors import StoreError
from dasksim.store._document import inner_codecs, shard_key
from dasksim.store._entries import StoredVariable
from dasksim.store._location import Location, explained
from dasksim.store._objects import sizes_of
from dasksim.store._told import read_document

__all__ = ["Columns", "ShardSizes", "damaged_shards", "refuse_damage"]

#: Variables of a store, by name.
Variables = Mapping[str, StoredVariable]

#: Fields of receipts, by name.
Columns = Mapping[str, npt.NDArray[np.uint64]]

# Chunks that a message names.
_MOST_NAMED = 5


class ShardSizes:
    """How many bytes the shards of chunks have, from one listing of each array.

    Receipts must have been read before: a chunk's shards are written first.

    Parameters
    ----------
    location
        Where the store is.
    variables
        Which variables to look at, with what the record says of them.
    chunks
        Which chunks.

    Raises
    ------
    StoreError
        If the store cannot be listed.
    """

    def __init__(self, location: Location, variables: Variables, chunks: Sequence[int]) -> None:
        self._n_axes = {name: 1 + len(variable.shape) for name, variable in variables.items()}
        self._is_own = {name: _has_own_codecs(location, name) for name in variables}
        self._found: dict[str, int | None] = {}
        store = location.for_reading()
        with explained(f"cannot list the store at {location.name!r}"):
            for name, n_axes in self._n_axes.items():
                keys = [shard_key(name, chunk, n_axes) for chunk in chunks]
                self._found |= sizes_of(store, keys, f"{name}/")

    def problem(self, name: str, chunk: int, receipt: Mapping[str, int]) -> str:
        """Return what is wrong with a shard, or nothing; older receipts do not say how large it was."""
        key = shard_key(name, chunk, self._n_axes[name])
        expected = receipt.get(f"bytes:{name}", 0)
        if name == VALID and not expected and not receipt.get(f"digest:{name}", 0):
            return ""  # made before samples could be masked
        if key not in self._found:
            return "has no shard"
        found = self._found[key]
        is_known = found is not None and expected and self._is_own[name]  # what others have recompressed is not
        # an empty shard would be read as fill values, whoever left it
        if found == 0 or (is_known and found != expected):
            return f"has a shard of {found:,} bytes{f', not {expected:,}' if expected else ''}"
        return ""


def _has_own_codecs(location: Location, name: str) -> bool:
    try:
        document = read_document(location, name) or {}
    except StoreError:  # for others to tell
        return False
    is_float = str(document.get("data_type")).startswith(("float", "complex"))
    return inner_codecs(document) == (["crc32c"] if is_float else ["blosc", "crc32c"])


def damaged_shards(location: Location, variables: Variables, columns: Columns) -> dict[int, tuple[str, ...]]:
    """Return what is wrong with the shards of chunks that have receipts, by chunk.

    Raises
    ------
    StoreError
        If the store cannot be listed.
    """
    chunks: list[int] = columns["chunk"].tolist()
    sizes = ShardSizes(location, variables, chunks)
    found: dict[int, tuple[str, ...]] = {}
    for name in variables:
        fields = [field for field in (f"digest:{name}", f"bytes:{name}") if field in columns]
        rows = zip(*(columns[field].tolist() for field in fields), strict=True) if fields else [()] * len(chunks)
        for chunk, row in zip(chunks, rows, strict=True):
            if problem := sizes.problem(name, chunk, dict(zip(fields, row, strict=True))):
                found[chunk] = (*found.get(chunk, ()), f"{name!r} {problem}")
    return dict(sorted(found.items()))


def refuse_damage(location: Location, variables: Variables, columns: Columns, call: str = "generate") -> None:
    """Raise a StoreError if shards of chunks that have receipts are missing, or of other sizes than they were."""
    damaged = damaged_shards(location, variables, columns)
    if not damaged:
        return
    named = [f"chunk {chunk}: {', '.join(found)}" for chunk, found in list(damaged.items())[:_MOST_NAMED]]
    more = f"; and {counted(len(damaged) - _MOST_NAMED, 'more chunk')}" if len(damaged) > _MOST_NAMED else ""
    raise StoreError(
        f"the store at {location.name!r} is damaged: {'; '.join(named)}{more}; {call}(..., repair=True) makes such "
        "chunks again"
    )
