"""From a number of samples to sub-batches and chunks.

Pure index arithmetic. Sub-batch ``i`` holds samples ``[i * s, (i + 1) * s)``; a chunk is a run of whole sub-batches.
"""

from dataclasses import dataclass

from dasksim.errors import ArgumentError

__all__ = ["Cost", "Plan", "fixed_sub_batch", "plan_samples"]

# A sub-batch of plain functions: at most so long, so that its samples are told as done while they are made, and so many
# rows that what one costs by itself, about 0.1 ms, is little beside them.
_SUB_BATCH_SECONDS = 0.25
_PLAIN_ROWS = 1 << 12

# Rows of a sub-batch on which values depend, and which is the same on any machine therefore.
# Unbatched: what one costs by itself is a tenth of 512 rows of 3 microseconds.
# Batched: large enough that NumPy's overhead a call is lost, small enough that temporaries stay in a core's cache.
_UNBATCHED_ROWS = 512
_BATCHED_MAX_ROWS = 1 << 16

_SUB_BATCH_BYTES = 1 << 20

# A GPU of some hundred thousand threads needs as many rows to be busy, and a kernel's start is cheap only among many.
_GPU_FACTOR = 16

# Bytes of a chunk at most, all its variables together.
_CHUNK_BYTES = 1 << 25

# Batched functions, of which a probe does not tell how long they take: a small dataset is cut to 16 to 32 chunks, so
# that workers have something to share.
_MAX_CHUNKS = 32

# Plain functions: seconds of work in a chunk, up to twice as many. At least, for all workers to be busy soon and little
# to be lost; at most, in runs that would otherwise be cut into more chunks than the third number.
_CHUNK_SECONDS = 2.0, 30.0
_MANY_CHUNKS = 1024

# Seconds of a sample at least: a probe of one cannot tell less, and sizes of light simulators are always the same.
_LEAST_SECONDS = 60e-6

# Chunks of a dataset at most: each is an entry of a Dask graph, and two files or more of a store.
_LARGEST_N_CHUNKS = 10_000_000


@dataclass(frozen=True)
class Cost:
    """What one sample takes, as far as sizes follow from it.

    Parameters
    ----------
    n_bytes
        Bytes of a sample.
    seconds
        Seconds that its plain functions took in a probe.
    is_batched
        Whether all stages are batched.
    is_by_cell
        Whether no value depends on sub-batches.
    on_gpu
        Whether stages run on a GPU.
    """

    n_bytes: int
    seconds: float = 0.0
    is_batched: bool = False
    is_by_cell: bool = False
    on_gpu: bool = False


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
        Samples in a sub-batch.
    chunk_size
        Samples in a chunk, a multiple of ``sub_batch_size``; may be more than there are.
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
    cost: Cost,
    *,
    seed: int,
    sub_batch_size: int | None = None,
    chunk_size: int | None = None,
) -> Plan:
    """Cut ``shape[0]`` samples into sub-batches and chunks.

    Every sample belongs to exactly one sub-batch, and every sub-batch to exactly one chunk. Where values depend on
    sub-batches, their default size is a fixed function of bytes, batching and device, and of ``shape[0]`` below it.

    Raises
    ------
    ArgumentError
        If the chunk size is no multiple of the sub-batch size, or makes more chunks than can be kept count of.
    """
    n = shape[0]
    if cost.is_by_cell:
        size = sub_batch_size or _plain_sub_batch(cost, chunk_size)
    else:
        size = sub_batch_size or min(n, fixed_sub_batch(cost.n_bytes, cost.is_batched, cost.on_gpu))
    if chunk_size is None:
        chunk = size * _default_sub_batches(n, size, cost)
    elif chunk_size < n and chunk_size % size:
        raise ArgumentError(_misfit(chunk_size, size))
    else:
        # one beyond the end need not be a multiple of that of sub-batches
        chunk = max(chunk_size // size, -(-min(n, chunk_size) // size)) * size
    if n > chunk * _LARGEST_N_CHUNKS:
        raise ArgumentError(
            f"chunks of {chunk} samples cut {n} samples into more than {_LARGEST_N_CHUNKS:,} chunks; give a chunk_size "
            f"of at least {-(-n // (_LARGEST_N_CHUNKS * size)) * size}"
        )
    return Plan(n, shape[1:], seed, size, chunk)


def fixed_sub_batch(sample_bytes: int, is_batched: bool, on_gpu: bool = False) -> int:
    """Return the rows of a sub-batch on which values depend."""
    if not is_batched:
        return _UNBATCHED_ROWS
    factor = _GPU_FACTOR if on_gpu else 1
    return _power_below(min(factor * _SUB_BATCH_BYTES // max(sample_bytes, 1), factor * _BATCHED_MAX_ROWS))


def _plain_sub_batch(cost: Cost, chunk_size: int | None) -> int:
    """Return the rows of a sub-batch on which no value depends."""
    seconds = max(cost.seconds, _LEAST_SECONDS)
    rows = _power_below(min(_PLAIN_ROWS, _SUB_BATCH_BYTES // max(cost.n_bytes, 1), int(_SUB_BATCH_SECONDS / seconds)))
    if chunk_size is None:
        return rows
    # the largest that divides the chunk
    n_parts = next(n for n in range(-(-chunk_size // rows), chunk_size + 1) if chunk_size % n == 0)
    return chunk_size // n_parts


def _default_sub_batches(n: int, size: int, cost: Cost) -> int:
    """Return how many sub-batches make a chunk: a power of two, so that a shard can be cut into equal parts.

    The chunk of a small dataset is as large as that of a larger one, which it may be extended to.
    """
    if cost.is_batched:
        rows = max(-(-n // _MAX_CHUNKS), fixed_sub_batch(cost.n_bytes, True, cost.on_gpu))
    else:
        least, most = (int(seconds / max(cost.seconds, _LEAST_SECONDS)) for seconds in _CHUNK_SECONDS)
        rows = max(min(-(-n // _MANY_CHUNKS), most), least)
    wanted = max(-(-rows // size), 1)
    return min(_power_below(_CHUNK_BYTES // max(size * cost.n_bytes, 1)), 1 << (wanted - 1).bit_length())


def _power_below(n: int) -> int:
    """Return the largest power of two that is at most n, or 1."""
    return 1 << (max(n, 1).bit_length() - 1)


def _misfit(chunk_size: int, size: int) -> str:
    below, above = chunk_size // size * size, -(-chunk_size // size) * size
    advice = f"use {below} or {above}" if below else f"use {above}"
    return f"chunk_size={chunk_size} is not a multiple of sub_batch_size={size}; {advice}, or leave chunk_size out"
