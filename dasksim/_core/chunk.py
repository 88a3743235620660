"""One chunk of a dataset as it is made, and the receipt that it is complete in a store."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from dasksim._core.failures import Failure

__all__ = ["Chunk", "Receipt", "Trace"]


@dataclass(frozen=True)
class Chunk:
    """One chunk of a dataset.

    Parameters
    ----------
    variables
        The values.
    n_proposals, n_accepted
        Proposals made and accepted.
    failures
        What failed.
    """

    variables: Mapping[str, npt.NDArray[Any]]
    n_proposals: int
    n_accepted: int
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class Trace:
    """What an audit compares of a chunk.

    Parameters
    ----------
    made_by
        The process that made it.
    opening
        What its first samples are, a number each.
    units
        CRC32C of each row, by variable, of the parts that may be simulated again, by their numbers.
    """

    made_by: str
    opening: tuple[int, ...] = ()
    units: Mapping[int, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Receipt:
    """The record that one chunk is complete.

    Parameters
    ----------
    chunk
        Number of the chunk.
    n_rows
        Its samples.
    n_proposals
        Samples that were proposed to fill it.
    n_accepted
        How many of them were accepted; some may have been one too many.
    nanoseconds
        Time taken to simulate and write it.
    digests
        CRC32C of the stored values, by variable.
    failures
        What failed.
    sizes
        Bytes of its shards, by variable.
    trace
        What an audit compares, if one asks for it; it is not stored.
    """

    chunk: int
    n_rows: int
    n_proposals: int
    n_accepted: int
    nanoseconds: int
    digests: Mapping[str, int]
    failures: tuple[Failure, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    trace: Trace | None = None

    @property
    def n_failed(self) -> int:
        """How many times a sample failed."""
        return sum(failure.count for failure in self.failures)
