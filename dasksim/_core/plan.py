"""From a number of samples to sub-batches and chunks.

Pure index arithmetic. Sub-batch ``i`` holds samples ``[i * s, (i + 1) * s)``; a chunk is a run of whole sub-batches.
"""

import math
from dataclasses import dataclass

from dasksim.errors import ArgumentError

__all__ = ["Plan", "default_sub_batch", "plan_samples"]

# Rows of a sub-batch. Unbatched: what one costs by itself, about 0.1 ms, is a tenth of 512 rows of 3 microseconds.
# Batched: large enough that NumPy's overhead a call is lost, small enough that temporaries stay in a core's cache.
_UNBATCHED_ROWS = 512
_BATCHED_BYTES = 1 << 20
_BATCHED_MAX_ROWS = 1 << 16

# A GPU of some hundred thousand threads needs as many rows to be busy, and a kernel's start is cheap only among many.
_GPU_FACTOR = 16

# Bytes of a chunk at most, all its variables together, and the number of chunks to which a small dataset is cut (16 to
# 32) so that workers have something to share.
_CHUNK_BYTES = 1 << 25
_MAX_CHUNKS = 32


# Chunks of a dataset at most: each is an entry of a Dask graph, and two files or more of a store.
_LARGEST_N_CHUNKS = 10_000_000


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
        return min(self.chunk_size, self.n_samples - chunk * self.chunk_size)

    def n_rows_of(self, sub_batch: int) -> int:
        """Return the number of samples of a sub-batch."""
        return min(self.sub_batch_size, self.n_samples - sub_batch * self.sub_batch_size)

    def sub_batches(self, chunk: int) -> range:
        """Return the numbers of the sub-batches of a chunk."""
        samples = self.samples(chunk)
        return range(samples.start // self.sub_batch_size, -(-samples.stop // self.sub_batch_size))


def plan_samples(
    shape: tuple[int, ...],
    *,
    seed: int,
    sample_bytes: int,
    is_batched: bool,
    on_gpu: bool = False,
    sub_batch_size: int | None = None,
    chunk_size: int | None = None,
) -> Plan:
    """Cut ``shape[0]`` samples into sub-batches and chunks.

    Every sample belongs to exactly one sub-batch, and every sub-batch to exactly one chunk. By default sizes are a
    fixed function of the other arguments, that of sub-batches of bytes, batching and device alone: values depend on it.

    Raises
    ------
    ArgumentError
        If the chunk size is no multiple of the sub-batch size, or makes more chunks than can be kept count of.
    """
    n = shape[0]
    size = min(n, sub_batch_size or default_sub_batch(sample_bytes, is_batched, on_gpu))
    whole = -(-n // size) * size
    if chunk_size is None:
        chunk = min(whole, size * _default_sub_batches(n, size, sample_bytes))
    elif chunk_size >= n:
        # one chunk; a size beyond the end need not be a multiple of that of sub-batches
        chunk = whole
    elif chunk_size % size:
        raise ArgumentError(_misfit(chunk_size, size))
    else:
        chunk = chunk_size
    if n > chunk * _LARGEST_N_CHUNKS:
        raise ArgumentError(
            f"chunks of {chunk} samples cut {n} samples into more than {_LARGEST_N_CHUNKS:,} chunks; give a chunk_size "
            f"of at least {-(-n // (_LARGEST_N_CHUNKS * size)) * size}"
        )
    return Plan(n, shape[1:], seed, size, chunk)


def default_sub_batch(sample_bytes: int, is_batched: bool, on_gpu: bool = False) -> int:
    """Return the rows of a sub-batch, from the bytes of a sample, whether all stages are batched, and the device."""
    if not is_batched:
        return _UNBATCHED_ROWS
    factor = _GPU_FACTOR if on_gpu else 1
    rows = max(factor * _BATCHED_BYTES // max(sample_bytes, 1), 1)
    # a power of two, so that inner chunks of a store divide a chunk into equal parts
    return min(1 << (rows.bit_length() - 1), factor * _BATCHED_MAX_ROWS)


def _default_sub_batches(n: int, size: int, sample_bytes: int) -> int:
    """Return how many sub-batches make a chunk: a power of two, so that a shard can be cut into equal parts."""
    largest = max(_CHUNK_BYTES // max(size * sample_bytes, 1), 1)
    wanted = math.ceil(n / (size * _MAX_CHUNKS))
    return min(1 << (largest.bit_length() - 1), 1 << (wanted - 1).bit_length())


def _misfit(chunk_size: int, size: int) -> str:
    below, above = chunk_size // size * size, -(-chunk_size // size) * size
    advice = f"use {below} or {above}" if below else f"use {above}"
    return f"chunk_size={chunk_size} is not a multiple of sub_batch_size={size}; {advice}, or leave chunk_size out"
