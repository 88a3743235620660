"""Check what a store holds against its receipts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from dasksim._core.failures import VALID
from dasksim.errors import StoreError
from dasksim.store._damage import ShardSizes
from dasksim.store._dtypes import as_stored
from dasksim.store._location import Location, explained
from dasksim.store._metadata import damaged_metadata
from dasksim.store._receipt import digest_rows
from dasksim.store._receipts import open_receipts
from dasksim.store._record import Record

__all__ = ["ChunkChecker"]

Array = npt.NDArray[Any]


class ChunkChecker:
    """Compares chunks of a store with their receipts, byte by byte; writes nothing.

    Parameters
    ----------
    location
        Where the store is.
    record
        What it says of itself.
    derivation
        The key of a derivation, to check its chunks in place of simulated ones.
    """

    def __init__(self, location: Location, record: Record, derivation: str | None = None) -> None:
        if derivation is not None:
            record = record.view(derivation) or record
        self.record = record
        self.receipts = open_receipts(location, derivation)
        self.complete = sorted(self.receipts.complete_chunks()) if self.receipts else []
        with explained(f"cannot read the metadata of the store at {location.name!r}"):
            # without a receipt there are no samples yet, and going on makes metadata that a kill has left out
            bad = damaged_metadata(location, record, derivation) if self.complete else []
        if bad:
            what = ", ".join(map(repr, bad)) if any(bad) else "its arrays, as gathered in its root,"
            raise StoreError(
                f"the metadata of {what} in the store at {location.name!r} are lost or damaged; "
                "generate(..., repair=True) makes them again"
            )
        with explained(f"cannot open the store at {location.name!r}"):
            group = location.group()
            found = {name: group.get(name) for name in record.variables}
        self._sizes = ShardSizes(location, record.variables, self.complete)
        self.arrays = {name: array for name, array in found.items() if isinstance(array, zarr.Array)}

    def problems(self, chunk: int) -> list[str]:
        """Return what is wrong with the stored bytes of a chunk that has a receipt."""
        try:
            receipt = self._receipt(chunk)
        except StoreError as error:
            return [f"its receipt cannot be read: {_first_line(error.__cause__ or error)}"]
        rows = self.record.samples(chunk)
        if not receipt.get("complete"):
            return ["its receipt is empty"]
        # sizes come first: Zarr reads a shard that is missing or empty as fill values, without a word
        found = [
            f"{name!r} {problem}"
            for name, array in self.arrays.items()
            if (problem := self._sizes.problem(name, chunk, receipt) or self._problem(name, array, rows, receipt))
        ]
        return found if self._counts_failures(chunk, receipt) else [*found, "its list of failures is damaged"]

    def _receipt(self, chunk: int) -> dict[str, int]:
        return self.receipts.read(chunk) if self.receipts else {}

    def _counts_failures(self, chunk: int, receipt: Mapping[str, int]) -> bool:
        try:
            failures = self.receipts.failures_of(chunk) if self.receipts else ()
        except Exception:  # noqa: BLE001
            return False
        rows = self.record.samples(chunk)
        if any(not rows.start <= failure.sample < rows.stop for failure in failures):
            return False  # they are another chunk's
        # receipts of older stores do not count failures
        return "failed" not in receipt or sum(failure.count for failure in failures) == receipt["failed"]

    def _problem(self, name: str, array: zarr.Array[Any], rows: slice, receipt: Mapping[str, int]) -> str:
        try:
            values = np.asarray(array[rows])
        except Exception as error:  # noqa: BLE001
            return f"cannot be read: {_first_line(error)}"
        digest = receipt.get(f"digest:{name}")
        if name == VALID and not digest:
            return ""  # made before samples could be masked, or by an older version that had no place for its digest
        return "" if digest_rows(values) == digest else "differs from its receipt"

    def differences(self, chunk: int, made: Mapping[str, Array]) -> list[str]:
        """Return which variables of a chunk differ from values that were made now."""
        receipt, values = self._receipt(chunk), self.as_stored(made)
        return [
            f"{name!r} differs from what the simulator makes"
            for name, rows in values.items()
            if receipt.get(f"digest:{name}", 0) != digest_rows(rows)
            and not (name == VALID and not receipt.get(f"digest:{name}", 0))
        ]

    def as_stored(self, made: Mapping[str, Array]) -> dict[str, Array]:
        """Return values that were made in the dtypes in which the store has them."""
        return {name: as_stored(made[name], name, array.dtype) for name, array in self.arrays.items()}

    def sample(self, sample: int) -> dict[str, Array]:
        """Return what the store holds of one sample."""
        return {name: np.asarray(array[sample]) for name, array in self.arrays.items()}


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
