"""From a number of samples to sub-batches and chunks.

Pure index arithmetic. Sub-batch ``i`` holds samples ``[i * s, (i + 1) * s)``; a chunk is a run of whole sub-batches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dasksim.errors import ArgumentError, ArgumentTypeError

__all__ = ["Plan", "as_shape", "check_count", "plan_samples"]

# Rows of a sub-batch. Unbatched: what a sub-batch costs by itself (about 0.1 ms) is 10 % of 256 rows of 4 microseconds.
# Batched: large enough that NumPy's overhead a call is lost, small enough that temporaries stay in a core's cache.
_UNBATCHED_ROWS = 256
_BATCHED_BYTES = 1 << 20
_BATCHED_MAX_ROWS = 1 << 16

# Bytes of a chunk, all its variables together, and the number of chunks below which chunks get smaller instead.
_CHUNK_BYTES = 1 << 25
_MIN_CHUNKS = 32


@dataclass(frozen=True)
class Plan:
    """How a dataset is cut up.

    Parameters
    ----------
    n_samples
        Length of the batch axis.
    further
        Sizes of further batch axes.
    seed
        The seed in force.
    sub_batch_size
        Samples in a sub-batch, at most ``n_samples``.
    chunk_size
        Samples in a chunk, a multiple of ``sub_batch_size``.
    """

    n_samples: int
    further: tuple[int, ...]
    seed: int
    sub_batch_size: int
    chunk_size: int

    @property
    def n_chunks(self) -> int:
        """Number of chunks; the last one may be short."""
        return -(-self.n_samples // self.chunk_size)

    @property
    def chunk_sizes(self) -> tuple[int, ...]:
        """Samples in each chunk."""
        full, rest = divmod(self.n_samples, self.chunk_size)
        return (self.chunk_size,) * full + ((rest,) if rest else ())

    def samples(self, chunk: int) -> slice:
        """Return the samples of a chunk."""
        return slice(chunk * self.chunk_size, min((chunk + 1) * self.chunk_size, self.n_samples))

    def n_rows(self, chunk: int) -> int:
        """Return the number of samples of a chunk."""
        samples = self.samples(chunk)
        return samples.stop - samples.start

    def sub_batches(self, chunk: int) -> range:
        """Return the numbers of the sub-batches of a chunk."""
        samples = self.samples(chunk)
        return range(samples.start // self.sub_batch_size, -(-samples.stop // self.sub_batch_size))


def as_shape(batch_shape: object, batch_size: object = None) -> tuple[int, ...]:
    """Return a batch shape, given as an int or a tuple of ints under one of its two names.

    Raises
    ------
    ArgumentTypeError
        If it is missing, or is no int or sequence of ints.
    ArgumentError
        If a size is less than 1.
    """
    if (batch_shape is None) == (batch_size is None):
        got = "neither" if batch_shape is None else "both"
        raise ArgumentTypeError(f"give the number of samples as batch_shape or its synonym batch_size; got {got}")
    name, value = ("batch_shape", batch_shape) if batch_size is None else ("batch_size", batch_size)
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            raise ArgumentError(f"{name} must have at least one axis; got {value!r}")
        return tuple(check_count(name, size, whole=value) for size in value)
    return (check_count(name, value),)


def check_count(name: str, value: Any, *, whole: Any = None) -> int:
    """Return ``value`` as an int >= 1, or raise."""
    shown = value if whole is None else whole
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise ArgumentTypeError(f"{name} must be an integer >= 1; got {shown!r}")
    if value < 1:
        raise ArgumentError(f"{name} must be >= 1; got {shown!r}")
    return int(value)


def plan_samples(
    shape: tuple[int, ...],
    *,
    seed: int,
    sample_bytes: int,
    is_batched: bool,
    sub_batch_size: int | None = None,
    chunk_size: int | None = None,
) -> Plan:
    """Cut ``shape[0]`` samples into sub-batches and chunks.

    Every sample belongs to exactly one sub-batch, and every sub-batch to exactly one chunk.

    Parameters
    ----------
    shape
        The batch shape.
    seed
        The seed in force.
    sample_bytes
        Bytes of one sample, all variables and further batch axes together.
    is_batched
        Whether all stages are batched.
    sub_batch_size, chunk_size
        Sizes in samples. By default a fixed function of the other arguments: ``sub_batch_size`` of ``sample_bytes``
        and ``is_batched`` alone, since values depend on it.

    Raises
    ------
    ArgumentError
        If the chunk size is no multiple of the sub-batch size.
    """
    n = shape[0]
    size = min(n, sub_batch_size or _default_sub_batch(sample_bytes, is_batched))
    whole = -(-n // size) * size
    if chunk_size is None:
        chunk = min(whole, size * _default_sub_batches(n, size, sample_bytes))
    elif chunk_size >= n:
        chunk = whole
    elif chunk_size % size:
        raise ArgumentError(_misfit(chunk_size, size))
    else:
        chunk = chunk_size
    return Plan(n, shape[1:], seed, size, chunk)


def _default_sub_batch(sample_bytes: int, is_batched: bool) -> int:
    if not is_batched:
        return _UNBATCHED_ROWS
    rows = max(_BATCHED_BYTES // max(sample_bytes, 1), 1)
    return min(1 << (rows.bit_length() - 1), _BATCHED_MAX_ROWS)


def _default_sub_batches(n: int, size: int, sample_bytes: int) -> int:
    """Return how many sub-batches make a chunk: a power of two, so that a shard can be cut into equal parts."""
    largest = _CHUNK_BYTES // max(size * sample_bytes, 1)
    wanted = math.ceil(n / (size * _MIN_CHUNKS))
    return 1 << (max(min(largest, wanted), 1).bit_length() - 1)


def _misfit(chunk_size: int, size: int) -> str:
    below, above = chunk_size // size * size, -(-chunk_size // size) * size
    advice = f"use {below} or {above}" if below else f"use {above}"
    return f"chunk_size={chunk_size} is not a multiple of sub_batch_size={size}; {advice}, or leave chunk_size out"
