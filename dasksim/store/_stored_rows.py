"""Rows of a store, read where they are needed."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksim.store._location import Location, explained
from dasksim.store._shards import ShardReader

__all__ = ["StoredRows"]


@dataclass(frozen=True)
class StoredRows:
    """Rows of a variable of a store, which are read where they are needed.

    Parameters
    ----------
    location
        Where the store is.
    name
        The variable.
    samples
        Which samples: those of a chunk.
    """

    location: Location
    name: str
    samples: slice = field(default_factory=lambda: slice(None))

    def __getitem__(self, samples: slice) -> "StoredRows":
        return StoredRows(self.location, self.name, samples)

    def load(self) -> npt.NDArray[Any]:
        """Read them.

        Raises
        ------
        StoreError
            If they cannot be read, or differ from their checksums.
        """
        with explained(f"cannot read {self.name!r} of the store at {self.location.name!r}"):
            group = self.location.group()
            # by Zarr, a shard that is lost would be read as fill values, and what is derived from them stored
            reader = ShardReader(self.location, group[self.name])  # type: ignore[arg-type]
            first, stop = self.samples.start, self.samples.stop
            chunk = first // reader.chunk_rows
            inners = range(-(-(stop - first) // reader.inner_rows))
            return np.concatenate([values for _, values in reader.read(chunk, inners)])[: stop - first]
